"""Tensors read lazily: chosen rows of a data set, changed (permuted, rotated) only when they are looked at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from polymask.parts.seeds import generator

X = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]
"""A batch of inputs: one tensor, several, or named ones, all with the examples in dimension 0."""


def each(x: X, change: Callable[[Tensor], Tensor]) -> X:
    """The same structure with every tensor changed.

    >>> each({"ids": torch.ones(2)}, lambda t: t + 1)
    {'ids': tensor([2., 2.])}
    """
    if isinstance(x, Tensor):
        return change(x)
    if isinstance(x, Mapping):
        return {key: change(value) for key, value in x.items()}
    return tuple(change(value) for value in x)


def leaves(x: X) -> dict[str, Tensor]:
    """The tensors of a structure by a name to speak of them.

    >>> list(leaves((torch.ones(2), torch.ones(2))))
    ['x[0]', 'x[1]']
    """
    if isinstance(x, Tensor):
        return {"x": x}
    items = x.items() if isinstance(x, Mapping) else enumerate(x)
    return {f"x[{key!r}]": value for key, value in items}


@dataclass(frozen=True)
class Permutation:
    """The pixels of every example in another order: flat'[j] = flat[order[j]], drawn from ``key``.

    >>> Permutation(("seed", 0))(torch.arange(3)[None]).sort().values
    tensor([[0, 1, 2]])
    """

    key: tuple[object, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """A batch with its pixels reordered, in the shape that it had."""
        flat = x.flatten(1)
        order = torch.randperm(flat.shape[1], generator=generator(*self.key))
        return flat.index_select(1, order.to(x.device)).view_as(x)


@dataclass(frozen=True)
class Rotation:
    """Images turned counter-clockwise about their centre; bilinear, black outside; bytes stay bytes, rounded.

    >>> image = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])
    >>> Rotation(90)(image).round().squeeze()
    tensor([[1., 0.],
            [0., 0.]])
    """

    degrees: float

    def __call__(self, x: Tensor) -> Tensor:
        """A batch of images, each turned, in the size that it had.

        Raises:
            ValueError: x is no batch of images.
        """
        if self.degrees % 360 == 0:
            return x
        if x.ndim != 4:
            raise ValueError(f"only images (N, C, H, W) can be rotated, found a batch of shape {tuple(x.shape)}")
        (height, width), turn = x.shape[-2:], math.radians(self.degrees)
        # affine_grid counts both axes from -1 to 1, so the sides' ratio keeps a rotation from becoming a shear
        theta = torch.tensor(
            [
                [math.cos(turn), -math.sin(turn) * height / width, 0],
                [math.sin(turn) * width / height, math.cos(turn), 0],
            ],
            device=x.device,
        )
        grid = F.affine_grid(theta.expand(len(x), 2, 3), list(x.shape), align_corners=False)
        values = x if x.is_floating_point() else x.float()
        turned = F.grid_sample(values, grid.to(values.dtype), mode="bilinear", align_corners=False)
        return turned if x.is_floating_point() else turned.round().to(x.dtype)


@dataclass(frozen=True, eq=False)
class View(Dataset[Any]):
    """Examples (x, y) over tensors that may be shared by many views.

    ``rows[i]`` is the place in x of example i (None: all, in order); y has one entry for each example of the view;
    ``changes`` are applied in turn to the rows that are read, never to the whole.

    >>> view = View(torch.arange(6).view(3, 2), torch.tensor([0, 1]), rows=torch.tensor([2, 0]))
    >>> view[0]
    (tensor([4, 5]), tensor(0))
    """

    x: X
    y: Tensor
    rows: Tensor | None = None
    changes: tuple[Permutation | Rotation, ...] = ()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[X, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        one = torch.tensor([index % len(self)])
        return each(self.read(one), lambda t: t[0]), self.y[index]

    def read(self, index: Tensor | slice) -> X:
        """The inputs of the examples at ``index``, as stored but changed."""
        where = index if self.rows is None else self.rows[index]
        return each(self.x, lambda t: self.changed(t[where]))

    def changed(self, x: Tensor) -> Tensor:
        """A batch of stored rows as a reader of the view sees it."""
        for change in self.changes:
            x = change(x)
        return x

    def through(self, *changes: Permutation | Rotation) -> View:
        """The same examples, changed further."""
        return replace(self, changes=self.changes + changes)

    def take(self, index: Tensor) -> View:
        """A view of some of the examples; copies nothing but their labels."""
        return replace(self, y=self.y[index], rows=index if self.rows is None else self.rows[index])
