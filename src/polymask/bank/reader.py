"""A bank's files as one handle reads them: entries when they are used, the newest base where an older one is gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from weakref import ref

from torch import Tensor, nn

from polymask.bank.base import bare_sites, read_base, restore
from polymask.bank.entry import Entry
from polymask.bank.head import Head, Line, State, read_head
from polymask.bank.planes import read_record
from polymask.bank.release import files_to_free
from polymask.bank.store import COMMIT, DamagedBank, Gone, free, read_entry, read_state, read_tensors
from polymask.bank.union import Union, read_union, union_of
from polymask.bank.verify import changed_reads
from polymask.builder import Builder
from polymask.held import Held
from polymask.sites.plugs import bare_again, plug_again
from polymask.sites.table import Sites
from polymask.task import TaskRecord, activate
from polymask.wiring import Wiring

Read = TypeVar("Read")


class Reader:
    """What a handle reads of its bank; writing is for ``Bank``.

    Args:
        path: the bank's folder.
        head: its ``bank.json`` as the handle was opened on it, or as it last committed it.

    ``known`` are the records that the bank holds as they are; ``last`` is the file of the entry that was written last,
    its record and its logits, so that the next commit reads no file of another task; ``weights`` are bytes of files.
    """

    def __init__(self, path: Path, head: Head) -> None:
        self.path = path
        self._entries: dict[str, Entry] = {}
        self._union: tuple[str | None, Union] | None = None
        self._lost: str | None = None
        self.last: tuple[str, TaskRecord, Tensor | None] | None = None
        self.known: dict[str, ref[TaskRecord]] = {}
        self.weights: dict[str, int] = {}
        self.go_on_from(head)

    def go_on_from(self, head: Head) -> None:
        """Go on from a head: what is read from now on is what it names."""
        self.head = self.now = head
        self._proved: set[str] = set()
        if self._union is not None and self._union[0] is None:
            # Without a file to name it, it is that of the head before.
            self._union = None

    def newest(self) -> Reader:
        """A reader of the bank as it is now."""
        found = Reader(self.path, read_head(self.path))
        found._entries, found.weights = self._entries, self.weights
        return found

    def is_latest(self) -> bool:
        """Whether ``bank.json`` is still what the handle knows."""
        try:
            return (self.path / COMMIT).read_bytes() == self.head.data
        except FileNotFoundError:
            return False

    def read_latest(self, read: Callable[[], Read]) -> Read:
        """What a read gives; where a later commit took a file away, what it gives on the bank as it is now.

        Raises:
            Gone: if the file is missing although ``bank.json`` names it.
        """
        while True:
            try:
                return read()
            except Gone:
                newest = read_head(self.path)
                if newest.data == self.now.data:
                    raise
                self.now, self._proved = newest, set()

    def outdated(self) -> RuntimeError:
        """The error of a handle that cannot answer any more."""
        return RuntimeError(
            f"expected {self.path} as it was when opened, found that a later commit changed this bank: open it again"
        )

    def line(self, task: str) -> Line:
        """Where a task's record lies.

        Raises:
            KeyError: if there is no such task.
            RuntimeError: if a later commit removed or reissued it.
        """
        opened = self.head.line(task)
        if self.now is not self.head and self.now.records.get(task) != opened:
            raise self.outdated()
        return opened

    def entry(self, task: str) -> Entry:
        """A task's entry, read at its first use."""
        file = self.line(task).entry
        if file not in self._entries:
            self._entries[file] = self.read_latest(lambda: self._entry(task))
        return self._entries[file]

    def _entry(self, task: str) -> Entry:
        file = self.line(task).entry
        return {**read_entry(self.path, file), "file": file}

    def remember_written(self, entries: Sequence[Entry], digest: str | None, union: Union) -> None:
        """Know entries and a union that were just written."""
        self._entries |= {entry["file"]: entry for entry in entries}
        self._union = digest, union

    def has_all_entries(self) -> bool:
        """Whether every entry has been read."""
        return all(line.entry in self._entries for line in self.head.records.values())

    def readable(self) -> tuple[dict[str, Entry], dict[str, DamagedBank]]:
        """The entries of all tasks that have a whole one, and what is wrong with the others."""
        found: dict[str, Entry] = {}
        damaged: dict[str, DamagedBank] = {}
        for task in self.head.records:
            try:
                found[task] = self.entry(task)
            except DamagedBank as error:
                damaged[task] = error
        return found, damaged

    def record(self, task: str) -> TaskRecord:
        """A task's record, checked."""
        found = self.read_latest(lambda: read_record(self.path, self.now.about["owners"], self.entry(task)))
        if task not in self.known or self.known[task]() is None:
            self.remember_records([found])
        return found

    def remember_records(self, records: Sequence[TaskRecord]) -> None:
        """Note records that the bank holds as they are, as long as somebody else holds them too."""
        self.known |= {record.meta.task: ref(record) for record in records}

    def proof(self, task: str) -> dict[str, Any] | None:
        """What was noted of a task's probe: of its last revision, or of the moment it was learned if that has none."""
        found: dict[str, Any] | None = self.entry(task)["probe"] or self.entry(task).get("learned")
        return found

    def logits(self, task: str) -> Tensor:
        """The stored logits of the probe of a task that has one."""
        return self.read_latest(lambda: read_tensors(self.path, (self.proof(task) or {})["logits"])["logits"])

    def model(self, base: nn.Module | None = None) -> Sites:
        """The network with the bank's base and sites; see ``Bank.model``."""
        builder = self.head.about["builder"]
        if base is None and builder is None:
            raise ValueError("expected a network, found a bank without a builder: bring the network as base=")
        module = Builder.from_json(builder).build() if base is None else base

        def read() -> Sites:
            about = self.now.about
            return restore(self.path, about["base"], about["sites"], about["units"], module, wiring_of(about))

        with bare_again(module):
            plug_again(module, self.head.about.get("plugged", ()))
            return self.read_latest(read)

    def activate(self, sites: Sites, task: str) -> None:
        """Make a task the active one; on a newer base than the handle's only if it reads there what it read.

        Raises:
            RuntimeError: if it does not.
        """
        record = self.record(task)
        if self.now is not self.head and task not in self._proved:
            if changed_reads(sites, record):
                raise self.outdated()
            self._proved.add(task)
        activate(sites, record)

    def tensors(self) -> dict[str, Tensor]:
        """The base as committed, stored and drawn tensors."""
        return self.read_latest(lambda: read_base(self.path, self.now.about["base"], self.now.about["sites"]))

    def learner(self) -> dict[str, Any]:
        """What the last commit kept of the learner; see ``Bank.learner``."""
        if self.head.about["learner"] is None:
            raise FileNotFoundError(
                f"expected the state of a learner in {self.path}, found none: the bank answers for its tasks, but to "
                "learn another, commit with learner= first"
            )
        try:
            return read_state(self.path, self.head.about["learner"])
        except Gone as error:
            if self.is_latest():
                raise
            raise self.outdated() from error

    def union(self, sites: Sites | None = None) -> Union:
        """What finished tasks read; from the records where its file is missing, damaged or not written yet.

        Args:
            sites: a model on whose base that is; None: the bank's own base.
        """
        digest = self.head.about["held"]
        if self._union is None or self._union[0] != digest:
            self._union = digest, self._read_union(digest, sites)
        return self._union[1]

    def _read_union(self, digest: str | None, sites: Sites | None) -> Union:
        if digest is not None:
            try:
                return read_union(self.path, digest)
            except DamagedBank as error:
                if not self.is_latest():
                    raise self.outdated() from error
                self._lost = digest
        return Union(self.read_by(list(self.head.records), sites))

    def drop_lost(self) -> None:
        """Delete the file of a union that was found damaged, or the same content would not be written again."""
        if self._lost is not None:
            free(self.path, {self._lost})
            self._lost = None

    def read_by(self, tasks: Sequence[str], sites: Sites | None = None) -> Held:
        """What these tasks read, from their records; on the bank's own base or on that of a model."""
        return union_of(sites or self.bare_sites(), map(self.record, tasks)) if tasks else {}

    def files_to_free(self, about: State, gone: Sequence[Entry], new: Sequence[Entry] = ()) -> set[str]:
        """The files that a new state does not need any more; entries are read only if one of them is gone.

        Args:
            about: what the json is to say.
            gone: the entries that are replaced or removed.
            new: the entries that are new.
        """
        if not gone:
            return files_to_free(self.head.about, about, new)
        entries, damaged = self.readable()
        names = {entry["file"] for entry in gone}
        others = [entry for entry in entries.values() if entry["file"] not in names]
        # An entry that cannot be read may share a file with one that is gone.
        return files_to_free(self.head.about, about, [*others, *new], () if damaged else gone)

    def bare_sites(self) -> Sites:
        """The bank's sites on its base, without the network."""
        about = self.head.about
        return bare_sites(about["sites"], about["units"], wiring_of(about), self.tensors())


def wiring_of(about: State) -> Wiring | None:
    """What masked units feed, if a bank says it."""
    return Wiring.from_json(about["wiring"]) if about["wiring"] else None
