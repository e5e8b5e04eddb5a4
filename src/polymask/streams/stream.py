"""What is learned, in which order: a task and its data, a stream of tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

from torch import Tensor
from torch.utils.data import Dataset

from polymask.streams.inputs import Inputs
from polymask.streams.texts.text import Text, Words
from polymask.streams.view import X

Data = Dataset[Any] | tuple[X | Sequence[Words], Tensor | Sequence[Any]] | str | Path
"""A map-style data set of pairs (x, y), a pair of tensors, or a folder of images with one sub-folder a class.

With ``inputs=Text(...)`` inputs are texts, or pairs of texts. The labels of a pair can be words as well, which are
numbered in the order of ``labels``, else of the alphabet.
"""


@dataclass(frozen=True, eq=False)
class Task:
    """One thing to learn: its data, the names of its classes, how its inputs are prepared.

    Args:
        name: unique in its stream; seeds are keyed by it.
        train: a `Data`; y is int64 labels 0..outputs-1 local to the task, or any float tensor of targets.
        val: a `Data`; None: cut from ``train`` where it is prepared.
        test: a `Data`, or None.
        labels: names of the outputs.
        outputs: how many outputs; None: as many as there are labels, classes or columns of targets.
        inputs: sizes, augmentation and normalisation of images, or how texts are tokenised.
        notes: what is to be known of the data's origin, JSON-able.

    Raises:
        ValueError: the name is empty, there are no outputs, or ``labels`` and ``outputs`` disagree.

    >>> import torch
    >>> Task("parity", (torch.rand(4, 2), torch.tensor([0, 1, 0, 1])), labels=["even", "odd"]).name
    'parity'
    """

    name: str
    train: Data
    val: Data | None = None
    test: Data | None = None
    labels: Sequence[str] | None = None
    outputs: int | None = field(default=None, kw_only=True)
    inputs: Inputs | Text | None = field(default=None, kw_only=True)
    notes: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a task needs a name: its seeds and its record are keyed by it")
        if self.outputs is not None and self.outputs < 1:
            raise ValueError(f"task {self.name!r} needs an output or more, found outputs={self.outputs}")
        if self.labels is not None and self.outputs is not None and len(self.labels) != self.outputs:
            raise ValueError(
                f"task {self.name!r} has {len(self.labels)} labels but outputs={self.outputs}; give one of them"
            )


@dataclass(frozen=True, eq=False)
class Stream(Sequence[Task]):
    """Tasks in the order in which they are learned: ``stream[i]`` is ``tasks[order[i]]``.

    Args:
        name: what the stream is called in reports.
        tasks: in their own order, the one that names and seeds go by.
        order: a permutation of 0..len(tasks)-1; empty: as listed.
        seed: what permutations were drawn from.
        protocol: how the stream was made, JSON-able.

    Raises:
        ValueError: two tasks share a name, a task or the stream is empty, or ``order`` is no permutation.

    >>> import torch
    >>> pair = (torch.rand(2, 3), torch.tensor([0, 1]))
    >>> [task.name for task in Stream("toy", (Task("a", pair), Task("b", pair))).reorder([1, 0])]
    ['b', 'a']
    """

    name: str
    tasks: tuple[Task, ...]
    order: tuple[int, ...] = ()
    seed: int = 0
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError(f"stream {self.name!r} has no tasks")
        names = [task.name for task in self.tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"task names must differ within stream {self.name!r}, found twice: {twice}")
        for task in self.tasks:
            check_not_empty(task)
        order = tuple(int(place) for place in self.order) or tuple(range(len(names)))
        if sorted(order) != list(range(len(names))):
            raise ValueError(f"order must be a permutation of 0..{len(names) - 1}, found {order}")
        object.__setattr__(self, "order", order)

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | Sequence[Task]:
        places = self.order[index]
        return self.tasks[places] if isinstance(places, int) else tuple(self.tasks[place] for place in places)

    def __iter__(self) -> Iterator[Task]:
        return (self.tasks[place] for place in self.order)

    def reorder(self, order: Sequence[int]) -> Stream:
        """The same tasks learned in another order, given as places in ``tasks``."""
        return replace(self, order=tuple(order))


def check_not_empty(task: Task) -> None:
    """Refuse a task whose training data hold no example; a folder is looked into where it is opened.

    Raises:
        ValueError: there is no example.
    """
    data = task.train
    if isinstance(data, str | Path):
        return
    count = len(data[1]) if isinstance(data, tuple) else len(data)  # type: ignore[arg-type]
    if count == 0:
        raise ValueError(f"task {task.name!r} is empty: its training data hold no example")
