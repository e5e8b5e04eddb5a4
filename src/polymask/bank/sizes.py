"""What a bank weighs on disk, part by part; and what the files of records would weigh that are in none."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polymask.bank import store
from polymask.bank.base import values_of
from polymask.bank.entry import to_entry
from polymask.bank.reader import Reader
from polymask.bank.release import proofs_of
from polymask.sites.table import Sites
from polymask.task import TaskRecord


def sizes_of(reader: Reader) -> dict[str, Any]:
    """The bytes of a bank's files, as ``Bank.sizes`` says; a file that several share is counted where it came first.

    Of a task whose entry is damaged, what it refers to is not known and not counted.

    Args:
        reader: the bank.
    """
    seen: set[str] = set()

    def size(digest: str | None) -> int:
        if digest is None or digest in seen:
            return 0
        seen.add(digest)
        return weigh(store.path_of(reader.path, digest))

    def weigh(path: Path) -> int:
        # A file is named by what it holds, so that it weighs the same for ever.
        if path.name not in reader.weights or not reader.weights[path.name]:
            reader.weights[path.name] = store.size_of(path)
        return reader.weights[path.name]

    about, (entries, _) = reader.head.about, reader.readable()
    added, files = about["owners"]["added"], {line.entry for line in reader.head.records.values()}
    own = {task: size(entries[task]["tensors"]) if task in entries else 0 for task in reader.head.records}
    return {
        "backbone": size(about["base"]["digest"]),
        "per_task": {task: count + added.get(task, 0) for task, count in own.items()},
        "held": size(about["held"]),
        "learner": size(about["learner"]),
        "probe": size((about["probe"] or {}).get("file"))
        + sum(size(proof["logits"]) for entry in entries.values() for proof in proofs_of(entry)),
        "json": store.size_of(reader.path / store.COMMIT)
        + sum(weigh(store.entry_path(reader.path, file)) for file in files),
    }


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
        self._backbone = len(store.to_bytes(base)) if base else 0
        for record in records:
            task, (_, tensors) = record.meta.task, to_entry(record)
            digest = store.digest_of(tensors)
            first = self._seen.setdefault(digest, task)
            self._own[task] = len(store.to_bytes(tensors)) if tensors and first == task else 0
            self._planes |= {name: one.payload for name, one in record.masks.items() if one.codec == "owners"}
        if self._planes and records:
            last = records[-1].meta.task
            grown = len(store.to_bytes(self._planes)) - sum(self._grown.values())
            self._grown[last] = self._grown.get(last, 0) + grown

    def sizes(self) -> dict[str, Any]:
        """The "backbone" and what "per_task" was added, as ``Bank.sizes`` says them of a bank; what is for learning on is not weighed."""
        return {
            "backbone": self._backbone,
            "per_task": {task: size + self._grown.get(task, 0) for task, size in self._own.items()},
        }
