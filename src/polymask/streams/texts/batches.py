"""Which texts come together: such of about one length, so that a batch holds little padding."""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW = 50
"""Batches whose texts are sorted among themselves: little padding, and every epoch still has other batches."""


def by_length(order: Tensor, lengths: Tensor, batch_size: int, draws: torch.Generator) -> Tensor:
    """An order in which the texts of a batch are about as long, and batches of all lengths follow each other.

    Args:
        order: the places of all texts (N,), at random.
        lengths: how many tokens each has (N,).
        batch_size: texts in a batch.
        draws: where the order of batches comes from.

    >>> order = by_length(torch.arange(4), torch.tensor([9, 2, 9, 2]), 2, torch.Generator().manual_seed(0))
    >>> sorted(order.view(2, 2).tolist())
    [[0, 2], [1, 3]]
    """
    windows = order.split(WINDOW * batch_size)
    placed = torch.cat([window[lengths[window].argsort(stable=True)] for window in windows])
    whole = len(placed) // batch_size
    batches = placed[: whole * batch_size].view(whole, batch_size)
    return torch.cat([batches[torch.randperm(whole, generator=draws)].flatten(), placed[whole * batch_size :]])
