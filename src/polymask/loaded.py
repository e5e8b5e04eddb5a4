"""Open what a run has learned and ask it: through the bank alone, without the method or the data."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymask.asking.answers import Answer, Read, read_batches
from polymask.asking.given import are_paths, as_batch
from polymask.asking.named import find_task, places_of
from polymask.asking.removal import Freed, remove_from
from polymask.asking.rows import TaskRow, rows_of
from polymask.asking.wanted import Wanted, wanted_by
from polymask.asking.which import by_task, inference_of, prepare_inputs, wanted_by_all
from polymask.asking.words import read_words
from polymask.bank.bank import Bank
from polymask.calling import REFUSALS, as_read, leaves_of
from polymask.inference.infer import Inference, Way
from polymask.inference.inferred import Inferred
from polymask.probe import run_probe
from polymask.streams.texts.pairs import batches_of
from polymask.streams.texts.text import holds_texts
from polymask.task import TaskRecord

BATCH = 64
"""Files that are read and answered together."""


@dataclass
class Loaded:
    """The finished tasks of a run. A task is named, or said by its place in the order of learning, ``#3``.

    Args:
        bank: where they are.
        base: the network, where the bank does not know how it is built.
    """

    bank: Bank
    base: nn.Module | None = None
    _plain: dict[str, nn.Module] = field(default_factory=dict)
    _asked: dict[tuple[Way | None, float], Inference] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks, in order of learning."""
        return list(self.bank.tasks)

    @property
    def places(self) -> dict[str, int]:
        """Task -> its place in the order of learning, from 1; after a removal no other task gets it."""
        return places_of(self.bank)

    def find(self, task: str) -> str:
        """The name of a task that is said by its name or as ``#3``; else a ``KeyError`` that lists them."""
        return find_task(self.bank, task)

    def labels(self, task: str) -> list[str]:
        """The names of a task's outputs, as far as they have any."""
        return list(self.bank.record(self.find(task)).meta.labels)

    def logits(self, task: str, x: Any) -> Tensor:
        """The logits ``(N, outputs)`` of raw inputs, prepared as the task's training data were.

        Args:
            task: which.
            x: a text or a pair of texts, of a task that reads such; a path of an image, a ``.npy`` or a folder; a
                Pillow image, an array, a tensor; a list of them; a tuple or a mapping of arguments where the network
                takes several. Bytes (uint8) are 0..255, floats what the task has learned, which is 0..1 for images.

        Raises:
            KeyError: if there is no such task.
            FileNotFoundError: if there is no such file.
            ValueError: if a file cannot be read, values are NaN, infinite or on another scale, or the network refuses
                them or is not to be had.
        """
        record = self.bank.record(self.find(task))
        wanted = wanted_by(self.bank, record.meta)
        if wanted.text is not None and holds_texts(x):
            return torch.cat([self._run(record, wanted, batch) for batch in batches_of(x, wanted.text, BATCH)])
        if not are_paths(x):
            return self._run(record, wanted, as_batch(x, wanted))
        found = []
        for read in read_batches([x] if isinstance(x, str | os.PathLike) else x, wanted, BATCH):
            if read.problem is not None:
                raise read.problem
            found.append(self._run(record, wanted, read.batch))
        return torch.cat(found)

    def predict(self, task: str, x: Any) -> Tensor:
        """The most likely label ``(N,)`` of every input, its number; see ``logits`` and ``labels``."""
        return self.logits(task, x).argmax(-1)

    def predict_proba(self, task: str, x: Any) -> Tensor:
        """The probabilities ``(N, outputs)`` of the labels, the softmax of ``logits``; raises as ``answers`` does."""
        logits = self.logits(task, x)
        check_classes(logits, self.find(task))
        return logits.float().softmax(-1)

    def predict_labels(self, task: str, x: Any) -> list[str]:
        """The names of the most likely labels, N of them; of one without a name its number."""
        names = self.labels(task)
        return [name_of(place, names) for place in self.predict(task, x).tolist()]

    def infer(self, x: Any, together: bool = False, way: Way | None = None, reject: float = 0.05) -> Inferred:
        """Which task each of some raw inputs belongs to; see ``Inference``.

        Args:
            x: as for ``logits``, but no paths.
            together: whether all of them are of one task: one answer.
            way: how to ask; None: as fits the tasks and what the run has kept.
            reject: the share of inputs of known tasks that may be refused as of none of these.

        Raises:
            ValueError: if tasks take inputs of other shapes, or there is none; else as ``logits`` does.
        """
        return self._inference(way, reject)(as_batch(x, wanted_by_all(self.bank)), together)

    def answers(
        self, task: str | None, files: Iterable[str | os.PathLike[str]], batch_size: int = BATCH, reject: float = 0.05
    ) -> Iterator[Answer]:
        """The most likely label of every file and its probability, as they are read; memory holds one batch.

        A file that cannot be read is an answer that says why; the others go on.

        Args:
            task: which; None: whichever each input belongs to, see ``infer``.
            files: images of any size and mode, ``.npy``, ``.npz``, and folders of them; or texts, see ``read_words``.
            batch_size: inputs that the network gets at once.
            reject: see ``infer``.

        Yields:
            An answer for each input, in order.

        Raises:
            FileNotFoundError: if one of them is not there; before any is read.
            ValueError: if the task has not two outputs or more, each a label, or the network is not to be had.
        """
        if task is None:
            wanted = wanted_by_all(self.bank)
            answered = partial(self._sorted, self._inference(None, reject))
        else:
            record = self.bank.record(self.find(task))
            wanted = wanted_by(self.bank, record.meta)
            answered = partial(self._answered, record)
            self._network(record.meta.task)
        for read in (read_batches if wanted.text is None else read_words)(files, wanted, batch_size):
            if read.problem is not None:
                yield Answer(read.names[0], problem=str(read.problem))
            else:
                yield from answered(wanted, read)

    def table(self, masks: bool | None = None) -> list[TaskRow]:
        """What is known of every task, in order of learning: see ``TaskRow``.

        Args:
            masks: whether to read the masks, for density and overlap; None: of up to 50 tasks.
        """
        return rows_of(self.bank, masks)

    def remove(self, task: str) -> Freed:
        """Forget a task and nothing else; the run that learned it does not learn it again unless it is asked to.

        Args:
            task: which.

        Raises:
            KeyError: if there is no such task.
            RuntimeError: if a run is writing into the folder.
        """
        name = self.find(task)
        self._plain.pop(name, None)
        self._asked.clear()
        return remove_from(self.bank, name)

    def _sorted(self, inference: Inference, wanted: Wanted, read: Read) -> Iterator[Answer]:
        """What each input's own task says of it, in the order of the inputs."""
        try:
            found = inference(read.batch)
        except ValueError as error:
            yield from (Answer(name, problem=f"{name}: {error}") for name in read.names)
            return
        yield from by_task(found, read, lambda task, part: self._answered(self.bank.record(task), wanted, part))

    def _inference(self, way: Way | None, reject: float) -> Inference:
        if (way, reject) not in self._asked:
            self._asked = {(way, reject): inference_of(self.bank, self.base, way, None, reject)}
        return self._asked[way, reject]

    def _answered(self, record: TaskRecord, wanted: Wanted, read: Read) -> Iterator[Answer]:
        """What a task says of inputs that were read together; one that the network refuses spoils no other."""
        try:
            logits = self._run(record, wanted, read.batch)
            if len(logits) != len(read.names):
                raise ValueError(f"expected an answer for each of {len(read.names)} rows, found {len(logits)}")
        except ValueError as error:
            if isinstance(read.batch, Tensor) and len(read.names) == len(read.batch) > 1:
                for name, row in zip(read.names, read.batch, strict=True):
                    yield from self._answered(record, wanted, Read([name], row[None]))
            else:
                yield from (Answer(name, problem=f"{name}: {error}") for name in read.names)
            return
        check_classes(logits, record.meta.task)
        best = logits.float().softmax(-1).max(-1)
        for file, share, place in zip(read.names, best.values.tolist(), best.indices.tolist(), strict=True):
            yield Answer(file, name_of(place, record.meta.labels), share)

    def _network(self, task: str) -> nn.Module:
        if task not in self._plain:
            # One network at a time: many tasks of a large one would not fit.
            self._plain = {task: self._build(task)}
        return self._plain[task]

    def _run(self, record: TaskRecord, wanted: Wanted, batch: Any) -> Tensor:
        """The logits of a raw batch."""
        task = record.meta.task
        plain = self._network(task)
        prepared = prepare_inputs(record, batch)
        try:
            logits = run_probe(plain, as_read(plain, prepared))
        except torch.OutOfMemoryError:
            raise
        except REFUSALS as error:
            shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves_of(prepared))
            raise ValueError(
                f"expected {wanted} for task {task!r}, found {shapes or type(batch).__name__}, which the network "
                f"refuses: {str(error).partition(chr(10))[0]}"
            ) from error
        return logits[:, : record.meta.outputs] if logits.ndim == 2 else logits

    def _build(self, task: str) -> nn.Module:
        if self.base is None and self.bank.outline["builder"] is None:
            raise ValueError(
                f"expected a network, found a bank that does not know how its own is built, as it was given from "
                f"Python: open it there, polymask.load({str(self.bank.path)!r}, base=network)"
            )
        return self.bank.plain(task, self.base)


