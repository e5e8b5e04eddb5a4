"""What a run reports: the accuracy matrix, its metrics, the drift of finished tasks, bytes and seconds."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from polymask.report.metrics import as_json, summary


class Forgot(RuntimeError):  # noqa: N818 - the name says what is wrong
    """A method that promises exactness changed the logits of a finished task."""


@dataclass
class Results:
    """The figures of one run, growing row by row.

    Args:
        tasks: the names, in order of learning.
        rows: ``rows[i][j]``: the metric on task ``j`` after task ``i`` was learned.
        higher_is_better: whether a larger metric is better.
        drift: the largest change of a logit of each finished task, on the probe, from its end to the end of the run.
        seconds: wall time of each task, its training alone.
        capacity: task -> how far the network was taken after it, of methods that can run out of it.
        removed: the tasks that were learned once and removed since; there are no figures of them.
    """

    tasks: list[str]
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    higher_is_better: bool = True
    drift: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    capacity: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    removed: Sequence[str] = ()

    @property
    def matrix(self) -> list[list[float | None]]:
        """``R[i][j]``, null where it was not measured."""
        rows = [[self.rows.get(after, {}).get(on) for on in self.tasks] for after in self.tasks]
        return [[None if value is None else as_json(value) for value in row] for row in rows]

    def as_json(self, about: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Everything, for ``results.json``; what is not a finite number is null there."""
        done = [task for task in self.tasks if task in self.rows]
        drift = {task: as_json(value) for task, value in self.drift.items()}
        return {
            **about,
            "tasks": self.tasks,
            "finished": done,
            "accuracy": self.matrix,
            **self._figures(done),
            "max_logit_drift": as_json(max(self.drift.values(), default=math.nan)),
            "logit_drift": drift,
            "bytes": _in_order(sizes, self.tasks),
            "seconds": sum(self.seconds.values()),
            "seconds_per_task": self.seconds,
            **({"capacity": self.capacity} if self.capacity else {}),
            **({"removed": list(self.removed)} if self.removed else {}),
        }

    def _figures(self, done: Sequence[str]) -> dict[str, float | None]:
        """The metrics; null where the lower triangle has gaps: a mean over what happens to be there is another one."""
        known = [[self.rows[after].get(on) for on in done] for after in done]
        gaps = any(value is None or not math.isfinite(value) for i, row in enumerate(known) for value in row[: i + 1])
        if gaps or not done:
            return dict.fromkeys(("average_accuracy", "bwt_gem", "forgetting_chaudhry"))
        return summary(known, self.higher_is_better)

    def only(self, learned: Collection[str], removed: Sequence[str]) -> Results:
        """The same, but rows and columns of these tasks alone, and nothing of those that were removed."""
        rows = {
            after: {on: value for on, value in row.items() if on in learned}
            for after, row in self.rows.items()
            if after in learned
        }
        seconds = {task: value for task, value in self.seconds.items() if task not in removed}
        capacity = {task: found for task, found in self.capacity.items() if task not in removed}
        return replace(self, rows=rows, seconds=seconds, capacity=capacity, removed=removed)

    @classmethod
    def from_json(cls, found: Mapping[str, Any], tasks: Sequence[str], higher_is_better: bool) -> Results:
        """Go on from an earlier ``results.json``."""
        rows = {
            after: {on: value for on, value in zip(found["tasks"], row, strict=True) if value is not None}
            for after, row in zip(found["tasks"], found["accuracy"], strict=True)
            if any(value is not None for value in row)
        }
        return cls(list(tasks), rows, higher_is_better, {}, dict(found["seconds_per_task"]), found.get("capacity", {}))


def _in_order(sizes: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """A bank's bytes on disk, those of the tasks as a list in the tasks' order."""
    added = sizes.get("per_task", {})
    listed = {"per_task": [added[task] for task in tasks if task in added]} if sizes else {}
    return {**sizes, **listed}


def largest_change(was: Tensor, now: Tensor) -> float:
    """The largest absolute difference of two batches of logits; infinite where one of them is not finite alone.

    >>> largest_change(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]))
    0.5
    """
    if torch.equal(was, now):
        return 0.0
    change = (was.double() - now.double()).abs().max().item()
    return change if math.isfinite(change) else math.inf


def check_exact(exact: bool | float | None, drift: Mapping[str, float]) -> None:
    """Fail loudly if a method that promises exactness drifted.

    Args:
        exact: what the method promises, see ``Meta``.
        drift: task -> the largest change of a logit, of the tasks whose probe is stable.

    Raises:
        Forgot: naming the tasks and by how much.
    """
    if exact is None:
        return
    allowed = 0.0 if exact is True else float(exact)
    moved = {task: value for task, value in drift.items() if not value <= allowed}
    if moved:
        listed = ", ".join(f"{task} by {value:.3g}" for task, value in moved.items())
        raise Forgot(
            f"expected the logits of finished tasks to move by at most {allowed}, found {listed}: a tensor that they "
            "read is not protected; `polymask verify` names it"
        )
