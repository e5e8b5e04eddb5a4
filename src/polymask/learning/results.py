"""What a run reports: the accuracy matrix, its metrics, the drift of finished tasks, bytes and seconds."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymask.learning.figures.accuracy import fill
from polymask.learning.folder import read_results
from polymask.method.contract import Method
from polymask.report.measured import Measured, Rows, read_rows
from polymask.report.metrics import as_json, summary


class Forgot(RuntimeError):  # noqa: N818 - the name says what is wrong
    """A method that promises exactness changed the logits of a finished task."""


WHOLE = 256
"""Tasks up to which a report holds the whole matrix; ``accuracy.csv`` holds what was measured of any number."""


@dataclass
class Results:
    """The figures of one run, growing row by row.

    Args:
        tasks: the names, in order of learning.
        rows: ``rows[i][j]``: the metric on task ``j`` after task ``i`` was learned, where it was measured.
        higher_is_better: whether a larger metric is better.
        proves: whether the method is exact, so that a measured entry stands for all later rows.
        drift: the largest change of a logit of each finished task, on the probe, from its end to the end of the run.
        seconds: wall time of each task, its training alone.
        capacity: task -> how far the network was taken after it, of methods that can run out of it.
        removed: the tasks that were learned once and removed since; there are no figures of them.
        warnings: task -> what was said of it, with "task", "kind", "text" and figures.
        rounding: task -> "bits" an entry of its own tensors, and the validation metric "before" and "after" rounding.
        identities: what is scored where nobody names the tasks, of a run with such a scenario.
    """

    tasks: list[str]
    rows: Rows = field(default_factory=dict)
    higher_is_better: bool = True
    proves: bool = False
    drift: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    capacity: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    removed: Sequence[str] = ()
    warnings: dict[str, dict[str, Any]] = field(default_factory=dict)
    rounding: dict[str, dict[str, Any]] = field(default_factory=dict)
    identities: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._latest = {on: entry for row in self.rows.values() for on, entry in row.items()}

    def add(self, after: str, row: Mapping[str, Measured]) -> None:
        """Take in what was measured after a task."""
        self.rows[after] = dict(row)
        self._latest |= row

    def stands(self, task: str, setting: str) -> bool:
        """Whether what was measured of a task earlier stands: the method is exact, and nothing else changed."""
        return self.proves and task in self._latest and self._latest[task].setting == setting

    def as_json(self, about: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Everything, for ``results.json``; what is not a finite number is null there.

        "split" names the part of the data that scores are of, "test" or "validation", and is "mixed" where "splits",
        task by task, says one of some and another of others; null: nobody wrote it down.
        "source" says of every entry of "accuracy" whether it was "measured" or is "proved"; of more than ``WHOLE``
        tasks both are null, and the diagonal and the last row stand for them.
        """
        still = {task for task, change in self.drift.items() if change == 0}
        values, measured = fill(self.tasks, self.rows, self.proves, still)
        places = [place for place, task in enumerate(self.tasks) if task in self.rows]
        whole = len(self.tasks) <= WHOLE
        drift = {task: as_json(value) for task, value in self.drift.items()}
        return {
            **about,
            "tasks": self.tasks,
            "finished": [self.tasks[place] for place in places],
            "accuracy": [list(map(as_json, row)) for row in values.tolist()] if whole else None,
            "source": _sources(values, measured) if whole else None,
            "settings": [
                self.rows[task][task].setting if task in self.rows.get(task, {}) else "" for task in self.tasks
            ],
            **self._splits(),
            "accuracy_when_learned": list(map(as_json, values.diagonal().tolist())),
            "accuracy_at_the_end": list(map(as_json, values[places[-1]].tolist())) if places else [],
            **self._figures(values[np.ix_(places, places)]),
            **self._also(values[places[-1]] if places else np.full(len(self.tasks), np.nan)),
            "max_logit_drift": as_json(max(self.drift.values(), default=math.nan)),
            "logit_drift": drift,
            "bytes": _in_order(sizes, self.tasks),
            "seconds": sum(self.seconds.values()),
            "seconds_per_task": self.seconds,
            **({} if self.higher_is_better else {"higher_is_better": False}),
            **({"capacity": self.capacity} if self.capacity else {}),
            **({"removed": list(self.removed)} if self.removed else {}),
            **({"rounding": self.rounding} if self.rounding else {}),
            **({"identities": self.identities} if self.identities else {}),
            "warnings": [self.warnings[task] for task in self.tasks if task in self.warnings],
        }

    def _also(self, last: NDArray[np.float64]) -> dict[str, Any]:
        """The metrics beside, at the end as far as the one that chooses is known there, and their means.

        Null where it is not; a mean also where that of a finished task is not. Nothing where there are none.
        """
        known = {task: self._latest[task].also for task, value in zip(self.tasks, last, strict=True) if value == value}
        found = {}
        for name in dict.fromkeys(name for one in known.values() for name in one):
            values = {task: one.get(name, math.nan) for task, one in known.items()}
            gap = any(task not in values for task in self.rows)
            found[name] = {
                "at_the_end": [as_json(values.get(task, math.nan)) for task in self.tasks],
                "average": None if gap else as_json(float(np.mean([*values.values()]))),
            }
        return {"also": found} if found else {}

    def _splits(self) -> dict[str, Any]:
        """The part of its data that each task's score is of, and the one word for all of them."""
        each = [self._latest[task].split or None if task in self._latest else None for task in self.tasks]
        known = {split for split in each if split is not None}
        return {"split": "mixed" if len(known) > 1 else next(iter(known), None), "splits": each}

    def _figures(self, known: NDArray[np.float64]) -> dict[str, float | None]:
        """The metrics; null where the lower triangle has gaps: a mean over what happens to be there is another one."""
        if not len(known) or not np.isfinite(known[np.tril_indices(len(known))]).all():
            return dict.fromkeys(("average_accuracy", "bwt_gem", "forgetting_chaudhry"))
        return summary(torch.from_numpy(known), self.higher_is_better)

    def only(self, learned: Collection[str], removed: Sequence[str]) -> Results:
        """The same, but rows and columns of these tasks alone, and nothing of those that were removed."""
        rows = {
            after: {on: value for on, value in row.items() if on in learned}
            for after, row in self.rows.items()
            if after in learned
        }
        seconds = {task: value for task, value in self.seconds.items() if task not in removed}
        capacity = {task: found for task, found in self.capacity.items() if task not in removed}
        said = {task: found for task, found in self.warnings.items() if task in learned}
        own = {task: found for task, found in self.rounding.items() if task in learned}
        return replace(
            self, rows=rows, seconds=seconds, capacity=capacity, removed=removed, warnings=said, rounding=own
        )

    @classmethod
    def from_json(cls, found: Mapping[str, Any], tasks: Sequence[str], higher_is_better: bool) -> Results:
        """Go on from an earlier ``results.json``; one without settings proves nothing."""
        names, rows = found["tasks"], {}
        marks = found.get("source") or [["measured"] * len(names)] * len(names)
        settings = found.get("settings") or [""] * len(names)
        also: dict[str, dict[str, float]] = {}
        for name, one in found.get("also", {}).items():
            ends = one["at_the_end"]
            # An older polymask listed the finished tasks alone.
            for on, value in zip(names if len(ends) == len(names) else found["finished"], ends, strict=False):
                also.setdefault(on, {}).update({} if value is None else {name: value})
        splits = [split or "" for split in found.get("splits") or [""] * len(names)]
        for after, row, source, setting in zip(names, found["accuracy"] or (), marks, settings, strict=False):
            entries = [entry for entry in zip(names, row, source, splits, strict=True) if entry[1] is not None]
            known = {
                on: Measured(value, split, setting, also=also.get(on, {}))
                for on, value, mark, split in entries
                if mark == "measured"
            }
            if known:
                rows[after] = known
        seconds, capacity = dict(found["seconds_per_task"]), found.get("capacity", {})
        said = {one["task"]: one for one in found.get("warnings", ())}
        found_of = {"seconds": seconds, "capacity": capacity, "warnings": said, "rounding": found.get("rounding", {})}
        return cls(list(tasks), rows, higher_is_better, **found_of)


