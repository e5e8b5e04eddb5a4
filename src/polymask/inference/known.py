"""None of these? A threshold below which an answer is refused, from inputs that neither trained nor chose an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LEAST = 100
"""Held-out inputs below which nothing is refused."""


@dataclass(frozen=True)
class Calibration:
    """What held-out inputs of known tasks came to, and with it when an answer is refused.

    The threshold is the ``floor((n + 1) reject)``-th smallest of ``n`` values: a request that is exchangeable with
    those that were calibrated on is refused with a probability of at most ``reject`` (split conformal prediction; Vovk
    et al. 2005; Angelopoulos and Bates 2023). That holds over the tasks in the shares that they have here, not for
    each, and for the number of rows that are asked together. One calibration's own share scatters around ``reject``: at
    0.05 and 100 inputs by 0.02. So below ``LEAST`` inputs there is no threshold and ``known`` is None, as it is where
    ``n`` is too small for ``reject``.

    Args:
        way: how was asked.
        by: what told the right mask.
        rows: how many inputs were asked together.
        values: task -> what each of its requests came to, see ``certainty``.
        reject: the share of requests of known tasks that may be refused.

    Raises:
        ValueError: if ``reject`` is not between 0 and 1.

    >>> Calibration("one-shot", "entropy", 1, {"a": torch.arange(199.0)}).threshold
    9.0
    """

    way: str
    by: str
    rows: int
    values: Mapping[str, Tensor]
    reject: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.reject < 1:
            raise ValueError(f"expected to refuse a share between 0 and 1, found reject={self.reject}")

    @property
    def count(self) -> int:
        """How many requests it stands on; those that say nothing (a margin where there was one task) do not count."""
        return len(self._sorted())

    @property
    def threshold(self) -> float | None:
        """The smallest value of an answer that is not refused; None: there are too few to say."""
        values = self._sorted()
        # A product such as 100 * 0.05 may lie a hair below the whole number that it is.
        place = math.floor((len(values) + 1) * self.reject + 1e-9)
        return float(values[place - 1]) if len(values) * self.rows >= LEAST and place else None

    def known(self, values: Float[Tensor, " n"]) -> Bool[Tensor, " n"] | None:
        """Whether each answer is of one of the tasks; None where there is no threshold."""
        threshold = self.threshold
        return None if threshold is None else values.cpu() >= threshold

    def _sorted(self) -> Tensor:
        values = torch.cat([torch.zeros(0), *self.values.values()])
        return values[values.isfinite()].sort().values


def margin(scores: Float[Tensor, "n tasks"]) -> Float[Tensor, " n"]:
    """``T`` times the gap between the two largest of ``T`` scores; infinite where there is but one.

    >>> margin(torch.tensor([[0.5, 0.25, 0.0]]))
    tensor([0.7500])
    """
    if scores.shape[-1] < 2:
        return torch.full((len(scores),), torch.inf)
    first, second = scores.topk(2).values.unbind(-1)
    return scores.shape[-1] * (first - second)


def certainty(scores: Float[Tensor, "n tasks"], way: str) -> Float[Tensor, " n"]:
    """What an answer is accepted or refused by: its own score of "statistics", the margin of every other way."""
    return scores.max(-1).values if way == "statistics" else margin(scores)


def check_calibration(calibration: Any, way: str, by: str) -> None:
    """Raise a ``ValueError`` unless a calibration, if there is one, is of this way of asking."""
    if calibration is not None and (calibration.way, calibration.by) != (way, by):
        raise ValueError(
            f"expected a calibration of {way!r} by {by!r}, found one of {calibration.way!r} by {calibration.by!r}: "
            "calibrate this way of asking"
        )
