"""Open what a run has learned and ask it: through the bank alone, without the method or the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from polymask.bank.bank import Bank
from polymask.calling import as_read
from polymask.probe import run_probe
from polymask.streams.inputs import Inputs
from polymask.task import TaskRecord


@dataclass
class Loaded:
    """The finished tasks of a run.

    Args:
        bank: where they are.
        base: the network, where the bank does not know how it is built.
    """

    bank: Bank
    base: nn.Module | None = None
    _plain: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks, in order of learning."""
        return list(self.bank.tasks)

    def labels(self, task: str) -> list[str]:
        """The names of a task's outputs, as far as they have any."""
        return list(self.bank.record(task).meta.labels)

    def logits(self, task: str, x: Any) -> Tensor:
        """The logits ``(N, outputs)`` of raw inputs, prepared as the task's training data were."""
        record = self.bank.record(task)
        if task not in self._plain:
            # One network at a time: many tasks of a large one would not fit.
            self._plain = {task: self.bank.plain(task, self.base)}
        plain = self._plain[task]
        logits = run_probe(plain, as_read(plain, prepare_inputs(record, x)))
        return logits[:, : record.meta.outputs] if logits.ndim == 2 else logits

    def predict(self, task: str, x: Any) -> Tensor:
        """The most likely label ``(N,)`` of every row."""
        return self.logits(task, x).argmax(-1)


def load(folder: str | Path, base: nn.Module | None = None) -> Loaded:
    """Open a run's folder, or a bank.

    Args:
        folder: what ``--out`` was, or its ``bank``.
        base: the network, where the bank does not know how it is built; left alone.

    Raises:
        FileNotFoundError: if there is no bank.

    >>> import tempfile, torch
    >>> from polymask.nets import MLP
    >>> from polymask.learning.learn import learn
    >>> from polymask.learning.training import Training
    >>> from polymask.streams.images import digits
    >>> with tempfile.TemporaryDirectory() as out:
    ...     run = learn(MLP(64, (16,), 2), digits(5)[:1], "piggyback", out=out, training=Training(epochs=1))
    ...     again = load(out, MLP(64, (16,), 2))
    ...     x = torch.rand(3, 1, 8, 8)
    ...     again.labels("digits/0-1"), torch.equal(again.logits("digits/0-1", x), run.logits("digits/0-1", x))
    (['0', '1'], True)
    """
    return Loaded(Bank.open(bank_folder(folder)), base)


def bank_folder(folder: str | Path) -> Path:
    """The bank in a run's folder, or the folder itself if it is one.

    Raises:
        FileNotFoundError: if it is neither.
    """
    path = Path(folder).expanduser()
    for place in (path / "bank", path):
        if (place / "bank.json").is_file():
            return place
    raise FileNotFoundError(f"expected the folder of a run or a bank, found no bank.json in {path} or {path / 'bank'}")


def prepare_inputs(record: TaskRecord, x: Any) -> Any:
    """Raw inputs as a record says that its network reads them."""
    return Inputs.from_json(record.meta.inputs)(x) if isinstance(x, Tensor) and record.meta.inputs else x
