"""A run's figures without the tasks that were taken out since they were written."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from polymask.report.measured import Rows
from polymask.report.metrics import summary

BY_TASK = ("logit_drift", "seconds_per_task")
SQUARE = ("accuracy", "source")
PER_TASK = ("settings", "splits", "accuracy_when_learned", "accuracy_at_the_end")


def rows_without(rows: Rows, gone: Collection[str]) -> Rows:
    """The rows that were measured after tasks that are still there, on tasks that are still there."""
    kept = {after: row for after, row in rows.items() if after not in gone}
    return {after: {on: entry for on, entry in row.items() if on not in gone} for after, row in kept.items()}


def results_without(results: Mapping[str, Any], gone: Collection[str]) -> dict[str, Any]:
    """What ``results.json`` says of the tasks that are still there; the average is taken anew over them.

    Args:
        results: of an exact method or not: the row after the last task that is left stands for the end.
        gone: the tasks that were removed.

    >>> said = {
    ...     "tasks": ["a", "b"],
    ...     "finished": ["a", "b"],
    ...     "accuracy": [[0.5, None], [0.5, 0.25]],
    ...     "average_accuracy": 0.375,
    ... }
    >>> results_without(said, ["b"])["average_accuracy"], results_without(said, ["b"])["accuracy"]
    (0.5, [[0.5]])
    """
    tasks, finished = list(results.get("tasks") or ()), list(results.get("finished") or ())
    kept = [place for place, task in enumerate(tasks) if task not in gone]
    if len(kept) == len(tasks):
        return dict(results)
    left: dict[str, Any] = {**results, "tasks": [tasks[i] for i in kept]}
    left["finished"] = [task for task in finished if task not in gone]
    for key in (*SQUARE, *PER_TASK):
        found = results.get(key)
        if isinstance(found, list) and len(found) == len(tasks):
            rows = [found[i] for i in kept]
            left[key] = [[row[i] for i in kept] for row in rows] if key in SQUARE else rows
    for key in BY_TASK:
        if isinstance(results.get(key), dict):
            left[key] = {task: value for task, value in results[key].items() if task not in gone}
    sizes = results.get("bytes") or {}
    if len(sizes.get("per_task", ())) == len(finished):
        per_task = [size for task, size in zip(finished, sizes["per_task"], strict=True) if task not in gone]
        left["bytes"] = {**sizes, "per_task": per_task}
    return {**left, **_over(left)}


def _over(left: Mapping[str, Any]) -> dict[str, Any]:
    """The figures over all tasks, of those that are left."""
    matrix, drift = left.get("accuracy") or [], [x for x in (left.get("logit_drift") or {}).values() if x is not None]
    last = matrix[len(left["finished"]) - 1] if matrix and left["finished"] else []
    known = [value for value in last if value is not None]
    square = [row[: len(left["finished"])] for row in matrix[: len(left["finished"])]]
    whole = all(value is not None for place, row in enumerate(square) for value in row[: place + 1])
    again = summary(square, bool(left.get("higher_is_better", True))) if square and whole else {}
    return {
        **{key: again.get(key) for key in ("bwt_gem", "forgetting_chaudhry") if key in left},
        "average_accuracy": sum(known) / len(known) if known and len(known) == len(last) else None,
        "max_logit_drift": max(drift, default=None),
    }
