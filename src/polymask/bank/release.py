"""Which files a bank's json refers to, and which a new one does not need any more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from polymask.bank.base import files_of_base
from polymask.bank.entry import Entry, shared_digests
from polymask.bank.head import State


def files_of(about: State) -> set[str]:
    """The digests of the files that a bank's json names itself, but for the entries."""
    files = [*files_of_base(about["base"]), about["learner"], about["held"], about["owners"]["file"]]
    return {file for file in (*files, (about["probe"] or {}).get("file")) if file}


def files_of_entry(entry: Entry) -> set[str]:
    """The digests of an entry's files, its own too."""
    return {entry["file"], *tensors_of(entry), *(proof["logits"] for proof in proofs_of(entry))}


def tensors_of(entry: Entry) -> list[str]:
    """The digests of the files of an entry's tensors, those that it shares with others too."""
    return [file for file in (entry["tensors"], *shared_digests(entry)) if file]


def proofs_of(entry: Entry) -> list[Mapping[str, Any]]:
    """What was noted of a task's behaviour: at its last revision, and when it was learned if that was another."""
    return [proof for proof in (entry.get("probe"), entry.get("learned")) if proof]


def files_to_free(was: State, about: State, entries: Iterable[Entry] = (), gone: Iterable[Entry] = ()) -> set[str]:
    """The files that a new state does not need any more.

    Args:
        was: what the json said.
        about: what it is to say.
        entries: entries that go on, all of them if one is gone: they may share its files.
        gone: entries that are replaced or removed.
    """
    keep = files_of(about).union(*map(files_of_entry, entries))
    return files_of(was).union(*map(files_of_entry, gone)) - keep
