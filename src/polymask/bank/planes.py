"""Records as they lie in files: their own, and the planes of owners that several share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polymask.bank.entry import Entry, check, from_entry, shared_digests
from polymask.bank.head import State
from polymask.bank.store import DamagedBank, path_of, read_tensors, size_of, write_tensors
from polymask.parts.pack import Packed
from polymask.task import TaskRecord


def read_record(folder: Path, owners: State, entry: Entry) -> TaskRecord:
    """The record of an entry; the entry, its file and the planes it shares are checked.

    Args:
        folder: the bank's folder.
        owners: what the bank says of its planes of owners.
        entry: the entry.
    """
    check(entry)
    tensors = read_tensors(folder, entry["tensors"]) if entry["tensors"] else {}
    shared = any(mask["codec"] == "owners" for mask in entry["masks"].values())
    try:
        locals_ = {digest: read_tensors(folder, digest) for digest in shared_digests(entry)}
    except DamagedBank as error:
        raise type(error)(f"{error}; task {entry['task']!r} shares it with others") from error
    return from_entry(entry, tensors, read_planes(folder, owners) if shared else {}, locals_)


def read_planes(folder: Path, owners: State) -> dict[str, Packed]:
    """The planes of owners, by tensor name."""
    payloads = read_tensors(folder, owners["file"]) if owners["file"] else {}
    return {
        name: Packed("owners", tuple(owners["planes"][name]["shape"]), payload, owners["planes"][name]["bits"])
        for name, payload in payloads.items()
    }


def write_planes(
    folder: Path, owners: State, planes: Mapping[str, Packed], tasks: Sequence[str], given: Sequence[TaskRecord] = ()
) -> dict[str, Any]:
    """Write the planes that the records of a new state share.

    Args:
        folder: the bank's folder.
        owners: what the bank says of its planes, as committed.
        planes: the planes, from ``merge_planes``.
        tasks: the tasks of the new state.
        given: the records of this commit, in order of learning.

    Returns:
        What the json says of the planes: their file, shape and bits, and the bytes that each task added to them.
    """
    file = write_tensors(folder, {name: plane.payload for name, plane in planes.items()}) if planes else None
    left = set(tasks)
    added = {task: count for task, count in owners["added"].items() if task in left}
    grown = (size_of(path_of(folder, file)) if file else 0) - sum(added.values())
    if grown:
        last = [record.meta.task for record in given] or tasks
        added[last[-1]] = added.get(last[-1], 0) + grown
    about = {name: {"shape": list(plane.shape), "bits": plane.bits} for name, plane in sorted(planes.items())}
    return {"file": file, "planes": about, "added": added}


def has_owners(records: Sequence[TaskRecord]) -> bool:
    """Whether a record of these has a mask on a plane of owners."""
    return any(packed.codec == "owners" for record in records for packed in record.masks.values())
