"""Batches of a user's own data set: any map-style ``Dataset``, read through a ``DataLoader``."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from polymask.parts.seeds import generator, seed_of
from polymask.streams.checks import check_labels
from polymask.streams.feed import Feed, as_inputs, cuts
from polymask.streams.inputs import Inputs
from polymask.streams.texts.text import Text
from polymask.streams.view import X, each


@final
class LoaderFeed(Feed):
    """Batches of a user's own data set, which may decode, tokenize and augment as it likes.

    Whatever it draws from the global generators of torch, numpy or ``random`` is keyed, batch by batch, and leaves
    those generators as they were: an epoch is a pure function of its key, whatever the number of workers.

    >>> from torch.utils.data import TensorDataset
    >>> dataset = TensorDataset(torch.rand(5, 2), torch.arange(5))
    >>> feed = LoaderFeed(dataset, Inputs(), torch.device("cpu"))
    >>> [y.tolist() for _, y in feed.ordered(3)]
    [[0, 1, 2], [3, 4]]
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        inputs: Inputs | Text,
        device: torch.device,
        *,
        workers: int = 0,
        outputs: int | None = None,
        where: tuple[str, str] = ("?", "?"),
    ) -> None:
        self._dataset, self._inputs, self._device = dataset, inputs, device
        self._workers, self._outputs, self._where = workers, outputs, where

    @property
    def size(self) -> int:
        """How many examples there are."""
        return len(self._dataset)  # type: ignore[arg-type]

    def epoch(
        self, batch_size: int, key: tuple[object, ...], rank: int = 0, world: int = 1
    ) -> Iterator[tuple[X, Tensor]]:
        """Every example once, as `Feed.epoch` says."""
        order = torch.randperm(self.size, generator=generator(*key, "shuffle")).tolist()
        shares = [order[start + rank : stop : world] for start, stop in cuts(self.size, batch_size, world)]
        draws = generator(*key, "augment", rank)
        for x, y in self._loaded(shares, key):
            yield as_inputs(x, self._inputs, draws), y

    def ordered(self, batch_size: int) -> Iterator[tuple[X, Tensor]]:
        """Every example once, as `Feed.ordered` says."""
        starts = range(0, self.size, batch_size)
        shares = [list(range(start, min(start + batch_size, self.size))) for start in starts]
        for x, y in self._loaded(shares, ("ordered",)):
            yield as_inputs(x, self._inputs), y

    def release(self) -> None:
        """Nothing is kept."""

    def _loaded(self, shares: Sequence[list[int]], key: tuple[object, ...]) -> Iterator[tuple[X, Tensor]]:
        """The batches of the given examples as the data set gives them, on the device."""
        loader = DataLoader(
            Keyed(self._dataset, key),
            batch_sampler=shares,
            collate_fn=collate,
            num_workers=self._workers,
            generator=generator(*key, "workers"),
            pin_memory=self._device.type == "cuda",
        )
        for x, y in loader:
            if self._outputs is not None:
                check_labels(y, self._outputs, *self._where)
            yield each(x, lambda t: t.to(self._device, non_blocking=True)), y.to(self._device)


@final
class Keyed(Dataset[Any]):
    """A data set whose draws from global generators depend on a key and the batch alone."""

    def __init__(self, dataset: Dataset[Any], key: tuple[object, ...]) -> None:
        self._dataset, self._key = dataset, key

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        with seeded(*self._key, "augment", indices[0]):
            return [self._dataset[index] for index in indices]


def collate(examples: list[tuple[Any, Any]]) -> tuple[X, Tensor]:
    """A batch of examples."""
    x, y = default_collate([x for x, _ in examples]), default_collate([y for _, y in examples])
    # default_collate makes doubles of Python's floats, which no loss takes beside float32 outputs
    return tuple(x) if isinstance(x, list) else x, y.float() if y.dtype == torch.float64 else y


@contextmanager
def seeded(*key: object) -> Iterator[None]:
    """Key the global generators for a while; the one place that touches them, because users' data sets use them."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002, the generator that augmentations use
    seed = seed_of(*key)
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.default_generator.manual_seed(seed)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
