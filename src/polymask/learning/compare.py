"""Several methods and seeds on one stream: a folder for each run, one table for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from polymask.learning.by_name import can_start_from, run_named
from polymask.learning.figures.cost import cost_of_run
from polymask.learning.figures.table import Report, Reports, write
from polymask.learning.joint.prefixes import WITHOUT
from polymask.learning.learner import method_class
from polymask.learning.options import JOINT, run_folder, shares_head
from polymask.learning.results import Forgot, named_score
from polymask.learning.train.loop import NotFinite
from polymask.learning.unnamed.spare import refuse_spare
from polymask.method.contract import Method


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
        same: what all runs share: arguments of ``run_named``; ``spare`` is for the methods whose tasks share a head.

    Returns:
        Method -> the reports of its runs, in the order of the seeds, with "parameters" and "latency_ms" of the network
        that answers for its last task; a run that failed says so under "error".

    Raises:
        ValueError: for a name that does not exist or is named twice, seeds likewise, several devices, or a folder of
            another comparison.
    """
    if (training := same.get("training")) is not None and training.devices > 1:
        raise ValueError(f"expected one device for a comparison, found {training.devices}: run each method by itself")
    refuse_twice(methods=methods, seeds=seeds)
    if JOINT in methods and (left := without_for_joint(same)):
        say(f"Joint training has no use for {', '.join(left)}, and goes without.")
    alone = [method for method in methods if not shares_head(_class_of(method), (options or {}).get(method, {}))]
    refuse_spare(same.get("spare", 0), ", ".join(methods), shares=len(alone) < len(methods))
    if same.get("spare") and alone:
        say(f"Spare outputs are for heads='masked' alone, and not for {', '.join(alone)}.")
    reports: Reports = {method: [] for method in methods}
    for seed in seeds:
        for method in methods:
            place = Path(out) / run_folder(method, seed)
            report = learn_one(method, seed, place, weights, (options or {}).get(method, {}), same)
            if "error" not in report:
                report = {**report, **cost_of_run(place)}
            reports[method].append(report)
            say(f"{method}, seed {seed}: {outcome(report)}")
    write(Path(out), reports, seeds)
    return reports


def learn_one(
    method: str, seed: int, place: Path, weights: str | None, options: Mapping[str, Any], same: Mapping[str, Any]
) -> Report:
    """One run of a comparison; of one that fails, why: under "error"."""
    kind = _class_of(method)
    same = {**same, "spare": 0} if "spare" in same and not shares_head(kind, options) else same
    if kind is None and (left := without_for_joint(same)):
        settings = {name: None for name in left if name != "scenario"}
        same = {**same, "training": replace(same["training"], **settings)} if settings else same
        same = {**same, "scenario": None} if "scenario" in left else same
    own = weights if weights is not None and can_start_from(kind, weights) else None
    chosen = {**({"prefixes": "last"} if kind is None else {}), **options}
    try:
        return run_named(method, seed=seed, out=str(place), weights=own, options=chosen, **same)
    except (NotFinite, Forgot) as error:
        return {"error": str(error), "seconds": None}


def refuse_twice(**named: Sequence[Any]) -> None:
    """Check that nothing is named twice: a mean over one run taken twice is none.

    Raises:
        ValueError: if something is, or a seed is negative.
    """
    for what, values in named.items():
        if twice := [value for value in dict.fromkeys(values) if list(values).count(value) > 1]:
            raise ValueError(f"expected {what} that differ, found {twice[0]} more than once")
        if below := [value for value in values if isinstance(value, int) and value < 0]:
            raise ValueError(f"expected {what} of at least 0, found {below[0]}")


def without_for_joint(same: Mapping[str, Any]) -> list[str]:
    """What a comparison was asked for that joint training has no use for, and would refuse by itself."""
    training = same.get("training")
    asked = [name for name in WITHOUT if training is not None and getattr(training, name) is not None]
    return [*asked, *(["scenario"] if same.get("scenario") not in (None, "GG") else [])]


def _class_of(method: str) -> type[Method] | None:
    return None if method == JOINT else method_class(method)


def outcome(report: Report) -> str:
    """One run in a few words."""
    if "error" in report:
        return f"failed: {report['error']}"
    return f"{named_score(report)} {_number(report['average_accuracy'])} in {report['seconds']:.1f} s"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
