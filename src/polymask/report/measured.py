"""What was measured of a run's tasks: the entries of its ``accuracy.csv``, read back."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("after", "on", "value", "split", "setting")


@dataclass(frozen=True)
class Measured:
    """One measured entry.

    Args:
        value: the metric.
        split: the part of the task's data, "test" or "val".
        setting: metric, precision, device and versions; empty where nobody wrote them down.
    """

    value: float
    split: str = ""
    setting: str = ""


Rows = dict[str, dict[str, Measured]]
"""``rows[i][j]``: the metric on task ``j`` after task ``i`` was learned, where it was measured."""


def read_rows(path: Path) -> Rows:
    """The rows of an ``accuracy.csv``; what was cut short or is no number is left out.

    A row's own task stands last in it: without it, the row is not whole.
    """
    rows: Rows = {}
    if path.exists():
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                if None not in line.values() and None not in line and _is_number(line["value"]):
                    entry = Measured(float(line["value"]), line["split"], line["setting"])
                    rows.setdefault(line["after"], {})[line["on"]] = entry
    return {after: row for after, row in rows.items() if after in row}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
