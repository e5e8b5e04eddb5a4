"""How far final scores depend on the order of tasks, and beside it how far on the seed alone."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from polymask.learning.orders.plan import Plan
from polymask.report.metrics import aopd, as_json, mopd, opd

Finals = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Robustness:
    """The final scores of one method by the name of the task, over orders and over seeds.

    ``OPD_t = max_r P_t[r] - min_r P_t[r]``, ``P_t[r]`` the final score on task ``t`` under order ``r``, the mean over
    seeds; AOPD its mean over tasks, MOPD its maximum (Yoon et al. 2020). The noise floor is the same spread over as
    many single seeds under one order. What no run tells is NaN.

    Args:
        finals: task -> ``P_t``, an entry an order; empty: a run is missing or failed.
        by_seed: task -> its final scores under the first order, an entry a seed; likewise.

    >>> found = Robustness({"a": [0.5, 0.75], "b": [0.5, 0.5]}, {"a": [0.5, 0.625], "b": [0.5, 0.5]})
    >>> found.opd, found.aopd, found.mopd, found.floor
    ({'a': 0.25, 'b': 0.0}, 0.125, 0.25, 0.0625)
    """

    finals: Finals = field(default_factory=dict)
    by_seed: Finals = field(default_factory=dict)

    @property
    def opd(self) -> dict[str, float]:
        """Task -> ``OPD_t``."""
        return opd(self.finals) if self.finals else {}

    @property
    def aopd(self) -> float:
        """The mean of ``OPD_t``."""
        return aopd(self.finals) if self.finals else math.nan

    @property
    def mopd(self) -> float:
        """The largest ``OPD_t``."""
        return mopd(self.finals) if self.finals else math.nan

    @property
    def noise(self) -> dict[str, float]:
        """Task -> the spread of its final score over seeds."""
        return opd(self.by_seed) if self.by_seed else {}

    @property
    def floor(self) -> float:
        """The mean spread over seeds: what AOPD would be if an order were no more than another seed."""
        return aopd(self.by_seed) if self.by_seed else math.nan

    @property
    def highest_floor(self) -> float:
        """The largest spread over seeds, beside MOPD."""
        return mopd(self.by_seed) if self.by_seed else math.nan


Robust = Mapping[str, Robustness]
"""Method -> its figures; joint training, which has no order, is not in it."""


def robustness_of(plan: Plan, runs: Mapping[tuple[int, int], Mapping[str, Any]]) -> Robustness:
    """The figures of a method, from the reports of its runs by (order, seed).

    >>> def run(*scores):
    ...     return {"tasks": ["a", "b"], "accuracy_at_the_end": scores}
    >>> plan, turned = Plan(((0, 1), (1, 0)), (0,)), {"tasks": ["b", "a"], "accuracy_at_the_end": [0.5, 0.25]}
    >>> robustness_of(plan, {(0, 0): run(0.25, 0.5), (1, 0): turned, (0, 1): run(0.5, 0.5)}).opd
    {'a': 0.0, 'b': 0.0}
    """
    orders = [[final_scores(runs.get((order, seed), {})) for seed in plan.seeds] for order in range(len(plan.orders))]
    return Robustness(_over(orders), _over([[final_scores(runs.get((0, seed), {}))] for seed in plan.floor]))


def final_scores(report: Mapping[str, Any]) -> dict[str, float]:
    """Task -> its score after the last task; empty if the run failed, has not ended or does not know one of them."""
    tasks, ends = report.get("tasks") or (), report.get("accuracy_at_the_end") or ()
    if len(tasks) != len(ends) or not all(isinstance(end, int | float) and math.isfinite(end) for end in ends):
        return {}
    return dict(zip(map(str, tasks), map(float, ends), strict=True))


def _over(groups: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, list[float]]:
    """Task -> the mean of each group; empty unless there is one and all know the same tasks."""
    if not groups:
        return {}
    tasks = groups[0][0]
    if not all(run.keys() == tasks.keys() for group in groups for run in group):
        return {}
    return {task: [fmean(run[task] for run in group) for group in groups] for task in tasks}


def as_text(found: Robustness | None) -> dict[str, object]:
    """The columns of a table for people."""
    found = found or Robustness()
    return {
        "AOPD (noise floor)": _beside(found.aopd, found.floor),
        "MOPD (noise floor)": _beside(found.mopd, found.highest_floor),
    }


def _beside(value: float, floor: float) -> str | None:
    shown = "-" if math.isnan(floor) else f"{floor:.4f}"
    return None if math.isnan(value) else f"{value:.4f} ({shown})"


def as_numbers(found: Robustness | None) -> dict[str, Any]:
    """The same for ``table.json``, and task by task; null where a run is missing."""
    found = found or Robustness()
    return {
        "aopd": as_json(found.aopd),
        "mopd": as_json(found.mopd),
        "noise_floor": {"mean": as_json(found.floor), "max": as_json(found.highest_floor)},
        "opd": found.opd,
        "opd_noise_floor": found.noise,
    }


def by_task(robust: Robust) -> list[dict[str, object]]:
    """``OPD_t`` of every task as a row, a column a method."""
    tasks = dict.fromkeys(task for found in robust.values() for task in found.opd)
    return [{"task": task, **{method: found.opd.get(task) for method, found in robust.items()}} for task in tasks]


def as_csv(robust: Robust, orders: int) -> str:
    """``orders.csv``: a row a method and task, with its final score under every order, the mean over seeds."""
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(["method", "task", "opd", "noise_floor", *(f"order_{order}" for order in range(orders))])
    for method, found in robust.items():
        noise, each = found.noise, found.opd
        lines.writerows([method, task, each[task], noise.get(task), *found.finals[task]] for task in each)
    return text.getvalue()
