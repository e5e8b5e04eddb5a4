"""The accuracy matrix of a run: what was measured, and what of the rest is proved by what did not change.

A finished task of an exact method reads the same bits and gives the same logits after every later task: the guard
compares them at every verb and commit. So its metric, measured once, stands, as long as it is the same metric on the
same split in the same precision, on the same kind of device and by the same versions.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polymask.disk import write_file
from polymask.report.measured import COLUMNS, Measured, Rows


def fill(
    tasks: Sequence[str], rows: Mapping[str, Mapping[str, Measured]], proves: bool, still: Collection[str] = ()
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The whole matrix ``R`` and which of its entries were measured, both (T, T); NaN where nothing is known.

    Where ``proves``, an entry that was not measured is the one above it if that has the setting of its own row, or if
    the logits of its task were seen to be what they were.

    Args:
        tasks: the names, in order of learning.
        rows: what was measured.
        proves: whether the method is exact, so that what is measured once stands.
        still: the tasks whose logits are, to the bit, what they were when they were learned.

    >>> same = dict(split="test", setting="s")
    >>> rows = {"a": {"a": Measured(0.5, **same)}, "b": {"b": Measured(0.25, **same)}}
    >>> fill(["a", "b"], rows, True)[0].tolist(), fill(["a", "b"], rows, False)[0].tolist()
    ([[0.5, nan], [0.5, 0.25]], [[0.5, nan], [nan, 0.25]])
    """
    places, count = {task: place for place, task in enumerate(tasks)}, len(tasks)
    values, measured = np.full((count, count), np.nan), np.zeros((count, count), bool)
    above, settings = np.full(count, np.nan), np.full(count, "", object)
    stands = np.array([task in still for task in tasks], bool)
    for i, after in enumerate(tasks):
        row = rows.get(after, {})
        setting = row[after].setting if after in row else ""
        if proves and row:
            alike = [bool(setting) and one == setting for one in settings]
            # Under another metric it is another figure; what an older polymask noted says none.
            comparable = [not one or _metric(one) == _metric(setting) for one in settings]
            values[i] = np.where(alike | stands & comparable, above, np.nan)
        for on, found in row.items():
            if (j := places.get(on)) is not None:
                values[i, j] = above[j] = found.value
                measured[i, j], settings[j] = True, found.setting
    return values, measured


def _metric(setting: str) -> str:
    return setting.partition(", ")[0]


def write_rows(path: Path, rows: Rows) -> None:
    """Replace an ``accuracy.csv``."""
    write_file(path, (_lines([COLUMNS]) + "".join(map(_row, rows, rows.values()))).encode())


def append_row(path: Path, after: str, row: Mapping[str, Measured]) -> None:
    """Add what was measured after a task."""
    with path.open("a", newline="", encoding="utf-8") as file:
        file.write(_row(after, row))


def _row(after: str, row: Mapping[str, Measured]) -> str:
    entries = sorted(row.items(), key=lambda entry: entry[0] == after)
    return _lines(
        (
            after,
            on,
            repr(one.value),
            one.split,
            one.examples,
            "" if one.chance is None else one.chance,
            one.setting,
            json.dumps(dict(one.also)) if one.also else "",
        )
        for on, one in entries
    )


def _lines(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
