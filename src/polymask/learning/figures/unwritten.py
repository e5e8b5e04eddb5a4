"""What a run weighs that no folder holds: the bytes that the files of its bank would have."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from polymask.bank.base import values_of
from polymask.bank.entry import shared_files, to_entry
from polymask.bank.store import digest_of, to_bytes
from polymask.sites.table import Sites
from polymask.task import TaskRecord


@dataclass
class Unwritten:
    """The bytes of the files that records would have in a bank, weighed as they are issued; nothing is written.

    Args:
        drawn: the tensors of the base that no file would hold.
    """

    drawn: Collection[str] = ()
    _backbone: int = 0
    _own: dict[str, int] = field(default_factory=dict)
    _planes: dict[str, Any] = field(default_factory=dict)
    _grown: dict[str, int] = field(default_factory=dict)
    _seen: dict[str, str] = field(default_factory=dict)

    def weigh(self, records: Sequence[TaskRecord], sites: Sites) -> None:
        """Weigh what a commit of these records would write.

        Args:
            records: the records, in order of learning.
            sites: the attached model that holds the base; no task is open.
        """
        base = {name: value for name, value in values_of(sites).items() if name not in self.drawn}
        self._backbone = len(to_bytes(base)) if base else 0
        for record in records:
            task, (_, tensors) = record.meta.task, to_entry(record)
            files = {digest_of(tensors): tensors, **shared_files(record)}
            mine = [tensors for digest, tensors in files.items() if self._seen.setdefault(digest, task) == task]
            self._own[task] = sum(len(to_bytes(tensors)) for tensors in mine if tensors)
            self._planes |= {name: one.payload for name, one in record.masks.items() if one.codec == "owners"}
        if self._planes and records:
            last = records[-1].meta.task
            grown = len(to_bytes(self._planes)) - sum(self._grown.values())
            self._grown[last] = self._grown.get(last, 0) + grown

    def sizes(self) -> dict[str, Any]:
        """The "backbone", and "per_task" what each added, as ``Bank.sizes`` says them; nothing else is weighed."""
        return {
            "backbone": self._backbone,
            "per_task": {task: size + self._grown.get(task, 0) for task, size in self._own.items()},
        }
