"""What a commit writes: the files of new records with their proof, and the planes of owners that records share."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from polymask.bank.entry import Entry, check, from_entry, merge_planes, same_content, seal, to_entry
from polymask.bank.probe import batch_of, prove
from polymask.bank.store import as_json, path_of, read_tensors, size_of, write_entry, write_tensors
from polymask.bank.verify import content
from polymask.parts.pack import Packed
from polymask.sites.table import Sites, bake
from polymask.task import TaskRecord, activate, check_fits

State = dict[str, Any]


def entry_of(state: State, task: str) -> Entry:
    """The entry of a task in a bank's json.

    Raises:
        KeyError: if there is none; it lists those there are.
    """
    for entry in state["records"]:
        if entry["task"] == task:
            found: Entry = entry
            return found
    known = ", ".join(repr(entry["task"]) for entry in state["records"])
    raise KeyError(f"expected one of the tasks {known or '(none yet)'}, found {task!r}")


def read_record(folder: Path, state: State, entry: Entry) -> TaskRecord:
    """The record of an entry; the entry, its file and the planes it shares are checked."""
    check(entry)
    tensors = read_tensors(folder, entry["tensors"]) if entry["tensors"] else {}
    shared = any(mask["codec"] == "owners" for mask in entry["masks"].values())
    return from_entry(entry, tensors, read_planes(folder, state) if shared else {})


def read_planes(folder: Path, state: State) -> dict[str, Packed]:
    """The planes of owners, by tensor name."""
    owners = state["owners"]
    payloads = read_tensors(folder, owners["file"]) if owners["file"] else {}
    return {
        name: Packed("owners", tuple(owners["planes"][name]["shape"]), payload, owners["planes"][name]["bits"])
        for name, payload in payloads.items()
    }


def write_records(folder: Path, state: State, given: Sequence[TaskRecord], sites: Sites) -> dict[str, Entry]:
    """Write the files of the records that are new or say something new, and prove their behaviour.

    Args:
        folder: the bank's folder.
        state: the bank's json as committed.
        given: records, new and old.
        sites: the attached model.

    Returns:
        Task -> entry, of those records alone.

    Raises:
        ValueError: if a record says another thing than the base, or than its earlier self of the same revision.
    """
    batch = batch_of(folder, state["probe"])
    old = {entry["task"]: entry for entry in state["records"]}
    changed: dict[str, Entry] = {}
    for record in given:
        task = record.meta.task
        entry, tensors = to_entry(record)
        entry = seal({**entry, "tensors": write_tensors(folder, tensors) if tensors else None})
        if task in old and old[task]["digest"] == entry["digest"]:
            continue
        again = task in old and record.meta.revision <= old[task]["meta"]["revision"]
        if again and not same_content(record, read_record(folder, state, old[task])):
            raise ValueError(
                f"expected task {task!r} as it is in the bank, found another record of revision "
                f"{record.meta.revision}: a reissued record has a higher revision, a new task another name"
            )
        _check_record(sites, record)
        proof = prove(folder, _plain(sites, record), batch) if batch is not None else None
        whole = as_json({**entry, "probe": proof}, f"the record of task {task!r}")
        changed[task] = {**whole, "file": write_entry(folder, whole)}
    return changed


def _check_record(sites: Sites, record: TaskRecord) -> None:
    check_fits(sites, record)
    for name, value in record.private.items():
        if value.dtype != sites.tensor(name).dtype:
            raise ValueError(
                f"expected the private {name!r} of task {record.meta.task!r} to be {sites.tensor(name).dtype}, found "
                f"{value.dtype}: keep it in the dtype that the network computes in"
            )
    if record.meta.exact is True and (changed := content(sites, record)):
        raise ValueError(f"{changed[0]} since the task ended: commit a record before the base learns on")


def _plain(sites: Sites, record: TaskRecord) -> nn.Module:
    sites = copy.deepcopy(sites)
    sites.settle()
    activate(sites, record)
    return bake(sites.model)


def share(folder: Path, state: State, kept: Sequence[Entry], given: Sequence[TaskRecord]) -> dict[str, Any]:
    """Write the planes that the records of a new state share.

    Args:
        folder: the bank's folder.
        state: the bank's new json, all but its planes.
        kept: the entries that are as they were.
        given: the records of this commit, in order of learning.

    Returns:
        What the json says of the planes: their file, shape and bits, and the bytes that each task added to them.
    """
    planes = merge_planes(read_planes(folder, state), kept, given)
    file = write_tensors(folder, {name: plane.payload for name, plane in planes.items()}) if planes else None
    tasks = [entry["task"] for entry in state["records"]]
    added = {task: count for task, count in state["owners"]["added"].items() if task in tasks}
    grown = (size_of(path_of(folder, file)) if file else 0) - sum(added.values())
    if grown:
        last = [record.meta.task for record in given] or tasks
        added[last[-1]] = added.get(last[-1], 0) + grown
    about = {name: {"shape": list(plane.shape), "bits": plane.bits} for name, plane in sorted(planes.items())}
    return {"file": file, "planes": about, "added": added}


def files_of(state: State) -> set[str]:
    """The digests of all files that a bank's json refers to."""
    files = [state["base"]["digest"], state["learner"], state["owners"]["file"], (state["probe"] or {}).get("file")]
    for entry in state["records"]:
        files += [entry["file"], entry["tensors"], (entry["probe"] or {}).get("logits")]
    return {file for file in files if file}
