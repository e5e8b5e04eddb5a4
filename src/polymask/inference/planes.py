"""The masks of many tasks on one tensor: their running mean, and the inner product of each with a gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SCRATCH = 2**22
"""Entries of masks that a thread unpacks at once, a byte and then four each."""
BLOCK = 32
"""Tasks at least that a thread takes."""


class Planes:
    """Masks of bits, one plane a task, an entry's bit beside those of the same column.

    The gradient of a weight ``(rows, columns, ...)`` under a single input is 0 in every column whose input is 0, and a
    column's bits lie together, so that only those of the others are read.

    Args:
        shape: the masks' shape.

    >>> planes = Planes((1, 2))
    >>> for mask in (torch.tensor([[True, False]]), torch.tensor([[True, True]])):
    ...     planes.append(mask)
    >>> planes.mean(), planes.products(torch.tensor([[2.0, 3.0]]))
    (tensor([[1.0000, 0.5000]]), tensor([2., 5.]))
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.columns = self.shape[1] if len(self.shape) > 1 else 1
        self.rows = math.prod(self.shape) // self.columns
        self.width = -(-self.rows // 8)
        self.count = 0
        self._bits: NDArray[np.uint8] = np.zeros((0, self.columns, self.width), np.uint8)
        self._total = np.zeros((self.columns, self.rows), np.int32)

    @property
    def nbytes(self) -> int:
        """The bytes of all planes."""
        return self.count * self.columns * self.width

    def append(self, mask: Tensor) -> None:
        """Take in the mask of one more task."""
        columns = self._by_column(mask).numpy()
        if self.count == len(self._bits):
            grown = np.zeros((max(8, self.count + self.count // 2), self.columns, self.width), np.uint8)
            grown[: self.count] = self._bits
            self._bits = grown
        self._bits[self.count] = np.packbits(columns, axis=1, bitorder="little")
        self._total += columns
        self.count += 1

    def remove(self, place: int) -> None:
        """Forget the mask at a place; those behind it move up."""
        self._total -= self._unpacked(self._bits[place : place + 1])[0]
        self._bits[place : self.count - 1] = self._bits[place + 1 : self.count]
        self.count -= 1

    def mean(self, places: Sequence[int] | None = None) -> Tensor:
        """The mean of all masks, from their running counts; or of those at some places, counted anew."""
        if places is None:
            return self._to_weight(torch.from_numpy(self._total).float() / self.count)
        total = np.zeros_like(self._total)
        for place in places:
            total += self._unpacked(self._bits[place : place + 1])[0]
        return self._to_weight(torch.from_numpy(total).float() / len(places))

    def products(self, gradient: Tensor, places: Sequence[int] | None = None) -> Tensor:
        """The inner product of a gradient with every mask, (tasks,), or with those at some places.

        Args:
            gradient: of the masks' shape.
            places: which; None: all.
        """
        flat = self._by_column(gradient.detach().cpu().float())
        live = flat.ne(0).any(1).nonzero().flatten().numpy()
        padded = torch.nn.functional.pad(flat[live], (0, 8 * self.width - self.rows)).flatten()
        chosen = np.arange(self.count) if places is None else np.asarray(places)
        if not len(live) or not len(chosen):
            return torch.zeros(len(chosen))
        step = max(1, SCRATCH // max(1, len(padded)))
        parts = [chosen[k : k + step] for k in range(0, len(chosen), step)]
        threads = min(torch.get_num_threads(), -(-len(chosen) // BLOCK))

        def part(which: NDArray[np.intp]) -> Tensor:
            read = self._bits[which[:, None], live] if len(live) < self.columns else self._bits[which]
            bits = np.unpackbits(read.reshape(len(which), -1), axis=1, bitorder="little")
            return torch.from_numpy(bits).float() @ padded

        if threads < 2:
            return torch.cat([part(which) for which in parts])
        with ThreadPoolExecutor(threads) as pool:
            return torch.cat(list(pool.map(part, parts)))

    def _unpacked(self, bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.unpackbits(bits, axis=2, count=self.rows, bitorder="little")

    def _by_column(self, t: Tensor) -> Tensor:
        t = t.detach().cpu()
        return (t.movedim(1, 0) if t.ndim > 1 else t[None]).reshape(self.columns, self.rows)

    def _to_weight(self, columns: Tensor) -> Tensor:
        if len(self.shape) < 2:
            return columns.view(self.shape)
        return columns.view(self.columns, self.shape[0], *self.shape[2:]).movedim(0, 1).contiguous()
