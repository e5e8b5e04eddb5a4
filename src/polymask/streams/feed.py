"""What a training loop reads: batches of a task, shuffled and augmented by a key, on the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from polymask.parts.seeds import generator
from polymask.streams.inputs import Inputs
from polymask.streams.texts.batches import by_length
from polymask.streams.texts.text import MASK, Text, trim
from polymask.streams.view import View, X, each, leaves

READY_BYTES = 1 << 30
"""Training data without augmentation are prepared once, and kept, up to this size."""

MOST_TEXTS = 64
"""Texts that are read together in order: one long one makes all of a batch as long."""

CHUNK = 4096
"""Rows prepared at a time, so that preparing needs little more memory than its result."""


class Feed(ABC):
    """Batches (x, y) of one part of a task."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many examples there are."""

    @abstractmethod
    def epoch(
        self, batch_size: int, key: tuple[object, ...], rank: int = 0, world: int = 1
    ) -> Iterator[tuple[X, Tensor]]:
        """Every example once, in an order and with an augmentation that are a pure function of ``key``.

        Args:
            batch_size: examples in a batch of one process.
            key: what draws are keyed by, such as (seed, task, phase, epoch).
            rank: which of the processes this is; they share out every batch and get equally many.
            world: how many processes there are.
        """

    @abstractmethod
    def ordered(self, batch_size: int) -> Iterator[tuple[X, Tensor]]:
        """Every example once, in the order of the data, without augmentation."""

    @abstractmethod
    def release(self) -> None:
        """Free what an epoch prepared and kept; the next epoch prepares it again."""

    def steps(self, batch_size: int, world: int = 1) -> int:
        """How many batches an epoch has for each process."""
        return len(cuts(self.size, batch_size, world))


def cuts(size: int, batch_size: int, world: int = 1) -> list[tuple[int, int]]:
    """Where an epoch is cut into batches that ``world`` processes share out among them.

    Nothing is dropped; a last batch that would leave a process a single example, which BatchNorm cannot train on,
    is joined to the one before.

    Raises:
        ValueError: a process would get nothing.

    >>> cuts(9, 4), cuts(9, 2, world=2)
    ([(0, 4), (4, 9)], [(0, 4), (4, 9)])
    """
    if batch_size < 1 or size < world:
        raise ValueError(
            f"{size} examples in batches of {batch_size} leave one of {world} processes without any; "
            "batches need an example or more, and a process too"
        )
    starts = list(range(0, size, batch_size * world))
    if len(starts) > 1 and size - starts[-1] < min(2, batch_size) * world:
        starts.pop()
    return list(zip(starts, [*starts[1:], size], strict=True))


@final
class TensorFeed(Feed):
    """Batches of tensors, selected and prepared on the device.

    Without augmentation the training data are permuted, resized and normalised once, at the first epoch, if that
    fits in ``READY_BYTES``: a batch is then one row selection. ``ordered`` prepares batch by batch and keeps nothing,
    so that all tasks of a stream can share one set of stored images.

    >>> feed = TensorFeed(View(torch.arange(5.0)[:, None], torch.arange(5)), Inputs(), torch.device("cpu"))
    >>> [len(y) for _, y in feed.epoch(2, (0, "task", "train", 0))]
    [2, 3]
    """

    def __init__(self, view: View, inputs: Inputs | Text, device: torch.device) -> None:
        self._view, self._inputs, self._device = view, inputs, device
        self._resident: tuple[View, bool] | None = None

    @property
    def size(self) -> int:
        """How many examples there are."""
        return len(self._view)

    def epoch(
        self, batch_size: int, key: tuple[object, ...], rank: int = 0, world: int = 1
    ) -> Iterator[tuple[X, Tensor]]:
        """Every example once, as `Feed.epoch` says."""
        bounds = cuts(self.size, batch_size, world)
        if self._resident is None:
            self._resident = self._settle()
        view, finished = self._resident
        draws = generator(*key, "augment", rank)
        order = self._order(batch_size * world, generator(*key, "shuffle")).to(self._device)
        rows = order if view.rows is None else view.rows[order]
        for start, stop in bounds:
            share = slice(start + rank, stop, world)
            x = take_rows(view.x, rows[share])
            yield (x if finished else self._prepared(x, draws)), view.y.index_select(0, order[share])

    def _order(self, together: int, draws: torch.Generator) -> Tensor:
        """The places of all examples in the order of an epoch: of texts such of a length together."""
        order, x = torch.randperm(self.size, generator=draws), self._view.x
        if not isinstance(self._inputs, Text) or not isinstance(x, Mapping):
            return order
        found = x[MASK] if self._view.rows is None else x[MASK][self._view.rows]
        return by_length(order, found.sum(1), together, draws)

    def ordered(self, batch_size: int) -> Iterator[tuple[X, Tensor]]:
        """Every example once, as `Feed.ordered` says."""
        batch_size = min(batch_size, MOST_TEXTS) if isinstance(self._inputs, Text) else batch_size
        for start in range(0, self.size, batch_size):
            rows = slice(start, start + batch_size)
            yield self._prepared(self._stored(rows)), self._view.y[rows].to(self._device)

    def release(self) -> None:
        """Free the training data that the first epoch put on the device."""
        self._resident = None

    def _stored(self, rows: slice) -> X:
        """Rows as they are stored, on the device."""
        where = rows if self._view.rows is None else self._view.rows[rows]
        return each(self._view.x, lambda t: t[where].to(self._device))

    def _prepared(self, x: X, draws: torch.Generator | None = None) -> X:
        """Stored rows as the network reads them."""
        return as_inputs(each(x, self._view.changed), self._inputs, draws)

    def _settle(self) -> tuple[View, bool]:
        """The training data on the device, and whether they are already as the network reads them."""
        view, y = self._view, self._view.y.to(self._device)
        raw = self._stored(slice(0, 1))
        one = self._prepared(raw)
        texts = isinstance(self._inputs, Text)
        untouched = not view.changes and not texts and (one is raw or not isinstance(one, Tensor))
        if untouched or texts or self._inputs.augments or self.size * nbytes(one) > READY_BYTES:
            # another device has less memory than this one: it gets the task's own rows, no copy of the whole data set
            chosen = None if self._device.type == "cpu" else view.rows
            x = each(view.x, lambda t: (t if chosen is None else t[chosen]).to(self._device))
            whole = replace(view, x=x, y=y, rows=view.rows if chosen is None else None)
            return whole, untouched and not self._inputs.augments
        ready = each(one, lambda t: t.new_empty((self.size, *t.shape[1:])))
        for start in range(0, self.size, CHUNK):
            rows_here = slice(start, start + CHUNK)
            part = leaves(self._prepared(self._stored(rows_here)))
            for name, tensor in leaves(ready).items():
                tensor[rows_here] = part[name]
        return View(ready, y), True


def as_inputs(x: X, inputs: Inputs | Text, draws: torch.Generator | None = None) -> X:
    """A batch as the network reads it, augmented if there are draws; of structures only tokens are cut."""
    if isinstance(inputs, Text):
        tokens: X = trim(x)
        return tokens
    if not isinstance(x, Tensor):
        return x
    x = inputs.fit(x)
    return inputs.scale(x if draws is None else inputs.augment(x, draws))


def take_rows(x: X, rows: Tensor) -> X:
    """Rows of every tensor of the structure."""
    return x.index_select(0, rows) if isinstance(x, Tensor) else each(x, lambda t: t.index_select(0, rows))


def nbytes(x: X) -> int:
    """Memory of a structure of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in leaves(x).values())
