"""What a finished mask has changed, and what it would cost if it were entropy-coded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Flips:
    """How many entries of a mask are off their start of all ones, and what that costs.

    Args:
        weights: how many entries there are.
        flipped: how many of them are not 1.
        packed_bytes: at 1 bit an entry of a bool mask, 2 of a ternary one.
        coded_bytes: at the entropy of every layer, ``sum n H(p) / 8``: what no code of independent entries beats.
    """

    weights: int
    flipped: int
    packed_bytes: int
    coded_bytes: float

    @property
    def rate(self) -> float:
        """The flip rate, ``flipped / weights``."""
        return self.flipped / self.weights


def flips(masks: Mapping[str, Tensor]) -> dict[str, Flips]:
    """The flips of every layer's mask, and under "" of all together.

    Scores that start above the threshold make a mask of ones (Piggyback, Mallya et al. 2018), so what a task has
    learned is where it is not 1.

    Args:
        masks: name -> mask: bool, or int8 with -1, 0 and 1.

    Raises:
        ValueError: if there is no mask.

    >>> import torch
    >>> found = flips({"a": torch.tensor([True, True, True, False]), "b": torch.ones(4, dtype=torch.bool)})
    >>> found["a"].rate, found[""].rate, found["b"].coded_bytes, round(8 * found["a"].coded_bytes, 3)
    (0.25, 0.125, 0.0, 3.245)
    """
    if not masks:
        raise ValueError("expected at least one mask, found none")
    found = {name: _flips(mask) for name, mask in masks.items()}
    every = found.values()
    total = Flips(
        sum(one.weights for one in every),
        sum(one.flipped for one in every),
        sum(one.packed_bytes for one in every),
        sum(one.coded_bytes for one in every),
    )
    return {**found, "": total}


def _flips(mask: Tensor) -> Flips:
    n = mask.numel()
    counts = [int((mask == value).sum()) for value in (1, 0, -1)]
    entropy = -sum(count / n * math.log2(count / n) for count in counts if count)
    return Flips(n, n - counts[0], (1 if mask.dtype == torch.bool else 2) * math.ceil(n / 8), max(0.0, n * entropy / 8))
