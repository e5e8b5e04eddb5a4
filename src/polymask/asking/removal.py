"""A task taken out of a run's folder: its record goes, every other one stays to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from polymask.asking.named import places_of
from polymask.bank.bank import Bank
from polymask.inference.beside import path_of
from polymask.lock import locked


@dataclass(frozen=True)
class Freed:
    """What the removal of a task freed on disk.

    Args:
        task: its name.
        place: in the order of learning; no other task ever gets it.
        bytes: by how much the bank is smaller.
        left: how many tasks are left.

    >>> print(Freed("b", 2, 12, 3))
    task 'b' (#2) is removed, 12 bytes are free; the other 3 answer as before
    """

    task: str
    place: int
    bytes: int
    left: int

    def __str__(self) -> str:
        others = {0: "no task is left", 1: "the other one answers as before"}
        rest = others.get(self.left, f"the other {self.left} answer as before")
        return f"task {self.task!r} (#{self.place}) is removed, {self.bytes} bytes are free; {rest}"


def remove_from(bank: Bank, task: str) -> Freed:
    """Forget a task of a bank, and of the run that it belongs to.

    Args:
        bank: opened on its folder.
        task: its name.

    Raises:
        RuntimeError: if a run is writing into the folder, or the bank was written to since it was opened.
    """
    with _alone(bank.path):
        place, before = places_of(bank)[task], weight(bank.path)
        bank.remove(task)
        # What told the task apart was measured on its data: it is forgotten with it.
        path_of(bank.path.parent, task).unlink(missing_ok=True)
        return Freed(task, place, before - weight(bank.path), len(bank.tasks))


def weight(folder: Path) -> int:
    """The bytes of a bank's files."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the run that a bank belongs to, if it belongs to one: a run must not lose a task under its hands."""
    run = path.parent
    if path.name != "bank" or not (run / "config.yaml").is_file():
        yield
        return
    busy = f"expected {run} to be free, found a run writing into it: wait for it, or stop it, and remove the task then"
    with locked(run, 0, busy):
        yield