def named_score(report: Mapping[str, Any]) -> str:
    """What a run's score is called: the metric, and "validation" before it where there was no test part.

    >>> named_score({"metric": "accuracy", "split": "validation"}), named_score({"metric": "accuracy"})
    ('validation accuracy', 'accuracy')
    """
    metric = str(report["metric"])
    return f"validation {metric}" if report.get("split") == "validation" else metric


def earlier_results(
    folder: Path | None, method: Method, tasks: Sequence[str], higher_is_better: bool, removed: Collection[str]
) -> Results:
    """The figures of the tasks that an earlier process finished, from ``accuracy.csv`` and ``results.json``.

    Nothing is left of a task that was removed, also if one of its name is learned again.

    Args:
        folder: the run's folder; None: there are none.
        method: the learner, with the finished tasks.
        tasks: the names of the tasks to be learned or learned already.
        higher_is_better: whether a larger metric is better.
        removed: the tasks that were removed and are not learned again.
    """
    found = {} if folder is None else read_results(folder)
    rows = {} if folder is None else read_rows(folder / "accuracy.csv")
    order = dict.fromkeys([*method.records, *tasks, *found.get("tasks", ())])
    names = [name for name in order if name not in removed]
    known = Results.from_json(found, names, higher_is_better) if found else Results(names)
    known = replace(known, rows=rows or known.rows, proves=method.exact is True, higher_is_better=higher_is_better)
    return known.only(method.records, list(removed))


def _sources(values: NDArray[np.float64], measured: NDArray[np.bool_]) -> list[list[str | None]]:
    """What every entry rests on: "measured", "proved", or null where nothing is known."""
    said = np.where(measured, "measured", np.where(np.isnan(values), "", "proved"))
    return [[word or None for word in row] for row in said.tolist()]


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
