"""The end of a task: its record goes, and what only it read of the network may learn again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from polymask.method import guard
from polymask.method.checks import refuse_wrapped
from polymask.parts.pack import unpack
from polymask.sites.table import Sites
from polymask.task import TaskRecord

if TYPE_CHECKING:
    from polymask.method.contract import Method


@dataclass(frozen=True)
class Removed:
    """What the removal of a task gives back.

    Args:
        task: its name.
        freed: how many entries of the shared weights may learn more freely than before.
        reserved: what no task needs for itself any more and yet stays as it is, in words; empty: nothing.

    >>> print(Removed("b", 12, "5 weights that later tasks read"))
    task 'b' is removed: 12 entries of the network may learn again; reserved stay 5 weights that later tasks read
    """

    task: str
    freed: int
    reserved: str = ""

    def __str__(self) -> str:
        rest = f"; reserved stay {self.reserved}" if self.reserved else ""
        return f"task {self.task!r} is removed: {self.freed or 'no'} entries of the network may learn again{rest}"


def remove(method: Method, task: str) -> Removed:
    """Delete a finished task; see ``Method.remove``. The last task that is left becomes the active one."""
    if method.task is not None:
        raise RuntimeError(
            f"expected no open task, found {method.task!r} in training: end() or abandon() it before a task is removed"
        )
    refuse_wrapped(method.model)
    method.record(task)
    guard.enforce(method, f"remove({task!r})", method.plain)
    was = method._taken()
    method.records = {name: record for name, record in method.records.items() if name != task}
    reserved = method._forget()
    method.watch = guard.watch_from_records(method)
    if method.records:
        method.activate(list(method.records)[-1])
    return Removed(task, _freed(was, method._taken()), reserved)


def read_by(sites: Sites, records: Iterable[TaskRecord]) -> dict[str, Tensor]:
    """Where the masks of any of these tasks are on, for every masked weight; bool, on the weight's device."""
    found = {name: torch.zeros_like(sites.tensor(name), dtype=torch.bool) for name in sites.weights}
    for record in records:
        found = {name: read | (unpack(record.masks[name]) != 0).to(read.device) for name, read in found.items()}
    return found


def _freed(was: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> int:
    return sum(int((now[name] < taken).sum()) for name, taken in was.items())
