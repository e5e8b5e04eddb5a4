"""Methods under several orders of the same tasks: how far final scores depend on it, beside the noise of seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from polymask.learning.orders.plan import Plan
from polymask.learning.orders.robustness import Robust
from polymask.pages.section import Section, Shown, Table, matrix_table
from polymask.report.bins import bin_means
from polymask.report.charts import spreads
from polymask.report.labels import counted, number, printable
from polymask.report.matrices import heatmap


def order_sections(plan: Plan, robust: Robust, metric: str, tasks: Sequence[str]) -> list[Section]:
    """The disparity of every method, and of every task."""
    return [_by_method(plan, robust, metric), _by_task(robust, metric, tasks)]


def _by_method(plan: Plan, robust: Robust, metric: str) -> Section:
    title = "What the order of tasks changes"
    series = {}
    for method, found in robust.items():
        if found.opd:
            series[printable(method)] = np.array(list(found.opd.values()), np.float64)
        if found.noise:
            series[f"{printable(method)}, seeds"] = np.array(list(found.noise.values()), np.float64)
    if not series:
        return Section("orders", title, "No method has ended under all orders yet.")
    sentence = (
        f"OPD of a task: its largest less its smallest final {metric} over {len(plan.orders)} orders, each the mean "
        f"over {counted(len(plan.seeds), 'seed')}; AOPD is the mean over tasks, MOPD the largest (Yoon et al. 2020). A "
        "ring a task, a stroke their mean."
    )
    if plan.floor:
        sentence += (
            " Below each method, under the name of seeds, the noise floor: the same spread over "
            f"{len(plan.orders)} single seeds in the first order. A disparity that is no larger may be noise."
        )
    alt = "; ".join(f"{name} {number(float(values.mean()))}" for name, values in series.items())
    label = f"spread of the final {metric} of a task"
    picture = spreads("orders-picture", f"{label}: {alt}.", series, label=label)
    rows = [
        [printable(method), *map(_shown, (found.aopd, found.floor, found.mopd, found.highest_floor))]
        for method, found in robust.items()
    ]
    heads = ["method", "AOPD", "noise floor, mean", "MOPD", "noise floor, largest"]
    return Section("orders", title, sentence, [picture], Table(title, heads, rows), is_open=True)


def _by_task(robust: Robust, metric: str, tasks: Sequence[str]) -> Section:
    title, shown = "On which task", Shown(tasks)
    rows = {
        printable(method): bin_means(np.array([found.opd[task] for task in tasks], np.float64), shown.groups)
        for method, found in robust.items()
        if found.opd.keys() == set(tasks)
    }
    if not rows:
        return Section("orders-tasks", title, "No method has ended under all orders yet.")
    values = np.stack(list(rows.values()))
    alt = f"Matrix: row, method; column, task; spread of the final {metric} over orders."
    limits = (0.0, float(values.max()))
    picture = heatmap("opd-picture", alt, values, list(rows), shown.names, limits=limits, column_name="task")
    table = matrix_table("OPD of each task", "method", list(rows), shown.full, values)
    return Section("orders-tasks", title, f"OPD, task by task.{shown.note}", [picture], table)


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"
