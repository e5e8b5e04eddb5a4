"""What a run's folder holds, read as far as it is whole: what is missing or damaged becomes a sentence."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from polymask.bank.entry import Entry
from polymask.bank.head import read_head
from polymask.bank.reader import Reader
from polymask.learning.figures.accuracy import fill
from polymask.learning.folder import read_config, read_results
from polymask.learning.options import JOINT
from polymask.learning.results import named_score
from polymask.pages.removed import results_without, rows_without
from polymask.report.measured import Rows, read_rows

Numbers = NDArray[np.float64]
Found = TypeVar("Found")
KINDS: Mapping[str, type] = {
    **dict.fromkeys(("tasks", "finished", "accuracy", "source", "settings"), list),
    **dict.fromkeys(("accuracy_when_learned", "accuracy_at_the_end"), list),
    **dict.fromkeys(("bytes", "logit_drift", "stream"), dict),
}
"""Entries of ``results.json`` -> what they are."""

REFERENCES = ("linear_probe", "independent", "joint")
"""The runs beside a run whose accuracies are drawn as lines."""


class Epoch(NamedTuple):
    """A row of ``epochs.csv``."""

    task: str
    phase: str
    epoch: int
    loss: float
    val: float


@dataclass(frozen=True)
class Run:
    """A run, or a bank alone.

    Args:
        folder: where it lies.
        tasks: the names, in order of learning.
        values: ``values[i, j]``: the metric on task ``j`` after task ``i``, NaN where nothing is known; (T, T).
        proved: which of them are proved and not measured.
        results: what ``results.json`` says; empty if nothing.
        config: what ``config.yaml`` says.
        epochs: the rows of ``epochs.csv``.
        reader: its bank, if there is one.
        entries: the entries of the bank's whole records.
        removed: the tasks that were taken out; nothing else here speaks of them.
        problems: what could not be read, and why.
    """

    folder: Path
    tasks: list[str]
    values: Numbers
    proved: NDArray[np.bool_]
    results: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    epochs: Sequence[Epoch] = ()
    reader: Reader | None = None
    entries: Mapping[str, Entry] = field(default_factory=dict)
    removed: Sequence[str] = ()
    problems: Sequence[str] = ()

    @property
    def method(self) -> str:
        """The name of the method."""
        own = self.reader.head.about["method"] if self.reader else "unknown method"
        return str(self.results.get("method") or self.config.get("method") or own)

    @property
    def metric(self) -> str:
        """The name of the metric."""
        return named_score({"metric": "accuracy", **self.results})

    @property
    def counts_right(self) -> bool:
        """Whether the metric is a share of right answers, so that chance is known."""
        return str(self.results.get("metric", "accuracy")) == "accuracy"

    @property
    def finished(self) -> list[int]:
        """The places of the tasks that were learned."""
        known = {*self.results.get("finished", ()), *(self.reader.head.records if self.reader else ())}
        return [
            place for place, task in enumerate(self.tasks) if task in known or np.isfinite(self.values[place, place])
        ]

    @property
    def ended(self) -> bool:
        """Whether all its tasks were learned."""
        return bool(self.results) and (self.method == JOINT or len(self.finished) == len(self.tasks))

    @property
    def when_learned(self) -> Numbers:
        """The metric on every task right after it was learned, (T,)."""
        return self.values.diagonal().copy()

    @property
    def at_the_end(self) -> Numbers:
        """The metric on every task after the last one, (T,)."""
        last = self.finished[-1] if self.finished else -1
        return self.values[last].copy() if len(self.tasks) else np.zeros(0)

    @property
    def so_far(self) -> Numbers:
        """After every task the mean over those learned; NaN where an entry of it is missing, (T,)."""
        return np.array([row[: place + 1].mean() for place, row in enumerate(self.values)], np.float64)

    @property
    def chance(self) -> Numbers:
        """What guessing gives on every task, one over its outputs; NaN where these or the metric are others, (T,)."""
        outputs = {task: entry["meta"]["outputs"] for task, entry in self.entries.items()}
        stream = self.results.get("stream") or {}
        groups = (stream.get("protocol") or {}).get("groups") or ()
        if not outputs and len(groups) == len(self.tasks):
            # A protocol lists them as the stream does, a run in the order of learning.
            order = stream.get("order") or self.config.get("order") or range(len(groups))
            outputs = {task: len(groups[place]) for task, place in zip(self.tasks, order, strict=True)}
        found = [1 / outputs[task] if outputs.get(task) else np.nan for task in self.tasks]
        return np.array(found if self.counts_right else [np.nan] * len(found), np.float64)


def read_run(folder: Path) -> Run:
    """Read a run's folder, or a bank.

    Raises:
        FileNotFoundError: if there is nothing of a run in it.
    """
    bank = next((one for one in (folder / "bank", folder) if (one / "bank.json").exists()), None)
    files = [name for name in ("results.json", "accuracy.csv", "config.yaml") if (folder / name).exists()]
    if bank is None and not files:
        raise FileNotFoundError(
            f"expected the folder of a run, of a comparison or of a bank, found none of results.json, accuracy.csv, "
            f"config.yaml and bank.json in {folder}"
        )
    problems: list[str] = []

    def whole(read: Callable[[], Found], other: Found, what: str) -> Found:
        return _or_say(read, other, what, problems)

    nothing: dict[str, Any] = {}
    no_rows: Rows = {}
    no_epochs: list[Epoch] = []
    results = whole(lambda: read_results(folder), nothing, "results.json")
    results = {key: value for key, value in results.items() if _is_as_written(key, value, problems)}
    config = whole(lambda: _read_config(folder / "config.yaml"), nothing, "config.yaml")
    rows = whole(lambda: read_rows(folder / "accuracy.csv"), no_rows, "accuracy.csv")
    epochs = whole(lambda: _read_epochs(folder / "epochs.csv"), no_epochs, "epochs.csv")
    reader = None if bank is None else whole(lambda: Reader(bank, read_head(bank)), None, "the bank")
    gone = tuple(reader.head.removed) if reader else ()
    results, rows = results_without(results, gone), rows_without(rows, gone)
    entries, damaged = reader.readable() if reader else ({}, {})
    problems += [str(error) for error in list(damaged.values())[:5]]
    learned = list(reader.head.records) if reader else []
    tasks = list(dict.fromkeys([*map(str, results.get("tasks") or ()), *learned, *rows]))
    proves = bool(entries) and all(entry["meta"]["exact"] is True for entry in entries.values())
    values, measured = fill(tasks, rows, proves)
    proved = np.isfinite(values) & ~measured
    matrix = whole(lambda: _matrix(results, tasks), None, "results.json")
    # While a run goes on, and after it was killed, its rows are newer than its report.
    if matrix is not None and len(rows) <= len(results.get("finished", ())):
        values, proved = matrix
    elif not rows:
        values = whole(lambda: _ends(results, values), values, "results.json")
    epochs = [row for row in epochs if row.task not in gone]
    return Run(folder, tasks, values, proved, results, config, epochs, reader, entries, gone, problems)


def references(run: Run) -> dict[str, Numbers]:
    """The final metric on every task of the runs beside this one that it is measured against, (T,) each."""
    found, folder = {}, run.folder.resolve()
    order = "".join(folder.name.partition("-order-")[1:])
    for name in REFERENCES:
        place = folder.parent / f"{name}-{run.results.get('seed')}{order}"
        if name != run.method and (place / "results.json").exists():
            other = read_run(place)
            if other.tasks == run.tasks and other.metric == run.metric:
                found[name] = other.at_the_end
    return {name: values for name, values in found.items() if np.isfinite(values).any()}


def _or_say(read: Callable[[], Found], other: Found, what: str, problems: list[str]) -> Found:
    """What was read; of what is damaged a sentence is noted and the other value given."""
    try:
        return read()
    except (ValueError, KeyError, TypeError, LookupError, OSError, csv.Error, RecursionError) as error:
        problems.append(" ".join(f"{what} could not be read: {error}".split()))
        return other


def _is_as_written(key: str, value: Any, problems: list[str]) -> bool:
    """Whether an entry of ``results.json`` is there and of the kind that a run writes; else a sentence is noted."""
    kind = KINDS.get(key)
    inside = value if isinstance(value, dict) and key == "bytes" else {}
    whole = kind is None or value is None or isinstance(value, kind)
    whole = whole and isinstance(inside.get("per_task", []), list) and isinstance(inside.get("backbone", 0), int)
    if not whole:
        problems.append(f"results.json: expected {key} as a run writes it, found a {type(value).__name__}")
    return whole and (kind is None or value is not None)


def _read_config(path: Path) -> dict[str, Any]:
    return read_config(path) if path.exists() else {}


def _read_epochs(path: Path) -> list[Epoch]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = [row for row in csv.reader(file) if len(row) == 6 and row[2].isdecimal()]
    return [Epoch(row[0], row[1], int(row[2]), float(row[3]), float(row[4])) for row in rows]


def _matrix(results: Mapping[str, Any], tasks: Sequence[str]) -> tuple[Numbers, NDArray[np.bool_]] | None:
    """The matrix that ``results.json`` holds whole, and which entries it says are proved."""
    if not results.get("accuracy"):
        return None
    count = len(results["tasks"])
    values = np.full((len(tasks), len(tasks)), np.nan)
    values[:count, :count] = np.array(results["accuracy"], np.float64).reshape(count, count)
    proved = np.zeros(values.shape, bool)
    if results.get("source"):
        proved[:count, :count] = np.array(results["source"], object).reshape(count, count) == "proved"
    return values, proved


def _ends(results: Mapping[str, Any], values: Numbers) -> Numbers:
    """The diagonal and the last row, which ``results.json`` holds of any number of tasks."""
    values, count = values.copy(), len(results.get("tasks", ()))
    first, last = results.get("accuracy_when_learned"), results.get("accuracy_at_the_end")
    if first and last:
        values[range(count), range(count)] = np.array(first, np.float64)
        values[count - 1, :count] = np.array(last, np.float64)
    return values
