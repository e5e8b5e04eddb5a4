"""Which tasks are worth asking? All of them compared in the features of one, before a few are asked in their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from polymask.inference.features import features_of
from polymask.inference.stacks import digest_of
from polymask.inference.statistics import Statistics
from polymask.task import TaskRecord

FEW = 8
"""How many tasks are asked."""
MANY = 2 * FEW
"""How many tasks there are at most of which a run asks all."""


@dataclass(frozen=True)
class Shortlist:
    """The tasks nearest to an input in what the network reads as *one* task: one forward pass, a distance a task.

    Args:
        reference: the task as which the network reads every input.
        statistics: task -> those of its inputs as the reference's head reads them, under the reference's record.
        count: how many tasks are asked for each input.

    Raises:
        ValueError: for a count below 1, or statistics of another record than the reference's.

    >>> draw = torch.Generator().manual_seed(0)
    >>> z, y = torch.randn(200, 4, generator=draw), torch.arange(200) % 2
    >>> known = {task: Statistics.fit(z + at, y, z + at, head="1") for task, at in (("a", 0), ("b", 9), ("c", 99))}
    >>> net = nn.Sequential(nn.Identity(), nn.Linear(4, 2))
    >>> Shortlist("a", known, 2).chosen(net, z[:2], ("a", "b", "c"), together=False)[0]
    tensor([[ True,  True, False],
            [ True,  True, False]])
    """

    reference: str
    statistics: Mapping[str, Statistics]
    count: int = FEW

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"expected to ask 1 task or more, found count={self.count}")
        if len({one.digest for one in self.statistics.values()}) > 1:
            raise ValueError("expected statistics that were measured under one record, found such of several")

    def fits(self, records: Mapping[str, TaskRecord]) -> bool:
        """Whether all tasks were measured under the reference's record as it is now."""
        if self.reference not in records or any(task not in self.statistics for task in records):
            return False
        return self.statistics[self.reference].digest == digest_of(records[self.reference])

    def chosen(
        self, network: nn.Module, x: Any, tasks: tuple[str, ...], together: bool
    ) -> tuple[Bool[Tensor, "rows tasks"], Float[Tensor, "rows tasks"]]:
        """Which tasks are asked for every input, and how near all of them are in the reference's features.

        Args:
            network: the network as the reference.
            x: a batch as it reads it.
            tasks: all tasks.
            together: whether the whole batch is of one task, and so is asked about by the same few.
        """
        features = features_of(network, self.statistics[self.reference].head, x)
        near = torch.stack([self.statistics[task].scores(features) for task in tasks], -1)
        ranked = near.mean(0, keepdim=True).expand_as(near) if together else near
        best = ranked.topk(min(self.count, len(tasks)), -1).indices
        return torch.zeros_like(near, dtype=torch.bool).scatter_(-1, best, True), near


def below(
    asked: Float[Tensor, "rows tasks"], chosen: Bool[Tensor, "rows tasks"], near: Float[Tensor, "rows tasks"]
) -> Tensor:
    """Scores of all tasks: of those that were asked as they are, of the others below, in the order of the shortlist."""
    least = asked.where(chosen, torch.inf).amin(-1, keepdim=True)
    return asked.where(chosen, least - 1 - (near.amax(-1, keepdim=True) - near))
