"""Many files asked one after the other: batches that memory holds, and a line for each input."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymask.asking.files import expand
from polymask.asking.given import read_file
from polymask.asking.wanted import Wanted
from polymask.calling import leaves_of


@dataclass(frozen=True)
class Answer:
    """What a task says of one input.

    Args:
        file: where it came from; of the rows of an array ``x.npy[3]``.
        label: the most likely label, its number where it has no name; empty if the file could not be read.
        probability: of that label, the softmax over the task's own outputs; NaN if the file could not be read.
        problem: why it could not be read, in a sentence; empty if it could.
        task: the task that was found for it, if none was named; "none of these" if it belongs to none.
        margin: how clearly, see ``Inferred.margin``; NaN if it was named.
    """

    file: str
    label: str = ""
    probability: float = float("nan")
    problem: str = ""
    task: str = ""
    margin: float = float("nan")


@dataclass(frozen=True)
class Read:
    """Some inputs that were read together, or one file that could not be.

    Args:
        names: of the inputs, or of the file.
        batch: as ``given.as_batch`` gives it; None where there is a problem.
        problem: what is wrong.
    """

    names: list[str]
    batch: Any = None
    problem: ValueError | None = None


def read_batches(paths: Iterable[str | os.PathLike[str]], wanted: Wanted, size: int) -> Iterator[Read]:
    """Files in order, alike ones together, at most ``size`` inputs at a time; no more are held in memory.

    Args:
        paths: files and folders.
        wanted: what the task takes.
        size: inputs in a batch.

    Yields:
        What was read, or why a file could not be.

    Raises:
        FileNotFoundError: if one of them is not there; before any is read.
    """
    held: list[tuple[str, Tensor]] = []
    for path in expand(paths):
        try:
            for names, batch in _read_named(path, wanted, size):
                if held and not _fit(held, batch, size):
                    yield _joined(held)
                    held = []
                if isinstance(batch, Tensor) and len(names) == 1:
                    held.append((names[0], batch))
                else:
                    yield Read(names, batch)
        except ValueError as error:
            if held:
                yield _joined(held)
                held = []
            yield Read([str(path)], problem=error)
    if held:
        yield _joined(held)


def _read_named(path: Path, wanted: Wanted, size: int) -> Iterator[tuple[list[str], Any]]:
    """The batches of a file, with a name for each of their rows."""
    done = 0
    for batch in read_file(path, wanted, size):
        rows = max((len(leaf) for leaf in leaves_of(batch) if leaf.ndim), default=1)
        alone = done == 0 and rows == 1
        yield [str(path)] if alone else [f"{path}[{done + row}]" for row in range(rows)], batch
        done += rows
    if done == 0:
        raise ValueError(f"expected one input or more in {path}, found an array without rows")


def _fit(held: list[tuple[str, Tensor]], batch: Any, size: int) -> bool:
    """Whether one more input may join those that are held."""
    first = held[0][1]
    alike = isinstance(batch, Tensor) and len(batch) == 1 and (first.shape, first.dtype) == (batch.shape, batch.dtype)
    return alike and len(held) < size


def _joined(held: list[tuple[str, Tensor]]) -> Read:
    return Read([name for name, _ in held], torch.cat([batch for _, batch in held]))
