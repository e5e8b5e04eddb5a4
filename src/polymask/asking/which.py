"""Raw inputs without a task: what all tasks of a bank take, and who is asked which of them an input belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from polymask.asking.answers import Answer, Read
from polymask.asking.wanted import Wanted, wanted_by
from polymask.bank.bank import Bank
from polymask.calling import tensors_of
from polymask.inference.beside import calibration_in, shortlist_in, statistics_in
from polymask.inference.infer import By, Inference, Way
from polymask.inference.inferred import Inferred
from polymask.inference.rows import at_rows
from polymask.streams.texts.described import inputs_from
from polymask.streams.texts.text import Text
from polymask.task import TaskRecord

NONE = "none of these"
"""What stands for the task of an input that belongs to no task."""


def wanted_by_all(bank: Bank) -> Wanted:
    """What inputs the tasks of a bank take, if all take the same.

    Raises:
        ValueError: if there is no task, or two take images of other sizes or channels.
    """
    every = [wanted_by(bank, bank.record(task).meta) for task in bank.tasks]
    if not every:
        raise ValueError(f"expected a finished task, found none in {bank.path}")
    for one in every[1:]:
        if not one.alike(every[0]):
            raise ValueError(
                f"expected tasks that take inputs of one shape, found {every[0]} for {every[0].task!r} and {one} for "
                f"{one.task!r}: say which task is meant"
            )
    return every[0]


def inference_of(
    bank: Bank, base: nn.Module | None = None, way: Way | None = None, by: By | None = None, reject: float = 0.05
) -> Inference:
    """Who is asked, of raw inputs, which task they belong to; with what the run's folder keeps beside the bank.

    Args:
        bank: where the tasks are.
        base: the network, where the bank does not know how it is built; left alone.
        way: how to ask; None: as fits the tasks and what the run has kept, see ``Inference``.
        by: what tells the right task; None: what fits the way.
        reject: the share of inputs of known tasks that may be refused as of none of these.

    Raises:
        ValueError: if what is kept beside the bank is damaged, or ``reject`` is not between 0 and 1.
    """
    folder, records = bank.path.parent, {task: bank.record(task) for task in bank.tasks}
    known, few = statistics_in(folder, records), shortlist_in(folder, records)
    inference = Inference(bank, way, by, base, prepare_inputs, known, shortlist=few)
    inference.calibration = calibration_in(folder, records, inference.way, inference.by, reject=reject)
    return inference


def by_task(found: Inferred, read: Read, answered: Callable[[str, Read], Iterable[Answer]]) -> Iterator[Answer]:
    """What each input's own task says of it, in the order of the inputs.

    Args:
        found: which task each belongs to.
        read: the inputs.
        answered: ``(task, some of them) -> an answer each``.

    Yields:
        The answers.
    """
    answers: dict[int, Answer] = {}
    for task in dict.fromkeys(found.choice):
        rows = [row for row, choice in enumerate(found.choice) if choice == task]
        part = Read(
            [read.names[row] for row in rows], tensors_of(read.batch, partial(at_rows, rows=torch.tensor(rows)))
        )
        for row, one in zip(rows, answered(task, part), strict=True):
            answers[row] = replace(one, task=task, margin=float(found.margin[row]))
            if found.known is not None and not found.known[row] and not one.problem:
                answers[row] = Answer(one.file, task=NONE, margin=float(found.margin[row]))
    yield from (answers[row] for row in range(len(read.names)))


def prepare_inputs(record: TaskRecord, x: Any) -> Any:
    """Raw inputs as a record says that its network reads them."""
    if not record.meta.inputs:
        return x
    inputs = inputs_from(record.meta.inputs)
    return inputs(x) if isinstance(x, Tensor) or isinstance(inputs, Text) else x
