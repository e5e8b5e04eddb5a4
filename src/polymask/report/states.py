"""TFM's three states of a unit: from widths to states, to two bits a unit, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MASKED, FORWARD_ONLY, NORMAL = 0, 1, 3
"""Bit 0: the unit is read forward; bit 1: its weights learn (Masana et al. 2021)."""


def states(before: int, width: int, units: int) -> Tensor:
    """The states of a layer's units for a task: forward-only, then normal, then masked; uint8, shape (units,).

    Args:
        before: the layer's width for the task before; 0 for the first task.
        width: its width for the task.
        units: its width now.

    Raises:
        ValueError: unless ``before <= width <= units``.

    >>> states(2, 3, 5)
    tensor([1, 1, 3, 0, 0], dtype=torch.uint8)
    """
    if not 0 <= before <= width <= units:
        raise ValueError(f"expected widths in their order, found {before}, {width} and {units}")
    unit = torch.arange(units)
    return torch.where(unit < before, FORWARD_ONLY, torch.where(unit < width, NORMAL, MASKED)).to(torch.uint8)


def widths(found: Tensor) -> tuple[int, int, int]:
    """The arguments of ``states``, from what it gave: what a record keeps in place of two bits a unit.

    >>> widths(states(2, 3, 5))
    (2, 3, 5)
    """
    return int((found == FORWARD_ONLY).sum()), int((found != MASKED).sum()), len(found)


def encode(found: Tensor) -> Tensor:
    """States at two bits a unit, four units a byte, the first in the lowest bits.

    >>> encode(torch.tensor([1, 1, 3, 0, 3], dtype=torch.uint8))
    tensor([53,  3], dtype=torch.uint8)
    """
    padded = torch.zeros(-(-len(found) // 4) * 4, dtype=torch.uint8)
    padded[: len(found)] = found.cpu()
    places = torch.tensor([1, 4, 16, 64], dtype=torch.uint8)
    return (padded.view(-1, 4) * places).sum(1, dtype=torch.uint8)


def decode(payload: Tensor, units: int) -> Tensor:
    """Back from ``encode``.

    >>> decode(torch.tensor([53, 3], dtype=torch.uint8), 5)
    tensor([1, 1, 3, 0, 3], dtype=torch.uint8)
    """
    return ((payload[:, None] >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8)) & 3).flatten()[:units]


def bits(layers: Sequence[int]) -> int:
    """What the states of a task take at two bits a unit.

    AlexNet's, against about 57 million bits of a mask on its weights (Masana et al. 2021):

    >>> bits([64, 192, 384, 256, 256, 4096, 4096])
    18688
    """
    return 2 * sum(layers)
