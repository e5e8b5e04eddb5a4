"""What is compared before a commit: the base that finished tasks read, and what the last of them answers."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from polymask.bank.entry import Entry
from polymask.bank.reader import Reader
from polymask.bank.union import Union, entries_of
from polymask.bank.verify import compare
from polymask.held import AlteredNetwork, find_altered, proof
from polymask.sites.table import Sites, bake
from polymask.task import TaskRecord, activate, fingerprint

WAY_OUT = "nothing was written; method.restore(bank) brings back what finished tasks read"


def changed_base(union: Union, sites: Sites) -> dict[str, str]:
    """The base tensors that are not what finished tasks of exact methods read, each with what was found of it."""
    return find_altered(union.read, sites, proof)


def tasks_that_read(sites: Sites, changed: Mapping[str, str], records: Mapping[str, TaskRecord | None]) -> list[str]:
    """The tasks of exact methods that read what has changed; a task whose record is damaged may have.

    Args:
        sites: the attached model.
        changed: from ``changed_base``.
        records: the records that are to stay as they are; None for a damaged one.
    """
    values = [name for name, found in changed.items() if found == "other values"]
    others = changed.keys() - values
    found = []
    for task, record in records.items():
        if record is None:
            found.append(task)
            continue
        if record.meta.exact is not True:
            continue
        hurt = any(name in record.reads for name in others)
        if not hurt and values:
            read = entries_of(sites, record)
            hurt = any(fingerprint(sites.base(name), read.get(name)) != record.reads.get(name) for name in values)
        if hurt:
            found.append(task)
    return found


def refuse_base(folder: Path, union: Union, changed: Mapping[str, str], tasks: Collection[str]) -> None:
    """Raise an ``AlteredNetwork`` that names the tensors, the tasks, the likely cause and the way out."""
    what = _listed([f"{name!r} ({found})" for name, found in changed.items()])
    raise AlteredNetwork(
        f"expected the base as the bank in {folder} holds it, found {what} changed, read by {_tasks(tasks)}: "
        f"{_cause(union, changed)}; {WAY_OUT}"
    )


def _cause(union: Union, changed: Mapping[str, str]) -> str:
    found = set(changed.values())
    if "gone" in found:
        return "layers were taken out or replaced, or this is another network"
    if any("instead of" in words and "shape" not in words for words in found):
        return "the network was brought to another dtype, as half() or bfloat16() do"
    if any("shape" in words for words in found):
        return "layers were replaced by smaller ones"
    if len(changed) == len(union.read):
        return "weights were probably loaded or drawn anew since that task ended"
    return "something wrote into it since that task ended: weights loaded again, an edit, statistics reset"


def check_answer(reader: Reader, entry: Entry, copied: Sites, batch: Any, loose: Collection[str] = ()) -> None:
    """Compare what a finished task answers on the bank's probe with the logits that are stored.

    Args:
        reader: the bank.
        entry: the task's entry.
        copied: a copy of the attached model; the task is activated on it.
        batch: the probe.
        loose: the tensors without a role that have changed, for the message.

    Raises:
        AlteredNetwork: if it answers otherwise.
    """
    last = reader.last
    record, was = last[1:] if last and last[0] == entry["file"] else (reader.record(entry["task"]), None)
    task, why = record.meta.task, _listed([repr(name) for name in loose])
    cause = f"{why} changed, which no record brings" if loose else "a layer, an activation, a hook or an eps changed"
    try:
        activate(copied, record)
        words, same = compare(reader.path, entry["probe"], copied.model, batch, record.meta.exact, was)
        if not same:
            # As it was asked then, if at the price of a copy: a mask that multiplies rounds otherwise once it is baked.
            words, same = compare(reader.path, entry["probe"], bake(copied.model), batch, record.meta.exact, was)
    except (RuntimeError, ValueError, LookupError, TypeError, AssertionError, AttributeError) as error:
        words, same = f"it refuses the probe ({error})", False
    if not same:
        raise AlteredNetwork(
            f"expected task {task!r} to answer the probe as the bank in {reader.path} holds it, found that what it "
            f"reads is as it was and the network is not ({words}): {cause} since that task ended; put it back, nothing "
            "was written"
        )


def warn_loose(changed: Collection[str]) -> None:
    """Warn of tensors that no record brings and that are not what they were."""
    if changed:
        warnings.warn(
            f"{_listed([repr(name) for name in changed])} changed since the last commit: a buffer that no state dict "
            "holds, and no record brings it. The last task answers as it did; make it persistent if others may not",
            stacklevel=4,
        )


def _tasks(tasks: Collection[str]) -> str:
    return f"task{'s' if len(tasks) > 1 else ''} {_listed([repr(task) for task in tasks])}"


def _listed(names: Collection[str], most: int = 4) -> str:
    """Names for a sentence: the first few, and how many more.

    >>> _listed("abcdef"), _listed("ab")
    ('a, b, c, d and 2 more', 'a, b')
    """
    first, rest = list(names)[:most], len(names) - most
    return ", ".join(first) + (f" and {rest} more" if rest > 0 else "")
