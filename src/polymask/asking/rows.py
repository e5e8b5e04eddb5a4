"""What is known of every task of a run: from its bank's heads, what was measured, and its masks if they are few."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from polymask.asking.named import places_of
from polymask.bank.bank import Bank
from polymask.parts.pack import unpack
from polymask.report.masks import Share, shares
from polymask.report.measured import Measured, read_rows

FEW = 50
"""Tasks of which the masks are read unless it is asked otherwise: all others cost a small file each."""


@dataclass(frozen=True)
class TaskRow:
    """What is known of a task.

    Args:
        place: in the order of learning, from 1; no other task ever gets it.
        task: its name.
        labels: the names of its outputs, as far as they have any.
        outputs: how many there are.
        accuracy: the run's metric as it was last measured; None where no run says.
        split: of the task's data, "test" or "val".
        setting: metric, precision, device and versions.
        after: the task after which it was measured: its own, of a method that keeps it to the bit.
        bytes: what it added on disk.
        density: the share of the masked entries that it reads; None where no task has a mask, or none was read.
        overlap: the share of those that another task reads as well; None also of a single task.
        revision: how often its record has been reissued.
        exact: what its method promises: True, that what was measured once stands; see ``Meta``.
    """

    place: int
    task: str
    labels: tuple[str, ...]
    outputs: int
    accuracy: float | None
    split: str
    setting: str
    after: str
    bytes: int
    density: float | None
    overlap: float | None
    revision: int
    exact: bool | float | None


def rows_of(bank: Bank, masks: bool | None = None) -> list[TaskRow]:
    """What is known of every task, in order of learning.

    Args:
        bank: a run's bank, or one alone, of which nothing was measured.
        masks: whether to read the masks; None: of up to ``FEW`` tasks.
    """
    about, places, added = bank.about, places_of(bank), bank.sizes()["per_task"]
    known = measured_in(bank.path.parent) if bank.path.name == "bank" else {}
    read = len(places) <= FEW if masks is None else masks
    found = shares(list(places), lambda task: _masks(bank, task)) if read else {}
    rows = []
    for entry in about["records"]:
        task, meta = entry["task"], entry["meta"]
        after, one = known.get(task, ("", None))
        share = found.get(task, Share(None, None))
        rows.append(
            TaskRow(
                places[task],
                task,
                tuple(meta["labels"]),
                meta["outputs"],
                None if one is None else one.value,
                "" if one is None else one.split,
                "" if one is None else one.setting,
                after,
                added[task],
                share.density,
                share.overlap,
                meta["revision"],
                meta["exact"],
            )
        )
    return rows


def measured_in(folder: Path) -> dict[str, tuple[str, Measured]]:
    """Task -> after which task it was measured last, and what, in a run's folder."""
    rows = read_rows(folder / "accuracy.csv") or _reported(folder / "results.json")
    return {on: (after, one) for after, row in rows.items() for on, one in row.items()}


def _reported(path: Path) -> dict[str, dict[str, Measured]]:
    """The matrix of a ``results.json``, of an older polymask that kept no sheet; nothing where it cannot be read."""
    try:
        said: Mapping[str, Any] = json.loads(path.read_text())
        tasks, rows = said["tasks"], said["accuracy"] or ()
        known = [{on: x for on, x in zip(tasks, row, strict=True) if x is not None} for row in rows]
        return {
            after: {on: Measured(float(x)) for on, x in row.items()} for after, row in zip(tasks, known, strict=False)
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _masks(bank: Bank, task: str) -> dict[str, Tensor]:
    """What a task's masks let through; a scale beside masks on units is none."""
    masks = bank.record(task).masks.items()
    return {name: unpack(one) != 0 for name, one in masks if (one.codec, one.bits) != ("scaled", 0)}
