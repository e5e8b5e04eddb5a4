"""A comparison as a page: its runs read, and what comes out said in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from polymask.learning.orders.robustness import Robust
from polymask.pages import of_methods, of_methods_by_task, of_orders
from polymask.pages.run import read_run
from polymask.pages.runs import Runs, mean_over, plan_of, robustness, values_over
from polymask.pages.section import Page
from polymask.report.labels import counted, listed, number, printable


def comparison_page(folder: Path, places: Mapping[str, Sequence[Path]]) -> Page:
    """All that a comparison's folder says."""
    runs = {method: [read_run(place) for place in paths] for method, paths in places.items()}
    every = [run for several in runs.values() for run in several]
    metric = next((run.metric for run in every if run.results), "accuracy")
    seeds = max(map(len, runs.values()))
    tasks = max((run.tasks for run in every), key=len)
    streams = {str((run.results.get("stream") or {}).get("name", "a stream")) for run in every if run.results}
    notes = [f"{run.folder.name}: {problem}" for run in every for problem in run.problems]
    notes += [f"{run.folder.name} has not ended." for run in every if not run.ended]
    plan = plan_of(folder, notes)
    robust = {} if plan is None else robustness(folder, plan, list(runs))
    title = f"{counted(len(runs), 'method')} on {printable(listed(sorted(streams)) or 'a stream')}"
    figures = {"methods": str(len(runs)), "seeds": str(seeds), "tasks": f"{len(tasks):,}"}
    figures |= {} if plan is None else {"orders": str(len(plan.orders))}
    sections = [
        of_methods.methods_table(runs, metric),
        of_methods.accuracy_spread(runs, metric),
        of_methods.against_bytes(runs, metric),
        of_methods.forgetting_spread(runs, metric),
        of_methods_by_task.matrices_side_by_side(runs, metric),
        of_methods_by_task.average_so_far(runs, metric, tasks),
        of_methods_by_task.final_by_task(runs, metric, tasks),
        *([] if plan is None else of_orders.order_sections(plan, robust, metric, tasks)),
        of_methods_by_task.one_mask_each(runs),
    ]
    return Page(title, _summary(runs, metric) + _on_orders(robust), figures, sections, notes)


def _summary(runs: Runs, metric: str) -> str:
    means = {method: mean_over(values_over(several, "average_accuracy")) for method, several in runs.items()}
    drift = {method: values_over(several, "max_logit_drift") for method, several in runs.items()}
    still = [method for method, values in drift.items() if len(values) and (values == 0).all()]
    moved = [method for method, values in drift.items() if (values > 0).any()]
    known = {method: mean for method, mean in means.items() if np.isfinite(mean)}
    if not known:
        return "No run has ended yet."
    best = max(known, key=lambda method: known[method])
    said = [f"The highest average {metric} is {number(known[best])} of {printable(best)}."]
    said += [f"Not a bit of a finished task's logits moved under {printable(listed(still))}."] if still else []
    said += [f"Logits moved under {printable(listed(moved))}."] if moved else []
    return " ".join(said)


def _on_orders(robust: Robust) -> str:
    """Which methods do not feel the order of tasks; nothing if there is one order."""
    none = [method for method, found in robust.items() if found.mopd == 0]
    return f" The order of tasks changes nothing under {printable(listed(none))}." if none else ""
