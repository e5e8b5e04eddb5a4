"""Methods task by task: their matrices, the average so far, the final row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polymask.pages.records import middle_mask
from polymask.pages.runs import Runs, chance_of, mean_matrix
from polymask.pages.section import Section, Shown, Table, matrix_table
from polymask.report.bins import bin_matrix, bin_means
from polymask.report.charts import curves
from polymask.report.labels import listed, number, printable
from polymask.report.matrices import heatmap, mask_images, matrices


def matrices_side_by_side(runs: Runs, metric: str) -> Section:
    """The mean matrix of every method."""
    title = f"{metric.capitalize()} matrices"
    found = {}
    for method, several in runs.items():
        same = [run.values for run in several if run.tasks == several[0].tasks]
        if (stacked := mean_matrix(same)) is not None and np.isfinite(np.tril(stacked, -1)).any():
            found[printable(method)] = bin_matrix(stacked, Shown(several[0].tasks).groups)
    if not found:
        return Section("matrices", title, "No matrix is known.")
    low = min(float(np.nanmin(values)) for values in found.values())
    high = max(float(np.nanmax(values)) for values in found.values())
    sentence = (
        "Row: after which task; column: on which. Mean over seeds. A column that grows fainter downwards is forgotten."
    )
    alt = f"Matrices of {metric} of {listed(list(found))}, between {number(low)} and {number(high)}."
    limits = (min([low, *chance_of(runs).values()]), high)
    rows = [
        [name, number(float(np.nanmean(values.diagonal()))), number(float(np.nanmean(values[-1])))]
        for name, values in found.items()
    ]
    table = Table(title, ["method", "when learned", "at the end"], rows)
    return Section("matrices", title, sentence, [matrices("matrices-picture", alt, found, limits)], table)


def one_mask_each(runs: Runs) -> Section:
    """How a mask of each method looks."""
    title, found = "One mask of each method", {}
    for method, (run, *_) in runs.items():
        if run.reader is not None and (seen := middle_mask(run.reader, run.entries)) is not None:
            found[printable(method)] = seen
    if not found:
        return Section("masks", title, "No run has a bank with masks.")
    sentence = (
        "Of the middle task, first seed, the largest layer: blue is read, the bluer a block the more of it. "
        f"A page of its own says more of a run: polymask report FOLDER/{next(iter(found))}-SEED."
    )
    images = {name: image for name, (_, image) in found.items()}
    picture = mask_images("masks-picture", f"Images of a mask of {listed(list(found))}.", images)
    rows = [[name, printable(layer), f"{image.mean():.1%}"] for name, (layer, image) in found.items()]
    return Section("masks", title, sentence, [picture], Table(title, ["method", "layer", "share read"], rows))


def average_so_far(runs: Runs, metric: str, tasks: Sequence[str]) -> Section:
    """The mean of a row of the matrix after every task."""
    title, shown = f"Average {metric} of the tasks so far", Shown(tasks)
    x = np.arange(len(shown.groups), dtype=np.float64)
    lines, bands = {}, {}
    for method, several in runs.items():
        curve = [run.so_far for run in several if run.tasks == list(tasks)]
        if curve and np.isfinite(curve).any():
            each = np.stack([bin_means(one, shown.groups) for one in curve])
            mean, deviation = each.mean(0), each.std(0, ddof=1) if len(each) > 1 else 0 * each[0]
            lines[printable(method)], bands[printable(method)] = (x, mean), (mean - deviation, mean + deviation)
    if not lines or len(tasks) < 2:
        return Section("curves", title, "No run says more than one row of its matrix.")
    sentence = (
        f"After every task the mean over those learned; the band is one standard deviation over seeds.{shown.note}"
    )
    alt = "; ".join(f"{name} ends at {number(float(y[-1]))}" for name, (_, y) in lines.items())
    picture = curves(
        "curves-picture",
        f"{title}: {alt}.",
        lines,
        columns=shown.names,
        bands=bands,
        levels=chance_of(runs),
        labels=("after learning", f"average {metric}"),
    )
    table = matrix_table(title, "method", list(lines), shown.full, np.stack([y for _, y in lines.values()]))
    return Section("curves", title, sentence, [picture], table)


def final_by_task(runs: Runs, metric: str, tasks: Sequence[str]) -> Section:
    """The last row of the matrix of every method."""
    title, shown = f"Final {metric} on every task", Shown(tasks)
    rows, deviations = {}, {}
    for method, several in runs.items():
        ends = [run.at_the_end for run in several if run.tasks == list(tasks)]
        if ends and np.isfinite(ends).any():
            each = np.stack([bin_means(one, shown.groups) for one in ends])
            rows[printable(method)] = each.mean(0)
            deviations[printable(method)] = each.std(0, ddof=1) if len(each) > 1 else np.full(len(each[0]), np.nan)
    if not rows:
        return Section("tasks", title, "No final row is known.")
    values = np.stack(list(rows.values()))
    low = min([float(np.nanmin(values)), *chance_of(runs).values()])
    alt = f"Matrix: row, method; column, task; {metric} after the last task, mean over seeds."
    picture = heatmap(
        "tasks-picture",
        alt,
        values,
        list(rows),
        shown.names,
        limits=(low, float(np.nanmax(values))),
        column_name="task",
    )
    table = matrix_table(f"{title}, mean over seeds", "method", list(rows), shown.full, values)
    spread = [
        [
            name,
            *(f"{number(float(m))} ± {number(float(s), 2)}" for m, s in zip(rows[name], deviations[name], strict=True)),
        ]
        for name in rows
    ]
    seeds = max(map(len, runs.values()))
    table = Table(table.caption, table.columns, spread) if seeds > 1 else table
    return Section("tasks", title, f"The mean over seeds, chance faintest.{shown.note}", [picture], table)
