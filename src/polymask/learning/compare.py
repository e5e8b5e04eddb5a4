"""Several methods and seeds on one stream: a folder for each run, one table for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from polymask.bank.store import write_file
from polymask.learning.by_name import can_start_from, run_named
from polymask.learning.learner import method_class
from polymask.learning.loop import NotFinite
from polymask.learning.options import JOINT, folder_name
from polymask.learning.results import Forgot, named_score
from polymask.report.table import human_bytes, markdown, mean_std, table

Report = dict[str, Any]
Reports = dict[str, list[Report]]


def compare(
    methods: Sequence[str],
    seeds: Sequence[int],
    out: str | Path,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    weights: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    **same: Any,
) -> Reports:
    """Run every method with every seed; runs that are finished are not run again.

    Args:
        methods: names of methods, or package.module:Class for one's own; "joint" is joint training on the whole stream,
            one network for all tasks.
        seeds: the seeds.
        out: the folder of the comparison; a run's own folder is ``METHOD-SEED`` in it.
        options: method -> its own arguments.
        weights: what networks start from, for the methods that can start from it.
        say: called with a line about every run that ends.
        same: what all runs share: arguments of ``run_named``.

    Returns:
        Method -> the reports of its runs, in the order of the seeds; a run that failed says so under "error".

    Raises:
        ValueError: for a name that does not exist, several devices, or a folder of another comparison.
    """
    if (training := same.get("training")) is not None and training.devices > 1:
        raise ValueError(f"expected one device for a comparison, found {training.devices}: run each method by itself")
    reports: Reports = {method: [] for method in methods}
    for seed in seeds:
        for method in methods:
            kind = None if method == JOINT else method_class(method)
            own = weights if weights is not None and can_start_from(kind, weights) else None
            chosen = {**({"prefixes": "last"} if kind is None else {}), **(options or {}).get(method, {})}
            place = Path(out) / f"{folder_name(method)}-{seed}"
            try:
                report = run_named(method, seed=seed, out=str(place), weights=own, options=chosen, **same)
            except (NotFinite, Forgot) as error:
                report = {"error": str(error), "seconds": None}
            reports[method].append(report)
            say(f"{method}, seed {seed}: {outcome(report)}")
    write(Path(out), reports)
    return reports


def outcome(report: Report) -> str:
    """One run in a few words."""
    if "error" in report:
        return f"failed: {report['error']}"
    return f"{named_score(report)} {_number(report['average_accuracy'])} in {report['seconds']:.1f} s"


def rows(reports: Reports) -> list[dict[str, object]]:
    """The rows of the table: the metric after the last task over seeds, forgetting, bytes and time.

    >>> run = {"metric": "accuracy", "average_accuracy": 0.5, "bwt_gem": 0.0, "max_logit_drift": 0.0, "seconds": 2.0}
    >>> rows({"hat": [{**run, "bytes": {"backbone": 4000, "per_task": [100, 300]}}]})[0]["bytes per task"]
    '200 B'
    """
    metric = next((named_score(run) for runs in reports.values() for run in runs if "metric" in run), "metric")
    return [{"method": method, **_figures(runs, metric)} for method, runs in reports.items()]


def _figures(runs: Sequence[Report], metric: str) -> dict[str, object]:
    def over(key: str, floatfmt: str) -> str:
        return mean_std([run.get(key) for run in runs], floatfmt)

    drifts = [run.get("max_logit_drift") for run in runs]
    known = [drift for drift in drifts if drift is not None]
    sizes = [run["bytes"] for run in runs if run.get("bytes")]
    per_task = [size for one in sizes for size in one["per_task"]]
    return {
        f"average {metric}": over("average_accuracy", ".4f"),
        "bwt": over("bwt_gem", ".4f"),
        "max logit drift": f"{max(known):.3g}" if known and len(known) == len(runs) else None,
        "bytes per task": human_bytes(round(sum(per_task) / len(per_task))) if per_task else None,
        "shared bytes": human_bytes(sizes[0]["backbone"]) if sizes else None,
        "seconds": over("seconds", ".1f"),
    }


def write(out: Path, reports: Reports) -> None:
    """Write the table, for people and for programs."""
    write_file(out / "table.md", (markdown(rows(reports)) + "\n").encode())
    write_file(out / "table.json", (json.dumps(rows(reports), indent=2) + "\n").encode())


def as_table(reports: Reports) -> str:
    """The table for a terminal."""
    return table(rows(reports))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
