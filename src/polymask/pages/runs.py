"""The runs of a comparison: found by their folders' names, their figures gathered over seeds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from polymask.learning.options import folder_name
from polymask.pages.run import Numbers, Run

Runs = Mapping[str, Sequence[Run]]
"""Method -> its runs, in the order of seeds."""

_FOLDER = re.compile(r"(.+)-(\d+)")


def run_folders(folder: Path) -> dict[str, list[Path]]:
    """Method -> the folders of its runs in the order of seeds; empty if the folder is no comparison."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = _FOLDER.fullmatch(place.name)
        if name and any((place / file).exists() for file in ("results.json", "config.yaml")):
            found.setdefault(name[1], []).append((int(name[2]), place))
    order = [folder_name(name) for name in _order(folder)]
    ranked = sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))
    return {name: [place for _, place in sorted(found[name])] for name in ranked}


def _order(folder: Path) -> list[str]:
    """The methods as the table of the comparison lists them."""
    try:
        return [str(row["method"]) for row in json.loads((folder / "table.json").read_text())]
    except (OSError, ValueError, TypeError, KeyError):
        return []


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
