"""What was measured of a run's tasks: the entries of its ``accuracy.csv``, read back."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

NEEDED = ("after", "on", "value", "split", "setting")
"""The columns that every polymask has written."""

COLUMNS = ("after", "on", "value", "split", "examples", "chance", "setting", "also")


@dataclass(frozen=True)
class Measured:
    """One measured entry.

    Args:
        value: the metric.
        split: the part of the task's data, "test" or "validation".
        setting: metric, precision, device and versions; empty where nobody wrote them down.
        examples: how many examples that part has; 0: nobody wrote it down.
        chance: the accuracy of the best constant answer there; None: the metric is another, or nobody wrote it down.
        also: name -> value of the metrics that are reported beside it.
    """

    value: float
    split: str = ""
    setting: str = ""
    examples: int = 0
    chance: float | None = None
    also: Mapping[str, float] = field(default_factory=dict)

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


def read_rows(path: Path) -> Rows:
    """The rows of an ``accuracy.csv``; what was cut short or is no number is left out.

    A row's own task stands last in it: without it, the row is not whole.

    Raises:
        ValueError: if the line of columns is damaged.
    """
    rows: Rows = {}
    if path.exists():
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            table = csv.DictReader(file)
            lines = list(table)
            # Where the line of columns itself was cut short, none follows.
            if lines and (lacking := [name for name in NEEDED if name not in (table.fieldnames or NEEDED)]):
                raise ValueError(
                    f"expected the columns {', '.join(NEEDED)} in {path}, found none called {lacking[0]!r}: remove the "
                    "file, results.json holds most of what it says"
                )
            for line in lines:
                entry = None if None in line.values() or None in line else _entry(line)
                if entry is not None:
                    rows.setdefault(line["after"], {})[line["on"]] = entry
    return {after: row for after, row in rows.items() if after in row}


def _entry(line: Mapping[str, str]) -> Measured | None:
    """One entry, None if it was cut short.

    An older polymask wrote neither how many examples it is of nor what chance is, and "val" in short.
    """
    split, examples, chance = line["split"], line.get("examples", ""), line.get("chance", "")
    try:
        also = json.loads(line.get("also") or "{}")
    except ValueError:
        return None
    if not _is_number(line["value"]) or not isinstance(also, dict):
        return None
    return Measured(
        float(line["value"]),
        "validation" if split == "val" else split,
        line["setting"],
        int(examples) if examples.isdecimal() else 0,
        float(chance) if _is_number(chance) else None,
        {str(name): float(value) for name, value in also.items()},
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
