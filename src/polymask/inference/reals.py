"""What tasks have of their own on one tensor that is not bits: real masks, corrections, private tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polymask.parts.pack import Packed, unpack
from polymask.parts.sparse import Sparse, densify


class Reals:
    """One tensor a task, kept as the record keeps it; sums are made anew after a removal, never subtracted.

    >>> reals = Reals()
    >>> for value in (torch.tensor([0.5, 1.0]), torch.tensor([1.0, 0.0])):
    ...     reals.append(value)
    >>> reals.mean(), reals.products(torch.tensor([2.0, 4.0]))
    (tensor([0.7500, 0.5000]), tensor([5., 2.]))
    """

    def __init__(self, items: Sequence[Tensor | Packed | Sparse] = ()) -> None:
        self._items = list(items)
        self._total: Tensor | None = None

    def append(self, item: Tensor | Packed | Sparse) -> None:
        """Take in one more task's."""
        self._items.append(item)
        self._total = None if self._total is None else self._total + dense(item)

    def remove(self, place: int) -> None:
        """Forget the one at a place; those behind it move up."""
        del self._items[place]
        self._total = None

    def mean(self, places: Sequence[int] | None = None) -> Tensor:
        """The mean of all, or of those at some places; of whole numbers the first."""
        chosen = range(len(self._items)) if places is None else places
        first = self._items[chosen[0]]
        if isinstance(first, Tensor) and not first.is_floating_point():
            return first
        if places is None:
            self._total = self._sum(chosen) if self._total is None else self._total
            return self._total / len(chosen)
        return self._sum(chosen) / len(chosen)

    def products(self, gradient: Tensor, places: Sequence[int] | None = None) -> Tensor:
        """The inner product of a gradient with every one, (tasks,), or with those at some places."""
        chosen = range(len(self._items)) if places is None else places
        flat = gradient.detach().cpu().float().flatten()
        return torch.stack([dense(self._items[place]).float().flatten() @ flat for place in chosen])

    def _sum(self, places: Sequence[int]) -> Tensor:
        total = dense(self._items[places[0]]).clone()
        for place in places[1:]:
            total += dense(self._items[place])
        return total


def dense(item: Tensor | Packed | Sparse) -> Tensor:
    """A mask, a correction or a tensor with an entry for every one of the weight's; real, unless it is a tensor.

    >>> from polymask.parts.pack import pack
    >>> dense(pack(torch.tensor([True, False])))
    tensor([1., 0.])
    """
    if isinstance(item, Packed):
        return unpack(item).float()
    return densify(item) if isinstance(item, Sparse) else item
