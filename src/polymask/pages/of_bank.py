"""A bank as sections: how much of the network its masks read, how much two share, how they look; the roles."""

from __future__ import annotations

from collections import Counter

import numpy as np

from polymask.pages.records import Masks, read_masks
from polymask.pages.run import Run
from polymask.pages.section import Section, Shown, Table, matrix_table, number_table
from polymask.report.bins import bin_means, bins
from polymask.report.charts import curves
from polymask.report.labels import counted, listed, number, printable, shortened
from polymask.report.matrices import heatmap, mask_images

ROLES = 300
"""Tensors up to which the table of roles lists each."""


def masks(run: Run) -> list[Section]:
    """All that is said of masks, or why nothing is."""
    found = read_masks(run.reader, run.entries) if run.reader and run.entries else None
    if found is None:
        why = "The tasks in the bank have no masks." if run.entries else "No finished task can be read from the bank."
        why = "There is no bank." if run.reader is None else why
        return [Section("masks", "Masks", why)]
    lost = f" The records of {listed([shortened(one) for one in found.lost[:5]])} cannot be read." if found.lost else ""
    return [_capacity(found, lost), _density(found), _overlap(found), _images(found)]


def _capacity(found: Masks, lost: str) -> Section:
    shown = Shown(found.tasks)
    used = bin_means(found.used, shown.groups)
    place = np.arange(len(used), dtype=np.float64)
    each = bin_means(found.alone, shown.groups)
    sentence = (
        f"After {counted(len(found.tasks), 'task')} {found.used[-1]:.0%} of all masked entries are read by some task; "
        f"the last one alone reads {found.alone[-1]:.0%}.{lost}{shown.note}"
    )
    lines = {"read by some task so far": (place, used), "read by the task alone": (place, each)}
    picture = curves(
        "capacity-picture",
        f"The share of masked entries that some task reads ends at {found.used[-1]:.0%}.",
        lines,
        columns=shown.names,
        labels=("after learning", "share of entries"),
        height=190,
    )
    table = number_table("share of masked entries", "task", shown.full, {name: y for name, (_, y) in lines.items()})
    return Section("capacity", "How much of the network is used", sentence, [picture], table)


def _density(found: Masks) -> Section:
    shown, layers = Shown(found.tasks), Shown(found.layers)
    values = bin_means(bin_means(found.density, shown.groups, 1), layers.groups, 0)
    low, high = float(np.nanmin(found.density)), float(np.nanmax(found.density))
    sentence = f"The share of each layer that a task reads, from {low:.0%} to {high:.0%}.{shown.note}"
    picture = heatmap(
        "density-picture",
        f"Matrix of densities: row, layer; column, task; between {low:.0%} and {high:.0%}.",
        values,
        layers.names,
        shown.names,
        row_name="",
        column_name="task",
    )
    table = matrix_table("share of a layer that a task reads", "layer", layers.full, shown.full, values)
    return Section("density", "Density of every layer", sentence, [picture], table)


def _overlap(found: Masks) -> Section:
    title = "How much two tasks share"
    names = Shown(found.shown)
    if len(found.shown) < 2:
        return Section("overlap", title, "There is one task alone.")
    upper = found.overlap[np.triu_indices(len(found.shown), 1)]
    sentence = (
        "Of the entries that one of two tasks reads, the share that both read: 1 on the diagonal, in the mean "
        f"{number(float(upper.mean()), 2)} of two tasks, at most {number(float(upper.max()), 2)}."
    )
    if len(found.shown) < len(found.tasks):
        sentence += f" Of {len(found.tasks):,} tasks, one of each of {len(bins(len(found.tasks)))} bins is shown."
    picture = heatmap(
        "overlap-picture",
        f"Matrix of overlaps between tasks, mean {number(float(upper.mean()), 2)}.",
        found.overlap,
        names.names,
        names.names,
    )
    table = matrix_table("both read, over one of them reads", "task", names.full, names.full, found.overlap)
    return Section("overlap", title, sentence, [picture], table)


def _images(found: Masks) -> Section:
    sentence = (
        f"The largest layer, {printable(found.layer)}: a row an output, a column an input; blue is read. Where it is "
        "larger than the image, the bluer a block the more of it is read."
        if found.layer
        else "A row a task, a column a unit; blue is read."
    )
    pictures = [mask_images("masks-picture", f"Images of the masks of {listed(list(found.images))}.", found.images)]
    rows = [[printable(name), f"{image.mean():.1%}"] for name, image in found.images.items()]
    return Section("masks", "How masks look", sentence, pictures, Table("share read", ["mask", "density"], rows))


def roles(run: Run) -> Section:
    """What is done with every tensor of the network, and why."""
    title = "Roles of the tensors"
    if run.reader is None:
        return Section("roles", title, "There is no bank, which would say them.")
    about = run.reader.head.about
    counts = Counter(line["kind"] for line in about["sites"])
    units = f" Units are masked at {listed(list(about['units']))}." if about["units"] else ""
    sentence = (
        f"Of {counted(len(about['sites']), 'tensor')} {listed([f'{count} {kind}' for kind, count in counts.items()])}: "
        f"what a method does with each, and why.{units}"
    )
    rows = [
        [
            line["name"],
            " × ".join(map(str, line["shape"])) if line["shape"] else "each its own",
            line["kind"],
            line["why"],
        ]
        for line in about["sites"][:ROLES]
    ]
    if len(about["sites"]) > ROLES:
        sentence += f" The first {ROLES} are listed."
    return Section("roles", title, sentence, (), Table("roles", ["tensor", "shape", "role", "why"], rows, words=True))
