"""A run as sections: accuracies, what was forgotten, how it was trained, what it takes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from polymask.learning.options import JOINT
from polymask.pages.run import Numbers, Run
from polymask.pages.section import Section, Shown, Table, as_number, matrix_table, number_table
from polymask.report.bins import bin_matrix, bin_means
from polymask.report.charts import curves, dots
from polymask.report.labels import listed, number
from polymask.report.matrices import heatmap

PANELS = 12
"""Tasks up to which the curves of each have a panel."""


def accuracy_matrix(run: Run) -> Section:
    """The matrix, with a dot where an entry is proved."""
    metric, shown = run.metric, Shown(run.tasks)
    title = f"{metric.capitalize()} on every task after every task"
    if not np.isfinite(run.values).any():
        return Section("matrix", title, f"No {metric} was measured yet, or what was measured cannot be read.")
    values, proved = bin_matrix(run.values, shown.groups), bin_matrix(run.proved.astype(float), shown.groups)
    known = bin_matrix(np.isfinite(run.values).astype(float), shown.groups)
    all_proved = (proved >= known) & (known > 0)
    measured, count = int(np.isfinite(run.values).sum() - run.proved.sum()), int(run.proved.sum())
    sentence = (
        "Read down a column: a task that is forgotten grows fainter. "
        + (
            f"Entries with a dot ({count:,}) are proved, since nothing that the task reads has changed; {measured:,} "
            "were measured."
            if count
            else "Every entry was measured."
        )
        + shown.note
    )
    picture = heatmap(
        "matrix-picture",
        f"Matrix of {metric}: row, after which task; column, on which task. {_ends_in_words(run)}",
        values,
        shown.names,
        shown.names,
        dots=all_proved,
        limits=_limits(run),
        row_name="after learning",
        column_name=f"{metric} on",
    )
    table = matrix_table(f"{metric}, row: after which task, column: on which", "after", shown.full, shown.full, values)
    rows = [
        [cell if j == 0 or not all_proved[i, j - 1] else f"{cell} (proved)" for j, cell in enumerate(row)]
        for i, row in enumerate(table.rows)
    ]
    return Section("matrix", title, sentence, [picture], Table(table.caption, table.columns, rows))


def _ends_in_words(run: Run) -> str:
    learned, end = run.when_learned, run.at_the_end
    if not np.isfinite(end).any():
        return "The last row is not known."
    return f"Mean {number(_mean(learned))} when learned, {number(_mean(end))} at the end."


def _limits(run: Run) -> tuple[float, float]:
    """What is faintest and what is strongest: chance and perfect, or the smallest and the largest value."""
    low, high = float(np.nanmin(run.values)), float(np.nanmax(run.values))
    if run.counts_right and np.isfinite(run.chance).any():
        return min(low, float(np.nanmin(run.chance))), 1.0
    return low, high


def _mean(values: Numbers) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def tasks_with_references(run: Run, other: Mapping[str, Numbers]) -> Section:
    """The accuracy of every task, beside chance and the runs that it is measured against (``references``)."""
    shown, metric = Shown(run.tasks), run.metric
    title = f"{metric.capitalize()} of every task beside its references"
    if not np.isfinite(run.when_learned).any() and not np.isfinite(run.at_the_end).any():
        return Section("tasks", title, f"No {metric} is known.")
    chance = run.chance
    series = {"when learned": run.when_learned, "at the end": run.at_the_end}
    steps = {name.replace("_", " "): values for name, values in other.items()}
    spread = np.isfinite(chance).any() and float(np.nanmax(chance) - np.nanmin(chance)) > 0
    levels = {"chance": _mean(chance)} if np.isfinite(chance).any() and not spread else {}
    steps |= {"chance": chance} if spread else {}
    binned = {name: bin_means(values, shown.groups) for name, values in series.items()}
    beside = {name: bin_means(values, shown.groups) for name, values in steps.items()}
    about = [name for name in ("chance", *map(_words, other)) if name in levels or name in steps]
    sentence = (
        f"A ring is the {metric} when the task was learned, a full dot the one at the end: where they part, the task "
        f"was forgotten. Beside it: {listed(about)}."
        if about
        else f"A ring is the {metric} when the task was learned, a full dot the one at the end. Neither chance nor a "
        "run of linear_probe, independent or joint beside this one is known."
    ) + shown.note
    gone = _mean(run.at_the_end - run.when_learned)
    alt = f"{metric} of {len(run.tasks):,} tasks when learned and at the end; mean change {number(gone)}."
    picture = dots("tasks-picture", alt, shown.names, binned, levels=levels, steps=beside, label=metric)
    table = number_table(
        f"{metric} of every task",
        "task",
        shown.full,
        {**binned, **beside, **({"chance": bin_means(chance, shown.groups)} if levels else {})},
    )
    return Section("tasks", title, sentence, [picture], table)


def _words(name: str) -> str:
    return name.replace("_", " ")


def over_the_run(run: Run, other: Mapping[str, Numbers]) -> Section:
    """How the accuracy on each task goes on while later ones are learned, and what it is measured against."""
    title, shown = f"{run.metric.capitalize()} on each task while later ones are learned", Shown(run.tasks)
    if np.isfinite(run.values).sum() < 2:
        return Section("curves", title, f"Fewer than two values of the {run.metric} are known.")
    values = bin_matrix(run.values, shown.groups)
    place = np.arange(len(values), dtype=np.float64)
    lines = {name: (place, values[:, j]) for j, name in enumerate(shown.names) if np.isfinite(values[:, j]).any()}
    average = bin_means(run.so_far, shown.groups)
    levels = _levels(run, other)
    sentence = (
        f"A line a task, from where it was learned; the thick line is the mean of all tasks so far"
        f"{', dashed: ' + listed(list(levels)) if levels else ''}. Level lines mean that nothing was "
        f"forgotten.{shown.note}"
    )
    alt = f"Curves of the {run.metric} on each task; the mean of all so far ends at {number(float(average[-1]))}."
    picture = curves(
        "curves-picture",
        alt,
        {**lines, "mean so far": (place, average)},
        columns=shown.names,
        levels=levels,
        strong="mean so far",
        many="a task each, later ones stronger",
        labels=("after learning", run.metric),
    )
    return Section(
        "curves", title, sentence, [picture], number_table("mean so far", "after", shown.full, {"mean": average})
    )


def _levels(run: Run, other: Mapping[str, Numbers]) -> dict[str, float]:
    """Chance and the references as means over tasks."""
    found = {"chance": run.chance} | {_words(name): values for name, values in other.items()}
    return {name: float(values.mean()) for name, values in found.items() if np.isfinite(values).all()}


def forgetting(run: Run) -> Section:
    """What later tasks changed of each task: its accuracy and its logits."""
    title, shown = "What later tasks changed", Shown(run.tasks)
    drift = np.array([as_number(run.results.get("logit_drift", {}).get(task)) for task in run.tasks], np.float64)
    change = run.at_the_end - run.when_learned
    if not np.isfinite(drift).any() and not np.isfinite(change).any():
        why = "the run has not ended" if run.results else "there is no results.json that can be read"
        return Section("forgetting", title, f"Neither a change of accuracy nor of logits is known: {why}.")
    change, moved = bin_means(change, shown.groups), np.array([_largest(drift, one) for one in shown.groups])
    largest = _largest(drift, range(len(drift)))
    sentence = (
        "Nothing moved: every logit of every finished task is to the bit what it was when the task was learned."
        if largest == 0
        else "Nothing is learned after joint training, so that nothing can be forgotten."
        if run.method == JOINT
        else "The run has not ended, so that the drift of logits is not known."
        if np.isnan(largest)
        else f"Below 0 a task was forgotten. The largest change of any logit of a finished task is {number(largest)}."
    ) + (shown.note.replace("their mean", "their mean change and largest drift") if shown.binned else "")
    pictures = []
    if np.isfinite(change).any():
        alt = f"Change of the {run.metric} of every task since it was learned; mean {number(_mean(change))}."
        pictures.append(
            dots("change-picture", alt, shown.names, {"change": change}, label=f"change of {run.metric} since learned")
        )
    if np.isfinite(moved).any():
        alt = f"Largest change of a logit of every task; the largest of all is {number(largest)}."
        pictures.append(dots("drift-picture", alt, shown.names, {"drift": moved}, label="largest change of a logit"))
    table = number_table(title, "task", shown.full, {f"change of {run.metric}": change, "logit drift": moved})
    return Section("forgetting", title, sentence, pictures, table)


def _largest(values: Numbers, places: range) -> float:
    known = values[list(places)]
    known = known[~np.isnan(known)]
    return float(known.max()) if len(known) else float("nan")
