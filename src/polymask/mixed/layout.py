"""Which sample every position of an activation belongs to: asked of the network, never guessed from a shape."""

from __future__ import annotations

import hashlib
import itertools
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

    def fits(self, x: Tensor, units: int | None) -> bool:
        """Whether a layer's input has as many places on the axis; ``units`` is the axis of its units, if one is."""
        sizes = list(x.shape)
        if units is not None:
            del sizes[units]
        return self.axis < len(sizes) and sizes[self.axis] == len(self.owner)

    def same(self, other: Layout) -> bool:
        """Whether two layouts say the same."""
        return self.axis == other.axis and torch.equal(self.owner, other.owner)


def variants(x: Any, rows: int) -> list[Any]:
    """A batch, NaN aside, and others that differ from it by sample: in all; and for every bit of a sample's number.

    Only tensors with the batch's own first axis change: fractions by noise, numbers by an exchange of their smallest
    and largest; and numbers only where there is no fraction, since they may choose where samples go. Numbers of two
    kinds may be a mask without which no network need survive; they stay, unless there is nothing else to change.
    """
    bits = max(1, (rows - 1).bit_length())
    numbers = torch.arange(rows)
    chosen = [torch.zeros(rows, dtype=torch.bool), torch.ones(rows, dtype=torch.bool)]
    chosen += [(numbers >> bit & 1).bool() for bit in range(bits)]
    samples = [t for t in leaves_of(x) if has_rows(t, rows)]
    kinds = max((len(t.unique()) for t in samples if not t.is_floating_point()), default=0)
    least = NEVER if any(t.is_floating_point() for t in samples) else min(3, max(2, kinds))
    return [tensors_of(x, partial(_changed, which=which, rows=rows, least=least)) for which in chosen]


NEVER = 1 << 62
"""More kinds of numbers than there are."""


def has_rows(t: Tensor, rows: int) -> bool:
    """Whether samples lie along a tensor's first axis."""
    return bool(t.ndim) and len(t) == rows


def _changed(t: Tensor, which: Tensor, rows: int, least: int) -> Tensor:
    if not has_rows(t, rows):
        return t
    if t.is_floating_point():
        plain = t.masked_fill(t.isnan(), 0.0)
        draw = torch.Generator().manual_seed(0)
        # Of the size of the values themselves where they are large, or it would be lost among them.
        noise = torch.randn(t.shape[1:], generator=draw).to(t) * _finite(plain).abs().mean().clamp(min=1.0)
        other = plain + noise
    else:
        plain = other = t
        if least < NEVER and len(kinds := t.unique()) >= least:
            other = torch.where(t == kinds[0], kinds[-1], kinds[0])
    return torch.where(which.to(t.device).view(-1, *[1] * (t.ndim - 1)), other, plain)


def _finite(t: Tensor) -> Tensor:
    return t.masked_fill(~t.isfinite(), 0.0)


def rearranged(x: Any, rows: int) -> list[Any]:
    """The same batch with its numbers otherwise: every sample has another one's; the smallest is the largest.

    Nothing, if no number differs between samples.
    """
    numbers = [t for t in leaves_of(x) if _is_number(t, rows)]
    if not any((t != t[:1]).any() for t in numbers):
        return []
    steps = itertools.count(1)
    rolled = tensors_of(x, lambda t: t.roll(next(steps), 0) if _is_number(t, rows) else t)
    return [rolled, tensors_of(x, lambda t: _exchanged(t) if _is_number(t, rows) else t)]


def _is_number(t: Tensor, rows: int) -> bool:
    return has_rows(t, rows) and not t.is_floating_point()


def _exchanged(t: Tensor) -> Tensor:
    low, high = (kinds := t.unique())[0], kinds[-1]
    return torch.where(t == low, high, torch.where(t == high, low, t))


FEW = 4
"""So many different numbers in a tensor may each have a meaning of their own: flags, domains, modes."""


def key_of(x: Any, rows: int) -> Any:
    """What batches have in common whose samples lie alike, as far as shapes and a few values can tell; hashable.

    Nested as the batch is: of tensors shape, dtype and the values that are few; of anything else what it is.
    """
    if isinstance(x, Mapping):
        return tuple((key, key_of(value, rows)) for key, value in x.items())
    if isinstance(x, (tuple, list)):
        return (type(x).__name__, *(key_of(value, rows) for value in x))
    if not isinstance(x, Tensor):
        return (type(x).__name__, repr(x))
    return (x.shape, x.dtype, x.device, _few(x, rows))


def _few(t: Tensor, rows: int) -> object:
    """All values of a tensor that is not a sample's; of one that is, those numbers that are few."""
    if not has_rows(t, rows):
        return hashlib.blake2b(_bytes(t), digest_size=16).digest()
    if t.is_floating_point():
        return None
    kinds = t.unique()
    return tuple(kinds.tolist()) if len(kinds) <= FEW else None


def _bytes(t: Tensor) -> bytes:
    return bytes(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def signature(x: Tensor, units: int | None) -> Tensor:
    """A number for every position of an activation; for every place of its first axis, where no axis is the units'.

    A random sum, as a plain one is the same for all that a LayerNorm has passed.
    """
    x = x.float()
    if x.ndim == 1:
        return x
    x = x.flatten(1) if units is None else x.movedim(units, -1)
    draw = torch.Generator().manual_seed(0)
    return x @ torch.randn(x.shape[-1], generator=draw).to(x)


CLOSE = 1e-3
"""Up to this share of what a sample's own change does, kernels may round differently for other samples of a batch."""


def decode_layout(path: str, seen: Sequence[Tensor], rows: int) -> Layout | None:
    """The layout of an activation, from its signatures under all ``variants``; None: several would fit.

    Raises:
        ValueError: if samples lie along no axis of it, one after the other.
    """
    plain, changed, *bits = seen
    step = (changed - plain).abs()
    known = step > CLOSE * torch.maximum(plain.abs(), changed.abs())
    code, clear = torch.zeros_like(known, dtype=torch.long), torch.ones_like(known)
    for bit, one in enumerate(bits):
        off, on = (one - plain).abs(), (one - changed).abs()
        code |= (on < off).long() << bit
        clear &= torch.minimum(off, on) <= CLOSE * step
    found: list[Layout] = []
    for axis, size in enumerate(known.shape if (known & clear).any() else ()):
        if size % rows:
            continue
        places = torch.arange(size, device=known.device)
        for owner in (places // (size // rows), places % rows):
            shape = [1] * known.ndim
            shape[axis] = size
            if (((code == owner.view(shape)) & clear) | ~known).all():
                found.append(Layout(axis, owner))
    if found:
        return found[0] if rows == 1 or all(one.same(found[0]) for one in found) else None
    raise ValueError(
        f"expected the samples of a batch to lie along one axis of what {path!r} is given, found them mixed or not "
        f"there (shape {tuple(known.shape)} without the units): answer one task at a time, with activate(task); or, if "
        "all inputs of this batch are the same number, ask first with others"
    )
