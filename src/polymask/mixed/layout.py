"""Which sample every position of an activation belongs to: asked of the network, never guessed from a shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from polymask.calling import leaves_of, tensors_of


@dataclass(frozen=True)
class Layout:
    """Where the samples of a batch lie in an activation.

    Args:
        axis: the axis along which positions change their sample, counted without the axis of the units.
        owner: the sample of each place on that axis, (size of the axis,).
    """

    axis: int
    owner: Tensor

    def spread(self, values: Tensor, index: Tensor, ndim: int, units: int) -> Tensor:
        """A row of ``values`` per task as a tensor that broadcasts to an activation.

        Args:
            values: (tasks, units).
            index: the task of every sample, (samples,).
            ndim: of the activation.
            units: the axis of the units in it.

        >>> Layout(0, torch.tensor([0, 0, 1, 1])).spread(torch.tensor([[5.0], [7.0]]), torch.tensor([1, 0]), 2, -1)
        tensor([[7.],
                [7.],
                [5.],
                [5.]])
        """
        found, units = values[index[self.owner]], units % ndim
        axis = self.axis + (self.axis >= units)
        shape = [1] * ndim
        shape[axis], shape[units] = found.shape
        return (found if axis < units else found.T).reshape(shape)


def probes(x: Any, rows: int) -> list[Any]:
    """Batches that differ by sample: all alike; all changed; and for every bit of a sample's number those that have it.

    Only tensors with the batch's own first axis change: fractions by noise, numbers by an exchange of their smallest
    and largest. Numbers of two kinds may be a mask without which no network need survive; they stay, unless there is
    nothing else to change.
    """
    bits = max(1, (rows - 1).bit_length())
    numbers = torch.arange(rows)
    chosen = [torch.zeros(rows, dtype=torch.bool), torch.ones(rows, dtype=torch.bool)]
    chosen += [(numbers >> bit & 1).bool() for bit in range(bits)]
    samples = [t for t in leaves_of(x) if t.ndim and len(t) == rows]
    least = 3 if any(t.is_floating_point() or len(t.unique()) > 2 for t in samples) else 2
    return [tensors_of(x, partial(_changed, which=which, rows=rows, least=least)) for which in chosen]


def _changed(t: Tensor, which: Tensor, rows: int, least: int) -> Tensor:
    if not t.ndim or len(t) != rows:
        return t
    first = t[:1].expand_as(t).clone()
    if t.is_floating_point():
        first = first.masked_fill(first.isnan(), 0.0)
        draw = torch.Generator().manual_seed(0)
        other = first + torch.randn(first.shape[1:], generator=draw).to(first)
    else:
        kinds = t.unique()
        if len(kinds) < least:
            return first
        low, high = kinds[0], kinds[-1]
        other = torch.where(first == low, high, low)
    return torch.where(which.to(t.device).view(-1, *[1] * (t.ndim - 1)), other, first)


def signature(x: Tensor, units: int | None) -> Tensor:
    """A number for every position of an activation; for every place of its first axis, where no axis is the units'.

    A random sum, as a plain one is the same for all that a LayerNorm has passed.
    """
    x = x.float() if units is None else x.float().movedim(units, -1)
    x = x.flatten(1) if units is None and x.ndim > 1 else x
    if x.ndim == 1:
        return x
    draw = torch.Generator().manual_seed(0)
    return x @ torch.randn(x.shape[-1], generator=draw).to(x)


CLOSE = 1e-3
"""Up to this share of what a sample's own change does, kernels may round differently for other samples of a batch."""


def decoded(path: str, seen: Sequence[Tensor], rows: int) -> Layout:
    """The layout of an activation, from its signatures under all ``probes``.

    Raises:
        ValueError: if samples lie along no axis of it, one after the other.
    """
    alike, changed, *bits = seen
    step = (changed - alike).abs()
    known = step > CLOSE * torch.maximum(alike.abs(), changed.abs())
    code, clear = torch.zeros_like(known, dtype=torch.long), torch.ones_like(known)
    for bit, one in enumerate(bits):
        off, on = (one - alike).abs(), (one - changed).abs()
        code |= (on < off).long() << bit
        clear &= torch.minimum(off, on) <= CLOSE * step
    for axis, size in enumerate(known.shape if (known & clear).any() else ()):
        if size % rows:
            continue
        places = torch.arange(size, device=known.device)
        for owner in (places // (size // rows), places % rows):
            shape = [1] * known.ndim
            shape[axis] = size
            if (((code == owner.view(shape)) & clear) | ~known).all():
                return Layout(axis, owner)
    raise ValueError(
        f"expected the samples of a batch to lie along one axis of what {path!r} is given, found them mixed or not "
        f"there (shape {tuple(known.shape)} without the units): answer one task at a time, with activate(task); or, if "
        "all inputs of this batch are the same number, ask first with others"
    )


Seen = Mapping[str, list[list[Tensor]]]
"""Layer -> call -> its signature under every probe."""


def layouts(seen: Seen, rows: int) -> dict[str, list[Layout]]:
    """The layouts of all layers, call by call."""
    return {path: [decoded(path, one, rows) for one in calls] for path, calls in seen.items()}
