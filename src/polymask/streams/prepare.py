"""From a task to what a loop reads: its data opened and checked, a validation part held out, a feed for each part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from polymask.parts.seeds import generator
from polymask.streams.checks import check_labels, warn_of_classes, warn_of_few
from polymask.streams.feed import Feed, TensorFeed
from polymask.streams.holdout import held_out
from polymask.streams.inputs import Inputs
from polymask.streams.loader import LoaderFeed
from polymask.streams.reading import known_labels, open_parts, read_labels
from polymask.streams.stream import Task
from polymask.streams.texts.text import Text, lengths
from polymask.streams.view import View, X, each


@final
@dataclass(frozen=True, eq=False)
class Feeds:
    """The parts of a task, ready to be read, and what its record says of inputs and outputs."""

    train: Feed
    val: Feed
    test: Feed | None
    outputs: int
    labels: tuple[str, ...] | None
    inputs: Inputs | Text
    calibration: Feed | None = None

    @property
    def scored(self) -> tuple[str, Feed]:
        """The part that a task's score is of: test, or where there is none validation, which also chose the epoch."""
        return ("validation", self.val) if self.test is None else ("test", self.test)

    def example(self, batch_size: int = 2) -> X:
        """The first inputs of the training data, as a network reads them; of texts a short and a long one of them."""
        if not isinstance(self.inputs, Text):
            return next(self.train.ordered(batch_size))[0]
        x = next(self.train.ordered(64))[0]
        order = lengths(x).argsort()
        return each(x, lambda t: t[[*order[: batch_size - 1].tolist(), int(order[-1])]])


def prepare(
    task: Task,
    *,
    seed: int,
    val_fraction: float = 0.1,
    calibration_fraction: float | None = None,
    device: torch.device | str = "cpu",
    cache: bool = False,
    workers: int = 0,
) -> Feeds:
    """Open and check a task's data; without ``val``, part of ``train`` becomes it, never of ``test``.

    Args:
        task: what to open.
        seed: the validation part is drawn from (seed, task name), class by class.
        val_fraction: how much of ``train`` to take for it.
        calibration_fraction: how much of that to set aside, class by class and drawn likewise, as a part that chooses
            nothing; None: there is no such part.
        device: where batches are wanted.
        cache: read data sets and folders once and keep them in memory; their own augmentation is then drawn once.
        workers: processes that read data sets which are not in memory.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: the data do not fit the task; the message says where and how.

    >>> from polymask.streams.images import digits
    >>> feeds = prepare(digits(tasks=5)[0], seed=0)
    >>> feeds.outputs, feeds.train.size, feeds.val.size, feeds.test.size
    (2, 259, 29, 72)
    """
    parts, inputs, names = open_parts(task, cache, workers)
    wanted = task.outputs if names is None else len(names)
    known = {part: y for part, source in parts.items() if (y := known_labels(source)) is not None}
    if "train" not in known and ("val" not in parts or wanted is None):
        known["train"] = read_labels(parts["train"], workers)
    outputs = wanted or count_outputs(known["train"])
    for part, y in known.items():
        check_labels(y, outputs, task.name, part)
    if "val" not in parts:
        warn_of_few(known["train"], names, task.name)
        draws = generator(seed, task.name, "validation")
        rest, chosen = held_out(known["train"], val_fraction, draws, task.name)
        parts |= {"train": part_of(parts["train"], rest), "val": part_of(parts["train"], chosen)}
        known["val"] = known["train"][chosen]
    if calibration_fraction is not None:
        y = known["val"] if "val" in known else read_labels(parts["val"], workers)
        draws = generator(seed, task.name, "calibration")
        rest, chosen = held_out(y, calibration_fraction, draws, f"{task.name}, its validation part,")
        parts |= {"val": part_of(parts["val"], rest), "calibration": part_of(parts["val"], chosen)}
    if "train" in known:
        warn_of_classes(known["train"], outputs, names, task.name, wanted is None)
    where = torch.device(device)
    feeds = {
        part: TensorFeed(source, inputs, where)
        if isinstance(source, View)
        else LoaderFeed(source, inputs, where, workers=workers, outputs=outputs, where=(task.name, part))
        for part, source in parts.items()
    }
    return Feeds(feeds["train"], feeds["val"], feeds.get("test"), outputs, names, inputs, feeds.get("calibration"))


def outputs_of(task: Task, seed: int) -> int:
    """How many outputs a task has; where it does not say, its data are opened for that.

    >>> outputs_of(Task("parity", (torch.rand(4, 2), torch.tensor([0, 1, 0, 1]))), seed=0)
    2
    """
    return len(task.labels or ()) or task.outputs or prepare(task, seed=seed).outputs


def count_outputs(y: Tensor) -> int:
    """How many outputs the targets ask for.

    >>> count_outputs(torch.tensor([0, 2])), count_outputs(torch.rand(5, 4)), count_outputs(torch.rand(5))
    (3, 4, 1)
    """
    if y.is_floating_point():
        return y.shape[1] if y.ndim > 1 else 1
    return int(y.max()) + 1


def part_of(source: Dataset[Any], rows: Tensor) -> Dataset[Any]:
    """Some of the examples."""
    return source.take(rows) if isinstance(source, View) else Subset(source, rows.tolist())