def load(folder: str | Path, base: nn.Module | None = None) -> Loaded:
    """Open a run's folder, or a bank.

    Args:
        folder: what ``--out`` was, or its ``bank``.
        base: the network, where the bank does not know how it is built; left alone.

    Raises:
        FileNotFoundError: if there is no bank.

    >>> import tempfile
    >>> from polymask.nets import MLP
    >>> from polymask.learning.learn import learn
    >>> from polymask.learning.training import Training
    >>> from polymask.streams.images import digits
    >>> with tempfile.TemporaryDirectory() as out:
    ...     run = learn(MLP(64, (16,), 2), digits(5)[:1], "piggyback", out=out, training=Training(epochs=1))
    ...     again = load(out, MLP(64, (16,), 2))
    ...     x = torch.rand(3, 1, 8, 8)
    ...     again.labels("digits/0-1"), torch.equal(again.logits("#1", x), run.logits("digits/0-1", x))
    ...     again.predict_proba("#1", (255 * x[:, 0]).byte().numpy()[0]).shape, again.table()[0].accuracy > 0.5
    (['0', '1'], True)
    (torch.Size([1, 2]), True)
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
    inside = sorted(path.glob("*/bank/bank.json"))
    hint = f": name one of the runs in it, such as {inside[0].parents[1]}" if inside else ""
    raise FileNotFoundError(
        f"expected the folder of a run or a bank, found no bank.json in {path} or {path / 'bank'}{hint}"
    )


def check_classes(logits: Tensor, task: str) -> None:
    """Raise a ``ValueError`` unless these are logits ``(N, outputs)`` of two labels or more."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"expected logits (rows, labels) of two labels or more from task {task!r}, found {tuple(logits.shape)}: "
            "what they mean is yours to say, ask for them from Python, polymask.load(...).logits(task, x)"
        )


def name_of(place: int, labels: Sequence[str]) -> str:
    """The name of an output; its number where it has none.

    >>> name_of(1, ["cat", "dog"]), name_of(7, [])
    ('dog', '7')
    """
    return labels[place] if place < len(labels) else str(place)
