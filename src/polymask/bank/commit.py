"""What a commit checks and writes: the files of new records with their proof, the planes of owners, what is held."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from polymask.bank import compare
from polymask.bank.base import base_digest, describe_base, table_of, values_of, write_base
from polymask.bank.entry import Entry, merge_planes, same_content, seal, shared_files, to_entry
from polymask.bank.head import Head
from polymask.bank.planes import has_owners, read_planes, write_planes
from polymask.bank.probe import batch_of, prove
from polymask.bank.reader import Reader
from polymask.bank.store import DamagedBank, as_json, digest_of, write_entry, write_tensors
from polymask.bank.union import Union, loose_of, union_of, with_reads_of, write_union
from polymask.bank.verify import changed_reads
from polymask.held import Held
from polymask.parts.joined import JOINED
from polymask.parts.nest import flatten_state
from polymask.parts.pack import Packed
from polymask.sites.table import Sites, bake, replica
from polymask.sites.trace import effective, strip
from polymask.task import TaskRecord, activate, check_fits


@dataclass(frozen=True)
class Draft:
    """A record that is new or says something new, before anything of it is written.

    Args:
        record: the record.
        entry: what its entry will say, but for the proof.
        tensors: what its file will hold.
        before: the entry that it takes the place of; None: the task is new.
    """

    record: TaskRecord
    entry: Entry
    tensors: dict[str, Tensor]
    before: Entry | None

    @property
    def task(self) -> str:
        """The task's name."""
        return self.record.meta.task


def uncommitted(reader: Reader, records: Mapping[str, TaskRecord]) -> list[TaskRecord]:
    """The records that the handle has not committed or read as they are, those of known tasks first.

    Raises:
        ValueError: if one is under another name than its own, or its name is no text.
    """
    known = reader.known
    given = [(task, record) for task, record in records.items() if task not in known or known[task]() is not record]
    for task, record in given:
        if task != record.meta.task:
            raise ValueError(
                f"expected every record under the name of its task, found {task!r} of task {record.meta.task!r}"
            )
        try:
            task.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"expected a task's name that is text, found {task!r} with half a character (a lone surrogate): "
                "give it a name that UTF-8 can hold"
            ) from error
    old = {task: place for place, task in enumerate(reader.head.records)} if len(given) > 1 else {}
    return [record for _, record in sorted(given, key=lambda pair: old.get(pair[0], len(old)))]


def drafts(reader: Reader, given: Sequence[TaskRecord]) -> list[Draft]:
    """Those of the given records that are new or say something new.

    Raises:
        ValueError: if a record says another thing than its earlier self of the same revision.
    """
    found = []
    for record in given:
        task, (entry, tensors) = record.meta.task, to_entry(record)
        entry = seal({**entry, "tensors": digest_of(tensors) if tensors else None})
        before = reader.entry(task) if task in reader.head.records else None
        if before is not None and before["digest"] == entry["digest"]:
            continue
        again = before is not None and record.meta.revision <= before["meta"]["revision"]
        if again and not same_content(record, reader.record(task)):
            raise ValueError(
                f"expected task {task!r} as it is in the bank, found another record of revision "
                f"{record.meta.revision}: a reissued record has a higher revision, a new task another name"
            )
        found.append(Draft(record, entry, tensors, before))
    return found


def commit(
    reader: Reader, records: Mapping[str, TaskRecord], sites: Sites, learner: Mapping[str, Any] | None
) -> tuple[Head, set[str], list[TaskRecord]]:
    """Check everything, then write all files of a commit but ``bank.json``.

    Args:
        reader: the bank as it is.
        records: task name -> record, in order of learning.
        sites: the attached model that holds the base.
        learner: what the method needs to go on learning.

    Returns:
        What ``bank.json`` is to say, the files that it does not need any more, and the records that were looked at.
    """
    folder, about = reader.path, reader.head.about
    given = uncommitted(reader, records)
    new, values = drafts(reader, given), values_of(sites)
    digest = base_digest(about["base"], values)
    union = check_base(reader, sites, digest, {draft.task for draft in new})
    base, table = describe_base(about["base"], values, digest), table_of(sites, about["sites"])
    for draft in new:
        _check_record(sites, draft.record)
    planes = _planes(reader, given, {draft.task for draft in new})
    state = None if learner is None else flatten_state(learner)
    batch, loose = batch_of(folder, about["probe"]), loose_of(sites)
    moved = [name for name, was in union.loose.items() if loose.get(name, was) != was]
    copied = check_last_answer(reader, sites, batch, new, moved)
    compare.warn_loose(moved)

    write_base(folder, base, values)
    entries = [_write(reader, draft, copied, batch, draft is new[-1]) for draft in new]
    head = reader.head.with_lines({entry["task"]: entry["file"] for entry in entries})
    next_about = {**head.about, "sites": table, "base": base}
    if any(draft.record.meta.private_bits != 32 or JOINED in draft.tensors for draft in new):
        next_about["compact"] = True
    if planes is not None:
        next_about["owners"] = write_planes(folder, about["owners"], planes, list(head.records), given)
    next_about["learner"] = None if state is None else write_tensors(folder, state)
    reader.drop_lost()
    after = Union(_read_after(reader, union, sites, new), loose)
    next_about["held"] = write_union(folder, after) if head.records else None
    gone = [draft.before for draft in new if draft.before is not None]
    free = reader.files_to_free(next_about, gone, entries)
    reader.remember_written(entries, next_about["held"], after)
    return replace(head, about=next_about), free, given


