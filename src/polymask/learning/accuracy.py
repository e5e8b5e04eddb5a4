"""The accuracy matrix of a run: what was measured, and what of the rest is proved by what did not change.

A finished task of an exact method reads the same bits and gives the same logits after every later task: the guard
compares them at every verb and commit. So its metric, measured once, stands, as long as it is the same metric on the
same split in the same precision, on the same kind of device and by the same versions.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polymask.bank.store import write_file

COLUMNS = ("after", "on", "value", "split", "examples", "chance", "setting")


@dataclass(frozen=True)
class Measured:
    """One measured entry.

    Args:
        value: the metric.
        split: the part of the task's data, "test" or "validation".
        setting: metric, precision, device and versions; empty where nobody wrote them down.
        examples: how many examples that part has; 0: nobody wrote it down.
        chance: the accuracy of the best constant answer there; None: the metric is another, or nobody wrote it down.
    """

    value: float
    split: str = ""
    setting: str = ""
    examples: int = 0
    chance: float | None = None

    @property
    def noise(self) -> float | None:
        """How far an accuracy at chance reaches: two standard errors of a share ``p`` of ``n`` above ``p``.

        >>> Measured(0.6, examples=100, chance=0.5).noise, Measured(0.6).noise
        (0.6, None)
        """
        if self.chance is None or not self.examples:
            return None
        return self.chance + 2 * math.sqrt(self.chance * (1 - self.chance) / self.examples)


Rows = dict[str, dict[str, Measured]]
"""``rows[i][j]``: the metric on task ``j`` after task ``i`` was learned, where it was measured."""


def fill(
    tasks: Sequence[str], rows: Mapping[str, Mapping[str, Measured]], proves: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The whole matrix ``R`` and which of its entries were measured, both (T, T); NaN where nothing is known.

    Where ``proves``, an entry that was not measured is the one above it if that has the setting of its own row.

    Args:
        tasks: the names, in order of learning.
        rows: what was measured.
        proves: whether the method is exact, so that what is measured once stands.

    >>> same = dict(split="test", setting="s")
    >>> rows = {"a": {"a": Measured(0.5, **same)}, "b": {"b": Measured(0.25, **same)}}
    >>> fill(["a", "b"], rows, True)[0].tolist(), fill(["a", "b"], rows, False)[0].tolist()
    ([[0.5, nan], [0.5, 0.25]], [[0.5, nan], [nan, 0.25]])
    """
    places, count = {task: place for place, task in enumerate(tasks)}, len(tasks)
    values, measured = np.full((count, count), np.nan), np.zeros((count, count), bool)
    above, settings = np.full(count, np.nan), np.full(count, "", object)
    for i, after in enumerate(tasks):
        row = rows.get(after, {})
        setting = row[after].setting if after in row else ""
        if proves and setting:
            values[i] = np.where(settings == setting, above, np.nan)
        for on, found in row.items():
            if (j := places.get(on)) is not None:
                values[i, j] = above[j] = found.value
                measured[i, j], settings[j] = True, found.setting
    return values, measured


def read_rows(path: Path) -> Rows:
    """The rows of an ``accuracy.csv``; what was cut short or is no number is left out.

    A row's own task stands last in it: without it, the row is not whole.
    """
    rows: Rows = {}
    if path.exists():
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                if None not in line.values() and None not in line and _is_number(line["value"]):
                    rows.setdefault(line["after"], {})[line["on"]] = _entry(line)
    return {after: row for after, row in rows.items() if after in row}


def _entry(line: Mapping[str, str]) -> Measured:
    """One entry; an older polymask wrote neither how many examples it is of nor what chance is, and "val" in short."""
    split, examples, chance = line["split"], line.get("examples", ""), line.get("chance", "")
    return Measured(
        float(line["value"]),
        "validation" if split == "val" else split,
        line["setting"],
        int(examples) if examples.isdecimal() else 0,
        float(chance) if _is_number(chance) else None,
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_rows(path: Path, rows: Rows) -> None:
    """Replace an ``accuracy.csv``."""
    write_file(path, (_lines([COLUMNS]) + "".join(map(_row, rows, rows.values()))).encode())


def append_row(path: Path, after: str, row: Mapping[str, Measured]) -> None:
    """Add what was measured after a task."""
    with path.open("a", newline="") as file:
        file.write(_row(after, row))


def _row(after: str, row: Mapping[str, Measured]) -> str:
    entries = sorted(row.items(), key=lambda entry: entry[0] == after)
    return _lines(
        (after, on, repr(one.value), one.split, one.examples, "" if one.chance is None else one.chance, one.setting)
        for on, one in entries
    )


def _lines(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
