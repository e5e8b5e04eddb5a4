"""What a comparison says: a table for people, numbers for programs, and a row of raw numbers a seed and task."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polymask.disk import write_file
from polymask.learning.orders.robustness import Robust, as_csv, as_numbers, as_text, by_task
from polymask.learning.results import named_score
from polymask.report.table import human_bytes, latex, markdown, mean_std, table

Report = dict[str, Any]
Reports = dict[str, list[Report]]

RAW = ("method", "seed", "task", "place", "when_learned", "at_the_end", "logit_drift", "bytes", "seconds", "error")
"""The columns of ``runs.csv``; under several orders "order" comes behind the seed."""

FEW = 20
"""Tasks up to which the disparity of each is shown on a terminal; ``orders.csv`` has that of any number."""


def rows(reports: Reports, robust: Robust | None = None) -> list[dict[str, object]]:
    """The rows of the table: the metric after the last task over seeds, forgetting, bytes, cost and time.

    Under several orders these are of the first one, and beside them stands what the order changes.

    >>> run = {"metric": "accuracy", "average_accuracy": 0.5, "bwt_gem": 0.0, "max_logit_drift": 0.0, "seconds": 2.0}
    >>> rows({"hat": [{**run, "bytes": {"backbone": 4000, "per_task": [100, 300]}}]})[0]["bytes per task"]
    '200 B'
    """
    metric = _metric(reports)
    more = {} if robust is None else {method: as_text(robust.get(method)) for method in reports}
    return [{"method": method, **_as_text(runs, metric), **more.get(method, {})} for method, runs in reports.items()]


def numbers(reports: Reports, robust: Robust | None = None) -> list[dict[str, Any]]:
    """The same as numbers, for ``table.json``: mean, sample standard deviation and count of what varies.

    A mean is null where a run has no number: one over the runs that happen to be there is another mean.

    >>> runs = [{"metric": "accuracy", "average_accuracy": x} for x in (0.25, 0.75)]
    >>> numbers({"hat": runs})[0]["average_accuracy"]
    {'mean': 0.5, 'std': 0.3535533905932738, 'n': 2}
    """
    metric = _metric(reports)
    more = {} if robust is None else {method: as_numbers(robust.get(method)) for method in reports}
    return [
        {"method": method, "metric": metric, **_as_numbers(runs), **more.get(method, {})}
        for method, runs in reports.items()
    ]


def spread(values: Sequence[float | None]) -> dict[str, float | int | None]:
    """Mean, sample standard deviation (null for one value) and count.

    >>> spread([1.0]), spread([1.0, None])
    ({'mean': 1.0, 'std': None, 'n': 1}, {'mean': None, 'std': None, 'n': 1})
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    whole = bool(known) and len(known) == len(values)
    return {
        "mean": statistics.fmean(known) if whole else None,
        "std": statistics.stdev(known) if whole and len(known) > 1 else None,
        "n": len(known),
    }


def _metric(reports: Reports) -> str:
    return next((named_score(run) for runs in reports.values() for run in runs if "metric" in run), "metric")


def _as_numbers(runs: Sequence[Report]) -> dict[str, Any]:
    sizes = [run["bytes"] for run in runs if run.get("bytes")]
    over = ("average_accuracy", "bwt_gem", "max_logit_drift", "latency_ms", "seconds")
    found = {key: spread([run.get(key) for run in runs]) for key in over}
    names = dict.fromkeys(name for run in runs for name in run.get("also", {}))
    also = {name: spread(_others(runs, name)) for name in names}
    parameters = [run["parameters"] for run in runs if run.get("parameters") is not None]
    return {
        **found,
        **({"also": also} if also else {}),
        "max_logit_drift": _largest([run.get("max_logit_drift") for run in runs]),
        "bytes_per_task": spread([size for one in sizes for size in one["per_task"]]),
        "shared_bytes": sizes[0]["backbone"] if sizes else None,
        "parameters": parameters[0] if parameters else None,
    }


