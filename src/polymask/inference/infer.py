"""Which task does an input belong to? The question put to a learner or a bank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from polymask.bank.bank import Bank
from polymask.calling import leaves_of, tensors_of
from polymask.copies.kept import twin
from polymask.inference.mixture import Mixture, Objective
from polymask.inference.ways import ask_by_halves, ask_each, ask_once
from polymask.parts.uncertainty import entropy, superfluous
from polymask.sites.table import Sites
from polymask.task import TaskRecord, switch

Way = Literal["one-shot", "binary", "every-mask"]
By = Literal["entropy", "superfluous", "confidence"]

BY = {
    "one-shot": ("entropy", "superfluous"),
    "binary": ("entropy", "superfluous"),
    "every-mask": ("entropy", "confidence"),
}
"""A way of asking -> what it may go by."""


def as_given(record: TaskRecord, x: Any) -> Any:
    """An input that is already what a network reads."""
    return x


@runtime_checkable
class Learner(Protocol):
    """What has finished tasks on an attached network: any method."""

    sites: Sites
    records: dict[str, TaskRecord]

    def plain(self, task: str) -> nn.Module:
        """A plain copy of the network that answers as a finished task."""


@dataclass(frozen=True)
class Inferred:
    """Which task each input belongs to.

    Args:
        tasks: the names of all tasks.
        scores: (inputs, tasks), the larger the likelier; of one way and network they can be compared, of two not.
    """

    tasks: tuple[str, ...]
    scores: Tensor

    @property
    def choice(self) -> list[str]:
        """The likeliest task of every input."""
        return [self.tasks[place] for place in self.scores.argmax(-1).tolist()]

    @property
    def margin(self) -> Tensor:
        """``T`` times the gap between the two largest scores, (inputs,); infinite where there is but one task.

        The plain gap shrinks as tasks are added, since each has a smaller part in the mixture.
        """
        if len(self.tasks) < 2:
            return torch.full((len(self.scores),), torch.inf)
        first, second = self.scores.topk(2).values.unbind(-1)
        return len(self.tasks) * (first - second)


class Inference:
    """Asks a copy of a network which of its finished tasks an input belongs to; the attached one is never touched.

    ``way="one-shot"``: one forward and one backward pass under the mixture of all masks, whatever the number of tasks;
    "binary": ``log2`` of it; "every-mask": a forward pass a task. The right mask *lowers* ``by``: "entropy" of all
    outputs, or "superfluous": what the outputs beyond the labels say, of a head learned with some. "every-mask" takes
    "entropy" or "confidence" (SupSup, Wortsman et al. 2020, section 3.3 and 3.4).

    Mixtures work where tasks share a head and have no norms of their own: what one way of asking finds in a network
    without norms it may miss in one with them. So ``way=None`` asks in one shot where tasks have nothing of their own
    but masks, and by every mask elsewhere.

    Args:
        source: a learner, or a bank.
        way: how to ask; None: as said above.
        by: what tells the right mask; None: "entropy".
        base: the network, for a bank that does not know how it is built; left alone.
        prepare: what makes of an input what a task's network reads; by default inputs are given so.

    Raises:
        ValueError: for another way, one that does not fit the tasks, or if there is no task.

    >>> from polymask import SupSup
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6))
    >>> method, x = SupSup(net, torch.zeros(1, 4)), torch.rand(3, 4)
    >>> for task in ("a", "b"):
    ...     method.begin(task)
    ...     net(x).sum().backward()
    ...     torch.optim.SGD(method.parameters(), lr=0.1).step()
    ...     _ = method.end(task)
    >>> found = Inference(method)(x)
    >>> found.scores.shape, len(found.choice), found.margin.shape
    (torch.Size([3, 2]), 3, torch.Size([3]))
    """

    def __init__(
        self,
        source: Learner | Bank,
        way: Way | None = None,
        by: By | None = None,
        base: nn.Module | None = None,
        prepare: Callable[[TaskRecord, Any], Any] = as_given,
    ) -> None:
        self._base, self._prepare = base, prepare
        if isinstance(source, Bank):
            self._sites = source.model(None if base is None else twin(base))
        else:
            self._sites = source.sites
        self._records: dict[str, TaskRecord] = {}
        self._mixture: Mixture | None = None
        self._plain: nn.Module | None = None
        self.update(source)
        self.way: Way = way or ("one-shot" if self._are_masks_alone() else "every-mask")
        self.by: By = by or "entropy"
        _check(self.way, self.by)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of all tasks, in the order of scores."""
        return tuple(self._records)

    def update(self, source: Learner | Bank) -> None:
        """Follow a learner that has learned, removed or reissued tasks since, or a bank opened again."""
        self._source = source
        records = {t: source.record(t) for t in source.tasks} if isinstance(source, Bank) else dict(source.records)
        if not records:
            raise ValueError("expected at least one finished task, found none")
        self._records, self._plain = records, None

    def __call__(self, x: Any, together: bool = False) -> Inferred:
        """Score every task for every input.

        Args:
            x: a batch as the network reads it: a tensor, a tuple or a mapping, inputs along the first axis.
            together: whether the whole batch is of one task: one answer for all of it.
        """
        if self.way == "every-mask":
            inputs = (self._prepare(record, x) for record in self._records.values())
            scores = ask_each(zip(self._networks(), inputs, strict=True), self.by)
            return Inferred(self.tasks, scores.mean(0, keepdim=True) if together else scores)
        x = self._prepared(x)
        if self._mixture is None:
            self._mixture = Mixture(self._sites)
        self._mixture.update(self._records)
        ask = partial(ask_once if self.way == "one-shot" else ask_by_halves, self._mixture, objective=self._objective())
        batches = [x] if together else rows_of(x)
        return Inferred(tuple(self._mixture.tasks), torch.stack([ask(batch) for batch in batches]))

    def _prepared(self, x: Any) -> Any:
        """An input as all tasks read it."""
        first = next(iter(self._records.values()))
        other = next((r for r in self._records.values() if r.meta.inputs != first.meta.inputs), None)
        if other is not None and self._prepare is not as_given:
            raise ValueError(
                f"expected tasks that read inputs in one way, found that {first.meta.task!r} and {other.meta.task!r} "
                "normalise them otherwise: ask by 'every-mask'"
            )
        return self._prepare(first, x)

    def _objective(self) -> Objective:
        if self.by == "entropy":
            return entropy
        return partial(superfluous, labels=max(record.meta.outputs for record in self._records.values()))

    def _networks(self) -> Iterator[nn.Module]:
        """One plain network, as each task in turn."""
        for task, record in self._records.items():
            if self._plain is None or any(packed.codec == "block" for packed in record.masks.values()):
                # Where layers grow, a task's network has widths of its own.
                source = self._source
                self._plain = source.plain(task, self._base) if isinstance(source, Bank) else source.plain(task)
            else:
                switch(self._plain, self._sites, record)
            yield self._plain

    def _are_masks_alone(self) -> bool:
        return not any(record.private for record in self._records.values())


def rows_of(x: Any) -> list[Any]:
    """A batch as batches of one row."""
    count = next(len(t) for t in leaves_of(x) if t.ndim)
    return [tensors_of(x, partial(_row, place=place)) for place in range(count)]


def _row(t: Tensor, place: int) -> Tensor:
    return t[place : place + 1] if t.ndim else t


def _check(way: str, by: str) -> None:
    """Raise a ``ValueError`` for an unknown way, or one that cannot go by what it is to go by."""
    if way not in BY:
        raise ValueError(f"expected a way of {', '.join(BY)}, found {way!r}")
    if by not in BY[way]:
        raise ValueError(f"expected {way!r} to go by {' or '.join(BY[way])}, found {by!r}")
