"""What a run took, as sections: its training, epoch by epoch, and its bytes on disk."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from polymask.bank.sizes import sizes_of
from polymask.pages.of_bytes import parts_in_words
from polymask.pages.run import Epoch, Numbers, Run
from polymask.pages.section import Section, Shown, Table, as_number, number_table
from polymask.report.bins import bin_means
from polymask.report.charts import bars, curves, panels
from polymask.report.labels import printable, without_shared_start
from polymask.report.table import human_bytes

PANELS = 12
"""Tasks up to which the curves of each have a panel."""

WORDS = {
    "backbone": "the network",
    "held": "which of its entries are held",
    "learner": "what learning on needs",
    "probe": "probes",
    "json": "entries and head",
}
"""Parts of a bank -> what they are called."""


def training(run: Run) -> Section:
    """The curves of training."""
    title, tasks = "How every task was trained", list(dict.fromkeys(row.task for row in run.epochs))
    if not tasks:
        return Section("training", title, "There is no epochs.csv, or it holds no whole row.")
    each: dict[str, list[Epoch]] = {task: [] for task in tasks}
    for row in run.epochs:
        each[row.task].append(row)
    found = {
        "validation score": [_finite([row.val for row in rows]) for rows in each.values()],
        "loss": [_finite([row.loss for row in rows]) for rows in each.values()],
    }
    pictures = [_picture(label, tasks, values) for label, values in found.items()]
    sentence = (
        "All phases of a task one after the other; the epoch with the best validation score is kept."
        if len(tasks) <= PANELS
        else "The median task, and the range from the tenth to the ninetieth percentile of tasks."
    )
    shown = Shown(tasks)
    last = {label: bin_means(np.array([one[-1] for one in values]), shown.groups) for label, values in found.items()}
    return Section("training", title, sentence, pictures, number_table("last epoch", "task", shown.full, last))


def _finite(values: Sequence[float]) -> Numbers:
    found = np.array(values, np.float64)
    return np.where(np.isfinite(found), found, np.nan)


def _picture(label: str, tasks: Sequence[str], values: Sequence[Numbers]) -> str:
    ident = f"training-{label.partition(' ')[0]}"
    alt = f"Curves of the {label} over epochs of {len(tasks):,} tasks."
    if len(tasks) <= PANELS:
        names = without_shared_start([printable(task) for task in tasks])
        lines = [(np.arange(1.0, len(y) + 1), y) for y in values]
        return panels(ident, alt, names, lines, labels=("epoch", label))
    table = np.full((len(values), max(map(len, values))), np.nan)
    for place, one in enumerate(values):
        table[place, : len(one)] = one
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All-NaN slice")
        low, middle, high = np.nanquantile(table, [0.1, 0.5, 0.9], axis=0)
    x = np.arange(1.0, table.shape[1] + 1)
    name = "median task"
    return curves(ident, alt, {name: (x, middle)}, bands={name: (low, high)}, labels=("epoch", label), height=200)


def bytes_per_task(run: Run) -> Section:
    """What every task added on disk, and what all of them share."""
    title, shown = "Bytes on disk", Shown(run.tasks)
    sizes = sizes_of(run.reader) if run.reader else dict(run.results.get("bytes") or {})
    listed_sizes = sizes.pop("per_task", {})
    if not isinstance(listed_sizes, dict):
        # Joint training says the bytes of all tasks, also of those whose prefix was not trained.
        places = range(len(run.tasks)) if len(listed_sizes) == len(run.tasks) else run.finished
        listed_sizes = dict(zip([run.tasks[place] for place in places], listed_sizes, strict=False))
    values = np.array([as_number(listed_sizes.get(task)) for task in run.tasks], np.float64)
    if not np.isfinite(values).any():
        why = "There is no bank, and results.json says no bytes." if run.reader is None else "The bank holds no task."
        return Section("bytes", title, why)
    mean, shared = float(np.nanmean(values)), int(sizes.get("backbone", 0))
    sentence = (
        f"A task adds {human_bytes(round(mean))} in the mean, beside the {human_bytes(shared)} of the network that all "
        f"share.{parts_in_words(run.reader, run.entries) if run.reader else ''}{shown.note}"
    )
    binned = bin_means(values, shown.groups)
    alt = f"Bars: bytes that every task added, mean {human_bytes(round(mean))}."
    picture = bars("bytes-picture", alt, shown.names, binned, label="bytes added")
    rows = [
        [name, human_bytes(round(float(value))) if np.isfinite(value) else "–"]
        for name, value in zip(shown.full, binned, strict=True)
    ]
    rows += [[f"all: {WORDS.get(name, name)}", human_bytes(int(size))] for name, size in sizes.items()]
    return Section("bytes", title, sentence, [picture], Table("bytes on disk", ["task", "bytes"], rows))
