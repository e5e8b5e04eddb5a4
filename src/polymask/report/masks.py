"""What a finished mask has changed, what it would cost if it were entropy-coded, and how much of it others read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Flips:
    """How many entries of a mask are off their start of all ones, and what that costs.

    Args:
        weights: how many entries there are.
        flipped: how many of them are not 1.
        packed_bytes: at 1 bit an entry of a binary mask, 2 of a ternary one, without a scale.
        coded_bytes: at the entropy of every layer, ``sum n H(p) / 8``: what no code of independent entries beats.
    """

    weights: int
    flipped: int
    packed_bytes: int
    coded_bytes: float

    @property
    def rate(self) -> float:
        """The flip rate, ``flipped / weights``."""
        return self.flipped / self.weights


def flips(masks: Mapping[str, Tensor]) -> dict[str, Flips]:
    """The flips of every layer's mask, and under "" of all together.

    Scores that start above the threshold make a mask of ones (Piggyback, Mallya et al. 2018), so what a task has
    learned is where it is not 1.

    Args:
        masks: name -> mask: bool, or int8 with -1, 0 and 1, or either times a scale.

    Raises:
        ValueError: if there is no mask.

    >>> import torch
    >>> found = flips({"a": torch.tensor([True, True, True, False]), "b": torch.ones(4, dtype=torch.bool)})
    >>> found["a"].rate, found[""].rate, found["b"].coded_bytes, round(8 * found["a"].coded_bytes, 3)
    (0.25, 0.125, 0.0, 3.245)
    """
    if not masks:
        raise ValueError("expected at least one mask, found none")
    found = {name: _flips(mask) for name, mask in masks.items()}
    every = found.values()
    total = Flips(
        sum(one.weights for one in every),
        sum(one.flipped for one in every),
        sum(one.packed_bytes for one in every),
        sum(one.coded_bytes for one in every),
    )
    return {**found, "": total}


def _flips(mask: Tensor) -> Flips:
    n, entries = mask.numel(), mask
    if mask.is_floating_point():
        rows = mask.flatten(1) if mask.ndim > 1 else mask[None]
        largest = rows.abs().amax(1).clamp(min=torch.finfo(mask.dtype).tiny)
        entries = mask / largest.view(-1, *[1] * (mask.ndim - 1))  # a scale is that of its row
    counts = [int((entries == value).sum()) for value in (1, 0, -1)]
    entropy = -sum(count / n * math.log2(count / n) for count in counts if count)
    bits = 2 if mask.dtype == torch.int8 or counts[2] else 1
    return Flips(n, n - counts[0], bits * math.ceil(n / 8), max(0.0, n * entropy / 8))


@dataclass(frozen=True)
class Share:
    """How much of the masked entries a task reads.

    Args:
        density: the share of all masked entries that its masks let through; None where no task has a mask.
        overlap: the share of those that another task's masks let through as well; None also of a single task.
    """

    density: float | None
    overlap: float | None


def shares(tasks: Sequence[str], masks_of: Callable[[str], Mapping[str, Tensor]]) -> dict[str, Share]:
    """Density and overlap of every task: ``|M_t| / n`` and ``|M_t & any other M| / |M_t|``.

    A task without a mask on an entry that others mask reads it; a mask that is smaller than others is their leading
    block, and an axis of 1 is read whole.

    Args:
        tasks: names.
        masks_of: task -> tensor name -> mask, not 0 where it reads; called three times for each, so that one is held.

    >>> import torch
    >>> masks = {"a": {"w": torch.tensor([1, 1, 0, 0])}, "b": {"w": torch.tensor([0, 1, 1, 1])}}
    >>> shares(["a", "b"], masks.__getitem__)
    {'a': Share(density=0.5, overlap=0.5), 'b': Share(density=0.75, overlap=0.3333333333333333)}
    """
    once: dict[str, Tensor] = {}
    twice: dict[str, Tensor] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for task in tasks:
        for name, mask in masks_of(task).items():
            old = shapes.get(name, mask.shape)
            shapes[name] = tuple(map(max, old, mask.shape))
    for task in tasks:
        held = masks_of(task)
        for name, shape in shapes.items():
            mask = _spread(held.get(name), shape)
            before = once.get(name, torch.zeros(shape, dtype=torch.bool))
            twice[name] = twice.get(name, torch.zeros(shape, dtype=torch.bool)) | (before & mask)
            once[name] = before | mask
    return {task: _share(masks_of(task), twice, len(tasks) > 1) for task in tasks} if shapes else {}


def _share(held: Mapping[str, Tensor], twice: Mapping[str, Tensor], others: bool) -> Share:
    masks = {name: _spread(held.get(name), tuple(shared.shape)) for name, shared in twice.items()}
    read = sum(int(mask.sum()) for mask in masks.values())
    both = sum(int((mask & twice[name]).sum()) for name, mask in masks.items())
    return Share(read / sum(mask.numel() for mask in masks.values()), both / read if others and read else None)


def _spread(mask: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """Where a mask reads entries of a tensor of this shape, bool."""
    if mask is None:
        return torch.ones(shape, dtype=torch.bool)
    block = [whole if size == 1 else size for size, whole in zip(mask.shape, shape, strict=True)]
    wide = torch.zeros(shape, dtype=torch.bool)
    wide[tuple(slice(size) for size in block)] = mask != 0
    return wide
