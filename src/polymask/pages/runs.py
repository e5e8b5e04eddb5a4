"""The runs of a comparison: found by their folders' names, their figures gathered over seeds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polymask.learning.folder import read_results
from polymask.learning.options import folder_name
from polymask.learning.orders.plan import Plan, read_plan
from polymask.learning.orders.robustness import Robustness, robustness_of
from polymask.pages.run import Numbers, Run

Runs = Mapping[str, Sequence[Run]]
"""Method -> its runs, in the order of seeds."""

_FOLDER = re.compile(r"(.+?)-(\d+)(?:-order-(\d+))?")


def run_folders(folder: Path) -> dict[str, list[Path]]:
    """Method -> the folders of its runs in the order of seeds; empty if the folder is no comparison.

    Of one under several orders these are the runs of the first order; what was run for the noise floor alone is left
    out, as the table leaves it out.
    """
    listed, plan = _listed(folder), plan_of(folder, [])
    ranks = [folder_name(name) for name in listed]
    found = {method: runs for method, runs in _found(folder).items() if any(order == 0 for order, _ in runs)}
    ranked = sorted(found, key=lambda name: (ranks.index(name) if name in ranks else len(ranks), name))
    extra = {*plan.floor} - {*plan.seeds}.union(*listed.values()) if plan else set()
    return {
        name: [place for (order, seed), place in sorted(found[name].items()) if order == 0 and seed not in extra]
        for name in ranked
    }


def plan_of(folder: Path, problems: list[str]) -> Plan | None:
    """Under which orders and seeds a comparison ran; None if under one order; what is damaged becomes a sentence."""
    try:
        return read_plan(folder)
    except (ValueError, OSError) as error:
        problems.append(str(error))
        return None


def robustness(folder: Path, plan: Plan, methods: Sequence[str]) -> dict[str, Robustness]:
    """Method -> what the order of tasks changes, from the runs as they are now; those without a second order left out.

    Args:
        folder: that of the comparison.
        plan: under which orders and seeds it ran.
        methods: as their folders are named.
    """
    found = _found(folder)
    several = [method for method in methods if any(order for order, _ in found.get(method, {}))]
    return {
        method: robustness_of(plan, {key: _report(place) for key, place in found[method].items()}) for method in several
    }


def _report(place: Path) -> Mapping[str, Any]:
    """What a run says; nothing if that cannot be read, as the page of the run itself tells."""
    try:
        return read_results(place)
    except (ValueError, OSError):
        return {}


def _found(folder: Path) -> dict[str, dict[tuple[int, int], Path]]:
    """Method -> (order, seed) -> the folder of that run."""
    found: dict[str, dict[tuple[int, int], Path]] = {}
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = _FOLDER.fullmatch(place.name)
        if name and any((place / file).exists() for file in ("results.json", "config.yaml")):
            found.setdefault(name[1], {})[int(name[3] or 0), int(name[2])] = place
    return found


def _listed(folder: Path) -> dict[str, list[int]]:
    """The methods as the table of the comparison lists them, and the seeds that it says it is of."""
    try:
        rows = json.loads((folder / "table.json").read_text())
        return {str(row["method"]): [int(seed) for seed in row.get("seeds", ())] for row in rows}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def values_over(runs: Sequence[Run], key: str) -> Numbers:
    """A figure of ``results.json`` of every run; NaN where it says none, (S,)."""
    found = [run.results.get(key) for run in runs]
    return np.array([value if isinstance(value, int | float) else np.nan for value in found], np.float64)


def mean_over(values: Numbers) -> float:
    """The mean over seeds; NaN where one is missing."""
    return float(values.mean()) if len(values) else float("nan")


def bytes_of(run: Run) -> float:
    """What a run takes on disk for all its tasks: what they share, and what each added."""
    sizes = run.results.get("bytes") or {}
    return float(sizes["backbone"] + sum(sizes["per_task"])) if sizes.get("per_task") else float("nan")


def chance_of(runs: Runs) -> dict[str, float]:
    """What guessing gives in the mean over tasks, under its name; empty where it is not known."""
    known = [run.chance for several in runs.values() for run in several if np.isfinite(run.chance).any()]
    return {"chance": float(np.nanmean(known[0]))} if known else {}


def mean_matrix(values: Sequence[Numbers]) -> Numbers | None:
    """The mean over seeds of what all of them know."""
    return np.mean(values, 0) if values and values[0].size else None
