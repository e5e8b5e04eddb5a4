"""Holding out part of the examples, class by class, by a keyed draw."""

from __future__ import annotations

import torch
from torch import Tensor


def held_out(y: Tensor, fraction: float, draws: torch.Generator, name: str) -> tuple[Tensor, Tensor]:
    """Rows that stay and rows that are held out, each in order; class by class if y is int64 labels.

    Args:
        y: labels or targets, one row an example.
        fraction: how much to hold out.
        draws: where the choice comes from.
        name: of the task, for the message.

    Raises:
        ValueError: the fraction is not between 0 and 1, or there is but one example.

    >>> from polymask.parts.seeds import generator
    >>> [len(rows) for rows in held_out(torch.tensor([0] * 30 + [1] * 10), 0.1, generator(0), "toy")]
    [36, 4]
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction to hold out must lie between 0 and 1, found {fraction}")
    if len(y) < 2:
        raise ValueError(f"task {name!r} has one example, too few to hold one out: give the part itself")
    drawn = torch.randperm(len(y), generator=draws)
    classes = y.unique() if y.dtype == torch.int64 and y.ndim == 1 else None
    groups = [drawn] if classes is None else [drawn[y[drawn] == label] for label in classes]
    # a class keeps at least one example to learn from, and some class gives at least one away
    chosen = torch.cat([group[: min(round(fraction * len(group)), len(group) - 1)] for group in groups])
    chosen = chosen if len(chosen) else max(groups, key=len)[:1]
    held = torch.zeros(len(y), dtype=torch.bool)
    held[chosen] = True
    return (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)
