"""Which task does an input belong to? The question put to a learner or a bank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from polymask.bank.bank import Bank
from polymask.calling import tensors_of
from polymask.copies.kept import twin
from polymask.inference.inferred import Inferred
from polymask.inference.known import Calibration, certainty, check_calibration
from polymask.inference.mixture import Mixture, Objective
from polymask.inference.rows import at_rows, count_rows, rows_of
from polymask.inference.shortlist import Shortlist, below
from polymask.inference.stacks import digest_of
from polymask.inference.statistics import Statistics
from polymask.inference.ways import ask_by_features, ask_by_halves, ask_each, ask_once
from polymask.parts.uncertainty import entropy, superfluous
from polymask.sites.table import Sites
from polymask.task import TaskRecord, switch

Way = Literal["one-shot", "binary", "every-mask", "statistics"]
By = Literal["entropy", "superfluous", "confidence", "distance"]

BY: dict[str, tuple[By, ...]] = {
    "one-shot": ("entropy", "superfluous"),
    "binary": ("entropy", "superfluous"),
    "every-mask": ("entropy", "confidence"),
    "statistics": ("distance",),
}
"""A way of asking -> what it may go by, the first if it is not said."""


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


class Inference:
    """Asks a copy of a network which of its finished tasks an input belongs to; the attached one is never touched.

    Several threads may ask; one waits for the other.

    ``way="one-shot"``: one forward and one backward pass under the mixture of all masks, whatever the number of tasks;
    "binary": ``log2`` of it; "every-mask": a forward pass a task. The right mask *lowers* ``by``: "entropy" of all
    outputs, or "superfluous": what the outputs beyond the labels say, of a head learned with some. "every-mask" takes
    "entropy" or "confidence" (SupSup, Wortsman et al. 2020, section 3.3 and 3.4). "statistics": a forward pass a task,
    and how far what its head reads lies from what it read of the task's own inputs, see ``Statistics``.

    Mixtures work where tasks share a head and have no norms of their own: what one way of asking finds in a network
    without norms it may miss in one with them. So ``way=None`` asks in one shot where tasks have nothing of their own
    but masks, elsewhere by statistics if those of all tasks are given, else by every mask.

    Args:
        source: a learner, or a bank.
        way: how to ask; None: as said above.
        by: what tells the right mask; None: the "entropy", of "statistics" the "distance".
        base: the network, for a bank that does not know how it is built; left alone.
        prepare: what makes of an input what a task's network reads; by default inputs are given so.
        statistics: task -> what was measured of it, for "statistics".
        calibration: which answers are of none of these tasks, see ``calibrate``.
        shortlist: which few tasks are asked for each input, of the ways that ask one after the other.

    Raises:
        ValueError: for another way, one that does not fit the tasks, or if there is no task; where statistics or a
            shortlist lack a task, or were measured under another record of it; for a calibration of another way.

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
        statistics: Mapping[str, Statistics] | None = None,
        calibration: Calibration | None = None,
        shortlist: Shortlist | None = None,
    ) -> None:
        self._base, self._prepare = base, prepare
        self.statistics, self.calibration, self.shortlist = statistics or {}, calibration, shortlist
        if isinstance(source, Bank):
            self._sites = source.model(None if base is None else twin(base))
        else:
            self._sites = source.sites
        self._records: dict[str, TaskRecord] = {}
        self._mixture: Mixture | None = None
        self._lock = Lock()
        self._plain: nn.Module | None = None
        self._follow(source)
        self.way: Way = way or self._fitting_way()
        _check(self.way, by)
        self.by: By = by or BY[self.way][0]
        check_calibration(calibration, self.way, self.by)
        self._check_statistics()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of all tasks, in the order of scores."""
        return tuple(self._records)

    def update(
        self,
        source: Learner | Bank,
        statistics: Mapping[str, Statistics] | None = None,
        shortlist: Shortlist | None = None,
    ) -> None:
        """Follow a learner that has learned, removed or reissued tasks since, or a bank opened again.

        Args:
            source: the learner, or the bank.
            statistics: those of all tasks; None: as before.
            shortlist: over all tasks; None: as before.

        Raises:
            ValueError: if there is no task, or "statistics" asks and a task has none of its present record.
        """
        self._follow(source)
        self.statistics = self.statistics if statistics is None else statistics
        self.shortlist = self.shortlist if shortlist is None else shortlist
        self._check_statistics()

    def _follow(self, source: Learner | Bank) -> None:
        self._source = source
        records = {t: source.record(t) for t in source.tasks} if isinstance(source, Bank) else dict(source.records)
        if not records:
            raise ValueError("expected at least one finished task, found none")
        self._records, self._plain, self._changed = records, None, True

    def __call__(self, x: Any, together: bool = False) -> Inferred:
        """Score every task for every input.

        Args:
            x: a batch as the network reads it: a tensor, a tuple or a mapping, inputs along the first axis.
            together: whether the whole batch is of one task: one answer for all of it.

        Raises:
            ValueError: for a batch without rows, answers that are no logits of two outputs or more for each row, or not
                finite; where tasks cannot be mixed, or prepare their inputs in different ways.
        """
        if not count_rows(x):
            raise ValueError("expected one input or more, found a batch without rows")
        with self._lock:
            if self.way in ("every-mask", "statistics"):
                scores = self._ask_each(x, together)
                return self._judged(self.tasks, scores.mean(0, keepdim=True) if together else scores, x, together)
            mixture, batch = self._mixed(), self._prepared(x)
            ask = partial(ask_once if self.way == "one-shot" else ask_by_halves, mixture, objective=self._objective())
            scores = torch.stack([ask(row) for row in ([batch] if together else rows_of(batch))])
            return self._judged(tuple(mixture.tasks), scores, x, together)

    def _mixed(self) -> Mixture:
        """The mixture of the tasks that there are now; which it is follows from their records, and takes a while."""
        if self._mixture is None:
            self._mixture = Mixture(self._sites)
        if self._changed:
            self._mixture.update(self._records)
            self._changed = False
        return self._mixture

    def _ask_each(self, x: Any, together: bool) -> Tensor:
        if self.shortlist is not None and self.shortlist.count < len(self.tasks):
            return self._ask_few(self.shortlist, x, together)
        networks = self._networks(self.tasks)
        return self._asked((n, self._prepare(self._records[t], x)) for t, n in zip(self.tasks, networks, strict=True))

    def _asked(self, asked: Iterable[tuple[nn.Module, Any]], tasks: Sequence[str] | None = None) -> Tensor:
        """Scores of tasks, (rows, tasks), from the network as each and the batch as it reads it."""
        if self.way == "statistics":
            return ask_by_features(asked, [self.statistics[task] for task in tasks or self.tasks])
        return ask_each(asked, self.by)

    def _ask_few(self, few: Shortlist, x: Any, together: bool) -> Tensor:
        """The same, where only the tasks that are nearest by a shortlist are asked for each row."""
        network = next(self._networks([few.reference]))
        read = self._prepare(self._records[few.reference], x)
        chosen, near = few.chosen(network, read, self.tasks, together)
        scores = torch.zeros_like(near)
        wanted = [task for task, rows in zip(self.tasks, chosen.T, strict=True) if rows.any()]
        for task, network in zip(wanted, self._networks(wanted), strict=True):
            place = self.tasks.index(task)
            rows = chosen[:, place].nonzero()[:, 0]
            part = self._prepare(self._records[task], tensors_of(x, partial(at_rows, rows=rows)))
            scores[rows, place] = self._asked([(network, part)], [task])[:, 0]
        return below(scores, chosen, near)

    def _judged(self, tasks: tuple[str, ...], scores: Tensor, x: Any, together: bool) -> Inferred:
        """The answer, with whether it is of one of these tasks where as many inputs as now were calibrated on."""
        if not bool(scores.isfinite().all()):
            raise ValueError("expected inputs that the network answers with finite numbers, found others: NaN in them?")
        rows = count_rows(x) if together else 1
        if self.calibration is None or self.calibration.rows != rows:
            return Inferred(tasks, scores)
        return Inferred(tasks, scores, self.calibration.known(certainty(scores, self.way)))

    def _check_statistics(self) -> None:
        """Raise a ``ValueError`` where the way needs statistics of a task's present record that there are not."""
        if self.shortlist is not None and not self.shortlist.fits(self._records):
            raise ValueError(
                f"expected a shortlist over all {len(self._records)} tasks in the features of "
                f"{self.shortlist.reference!r} as it is now, found another one: give one that is, or set shortlist to "
                "None, and every task is asked"
            )
        for task in self._records if self.way == "statistics" else ():
            if self._lacks_statistics(task):
                found = "such of an earlier record of it" if task in self.statistics else "none"
                raise ValueError(
                    f"expected statistics of task {task!r} as it is now, found {found}: measure them from its data "
                    "(Statistics.measure), or ask by 'every-mask' which task it is"
                )

    def _prepared(self, x: Any) -> Any:
        """An input as all tasks read it."""
        first = next(iter(self._records.values()))
        way = _way_of(first)
        other = next((r for r in self._records.values() if _way_of(r) != way), None)
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

    def _networks(self, tasks: Sequence[str]) -> Iterator[nn.Module]:
        """One plain network, as each of some tasks in turn."""
        for task in tasks:
            record = self._records[task]
            if self._plain is None or any(packed.codec == "block" for packed in record.masks.values()):
                # Where layers grow, a task's network has widths of its own.
                source = self._source
                self._plain = source.plain(task, self._base) if isinstance(source, Bank) else source.plain(task)
            else:
                switch(self._plain, self._sites, record)
            yield self._plain

    def _fitting_way(self) -> Way:
        if not any(record.private for record in self._records.values()):
            return "one-shot"
        return "every-mask" if any(self._lacks_statistics(task) for task in self._records) else "statistics"

    def _lacks_statistics(self, task: str) -> bool:
        """Whether there are none of a task as it is now."""
        return task not in self.statistics or self.statistics[task].digest != digest_of(self._records[task])


def _check(way: str, by: str | None) -> None:
    """Raise a ``ValueError`` for an unknown way, or one that cannot go by what it is to go by."""
    if way not in BY:
        raise ValueError(f"expected a way of {', '.join(BY)}, found {way!r}")
    if by is not None and by not in BY[way]:
        raise ValueError(f"expected {way!r} to go by {' or '.join(BY[way])}, found {by!r}")


def _way_of(record: TaskRecord) -> dict[str, Any]:
    """How a record's inputs are prepared, from whatever columns of a table they came."""
    return {key: value for key, value in record.meta.inputs.items() if key != "columns"}