def _planes(reader: Reader, given: Sequence[TaskRecord], replaced: Collection[str]) -> dict[str, Packed] | None:
    """The planes of owners after a commit; None if there is none, now or then."""
    owners = reader.head.about["owners"]
    if not owners["file"] and not has_owners(given):
        return None
    kept = [reader.entry(task) for task in reader.head.records if task not in replaced]
    return merge_planes(read_planes(reader.path, owners), kept, given)


def check_base(reader: Reader, sites: Sites, digest: str | None, reissued: Collection[str]) -> Union:
    """Compare the base with what finished tasks read of it.

    Args:
        reader: the bank as it is.
        sites: the attached model.
        digest: of the base as it is.
        reissued: the tasks whose records are replaced: they may read another base than before.

    Returns:
        What finished tasks read.

    Raises:
        AlteredNetwork: if the base is not what they read.
    """
    base, head = reader.head.about["base"], reader.head
    if base["kind"] != "stored":
        # Its fingerprints are compared, tensor by tensor; the values are the user's alone.
        return reader.union(sites)
    union = reader.union()
    if digest == base["digest"] and not base["drawn"]:
        return union
    if changed := compare.changed_base(union, sites):
        records = {task: _whole(reader, task) for task in head.records if task not in reissued}
        if tasks := compare.tasks_that_read(sites, changed, records):
            compare.refuse_base(reader.path, union, changed, tasks)
    return union


def _whole(reader: Reader, task: str) -> TaskRecord | None:
    """A task's record; None if it is damaged."""
    try:
        return reader.record(task)
    except DamagedBank:
        return None


def check_last_answer(
    reader: Reader, sites: Sites, batch: Any, new: Sequence[Draft], moved: Collection[str]
) -> Sites | None:
    """A copy of the model on which the last finished task answers as it did; None where nothing is to be asked.

    Raises:
        AlteredNetwork: if it answers otherwise.
    """
    last = next(reversed(reader.head.records), None)
    if last in {draft.task for draft in new}:
        last = None
    if batch is None or (last is None and not new):
        return None
    copied = replica(sites)
    copied.clear()
    try:
        entry = None if last is None else reader.entry(last)
        if entry is not None and entry["meta"]["exact"] is True and entry["probe"]:
            compare.check_answer(reader, entry, copied, batch, moved)
    except DamagedBank:
        # Named where the task is used, and by ``verify``.
        pass
    return copied


def _check_record(sites: Sites, record: TaskRecord) -> None:
    check_fits(sites, record)
    for name, value in record.private.items():
        if value.dtype != sites.tensor(name).dtype:
            raise ValueError(
                f"expected the private {name!r} of task {record.meta.task!r} to be {sites.tensor(name).dtype}, found "
                f"{value.dtype}: keep it in the dtype that the network computes in"
            )
    if record.meta.exact is True and (changed := changed_reads(sites, record)):
        raise ValueError(f"{changed[0]} since the task ended: commit a record before the base learns on")


def _write(reader: Reader, draft: Draft, copied: Sites | None, batch: Any, final: bool) -> Entry:
    """Write a record's files; its entry. For the final one the copy of the model is stripped itself."""
    folder, proof, logits = reader.path, None, None
    if draft.tensors:
        write_tensors(folder, draft.tensors, draft.entry["tensors"])
    for digest, tensors in shared_files(draft.record).items():
        write_tensors(folder, tensors, digest)
    if copied is not None and not (draft.before is not None and draft.record.meta.exact is None):
        # What may forget, and is reissued with every task, is proved as it was learned and no more.
        activate(copied, draft.record)
        if final:
            strip(copied.model, effective)
        proof, logits = prove(folder, copied.model if final else bake(copied.model), batch)
    entry = {**draft.entry, "probe": proof}
    if draft.before is not None and (first := draft.before.get("learned") or draft.before["probe"]):
        # What it answered when it was learned, whatever is reissued since.
        entry["learned"] = first
    whole = as_json(entry, f"the record of task {draft.task!r}")
    file = write_entry(folder, whole)
    reader.last = file, draft.record, logits
    return {**whole, "file": file}


def _read_after(reader: Reader, union: Union, sites: Sites, new: Sequence[Draft]) -> Held:
    """What finished tasks read after a commit: anew where a record took the place of another."""
    records = [draft.record for draft in new]
    exact = [d for d in new if d.before is not None and True in (d.before["meta"]["exact"], d.record.meta.exact)]
    if not exact:
        return with_reads_of(union.read, sites, records)
    replaced = {draft.task for draft in new}
    old = [reader.record(task) for task in reader.head.records if task not in replaced]
    return union_of(sites, [*old, *records])
