"""Every task of a bank proved, whatever of it is damaged; a commit on the way starts it over."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from polymask.bank.probe import batch_of
from polymask.bank.reader import Reader
from polymask.bank.store import DamagedBank
from polymask.bank.union import read_union
from polymask.bank.verify import TaskProof, Verification, check_task

TRIES = 3


def prove_all(reader: Reader, base: nn.Module | None) -> Verification:
    """What ``Bank.verify`` finds of a bank as it is now.

    Args:
        reader: the bank as a handle knows it.
        base: the network, where the bank cannot build it; left alone.
    """
    for _ in range(TRIES):
        try:
            now = reader.newest()
        except (DamagedBank, FileNotFoundError) as error:
            found = _prove(reader, base)
            return Verification(found.tasks, (str(error), *found.failures))
        found = _prove(now, base)
        if found.ok or now.is_latest():
            break
    return found


def _prove(reader: Reader, base: nn.Module | None) -> Verification:
    failures: list[str] = []

    def attempt(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except DamagedBank as error:
            failures.append(str(error))

    about, path = reader.head.about, reader.path
    sites = attempt(lambda: reader.model(copy.deepcopy(base)))
    batch = attempt(lambda: batch_of(path, about["probe"]))
    if about["learner"] is not None:
        attempt(reader.learner)
    if about["held"] is not None:
        attempt(lambda: read_union(path, about["held"]))
    entries, damaged = reader.readable()
    proofs = {
        task: check_task(path, entries[task], partial(reader.record, task), sites, batch)
        if task in entries
        else TaskProof(task, (str(damaged[task]),), behaviour="not compared")
        for task in reader.head.records
    }
    return Verification(proofs, tuple(failures))