def _largest(values: Sequence[float | None]) -> float | None:
    """The largest; None where one is missing or not finite."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return max(known) if known and len(known) == len(values) else None


def _as_text(runs: Sequence[Report], metric: str) -> dict[str, object]:
    found = _as_numbers(runs)
    per_task, shared, drift = found["bytes_per_task"]["mean"], found["shared_bytes"], found["max_logit_drift"]

    def over(key: str, floatfmt: str) -> str:
        return mean_std([run.get(key) for run in runs], floatfmt)

    return {
        f"average {metric}": over("average_accuracy", ".4f"),
        **{f"average {name}": mean_std(_others(runs, name), ".4f") for name in found.get("also", {})},
        "bwt": over("bwt_gem", ".4f"),
        "max logit drift": None if drift is None else f"{drift:.3g}",
        "bytes per task": None if per_task is None else human_bytes(round(per_task)),
        "shared bytes": None if shared is None else human_bytes(shared),
        "parameters": None if found["parameters"] is None else f"{found['parameters']:,}",
        "latency, ms": over("latency_ms", ".2f"),
        "seconds": over("seconds", ".1f"),
    }


def _others(runs: Sequence[Report], name: str) -> list[float | None]:
    """The mean of a metric beside the one that chooses, in each run."""
    return [run.get("also", {}).get(name, {}).get("average") for run in runs]


def raw(reports: Reports, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """A row a method, seed and task, with the columns of ``RAW``; a run that failed has one row, with its error."""
    return [
        {"method": method, "seed": seed, **row}
        for method, runs in reports.items()
        for seed, run in zip(seeds, runs, strict=True)
        for row in _of_run(run)
    ]


def _of_run(run: Report) -> list[dict[str, Any]]:
    return [{"error": run["error"]}] if "error" in run else _of_tasks(run)


def bytes_added(report: Report) -> dict[str, int]:
    """Task -> the bytes that it added; of joint training every task has some, of other runs the finished ones do."""
    tasks, sizes = report.get("tasks", ()), (report.get("bytes") or {}).get("per_task", ())
    return dict(zip(tasks if len(tasks) == len(sizes) else report.get("finished", ()), sizes, strict=False))


def _of_tasks(run: Report) -> list[dict[str, Any]]:
    added = bytes_added(run)
    first, last = run.get("accuracy_when_learned", ()), run.get("accuracy_at_the_end", ())
    return [
        {
            "task": task,
            "place": place,
            "when_learned": first[place] if place < len(first) else None,
            "at_the_end": last[place] if place < len(last) else None,
            "logit_drift": run.get("logit_drift", {}).get(task),
            "bytes": added.get(task),
            "seconds": run.get("seconds_per_task", {}).get(task),
        }
        for place, task in enumerate(run.get("tasks", ()))
    ]


def write(out: Path, reports: Reports, seeds: Sequence[int]) -> None:
    """Write the table for people (Markdown, LaTeX) and for programs (JSON), and the raw numbers (CSV)."""
    _write_files(out, _tables(reports, seeds) | {"runs.csv": _as_csv(RAW, raw(reports, seeds))})


def write_orders(
    out: Path,
    reports: Reports,
    seeds: Sequence[int],
    robust: Robust,
    runs: Mapping[str, Mapping[tuple[int, int], Report]],
) -> None:
    """The same for a comparison under several orders, and ``orders.csv``, the final scores task by task.

    Args:
        out: the folder of the comparison.
        reports: of the first order, which the table is of.
        seeds: what it is averaged over.
        robust: what the order changes.
        runs: method -> the reports of all its runs by (order, seed).
    """
    every = [
        {"method": method, "seed": seed, "order": order, **row}
        for method, found in runs.items()
        for (order, seed), run in found.items()
        for row in _of_run(run)
    ]
    count = 1 + max(order for found in runs.values() for order, _ in found)
    files = {"runs.csv": _as_csv((*RAW[:2], "order", *RAW[2:]), every), "orders.csv": as_csv(robust, count)}
    _write_files(out, _tables(reports, seeds, robust) | files)


def _tables(reports: Reports, seeds: Sequence[int], robust: Robust | None = None) -> dict[str, str]:
    found = [{**row, "seeds": list(seeds)} for row in numbers(reports, robust)]
    return {
        "table.md": markdown(rows(reports, robust)) + "\n",
        "table.tex": latex(rows(reports, robust)) + "\n",
        "table.json": json.dumps(found, indent=2) + "\n",
    }


def _as_csv(columns: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _write_files(out: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        write_file(out / name, content.encode("utf-8", "replace"))


def as_table(reports: Reports, robust: Robust | None = None) -> str:
    """The table for a terminal; under several orders and of few tasks with a second one, the disparity of each."""
    each = by_task(robust or {})
    more = f"\n\nOPD of each task:\n{table(each, floatfmt='.4f')}" if 0 < len(each) <= FEW else ""
    return table(rows(reports, robust)) + more
