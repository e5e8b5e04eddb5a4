"""What the masks in a bank say together: density, what all of them use, how much two share, and how they look."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from polymask.bank.reader import Reader
from polymask.parts.pack import Packed, unpack
from polymask.report.bins import bins

Numbers = NDArray[np.float64]
PIXELS = 128
"""The longest side of a mask's image."""


@dataclass(frozen=True)
class Masks:
    """The masks of a bank's tasks.

    Args:
        tasks: those whose record could be read, in order of learning.
        layers: the masked tensors, or layers whose units are masked.
        density: the share of a layer's entries that a task reads, (L, T).
        alone: the share of all masked entries that a task reads, (T,).
        used: the share of them that any task up to this one reads, (T,).
        shown: the tasks of ``overlap`` and ``images``: all, or of many tasks one of every bin.
        overlap: of two tasks the entries that both read over those that one of them reads, (S, S).
        layer: the layer of which ``images`` are; empty where they are of units.
        images: a task -> the share of every block of the layer's entries that it reads; or a layer -> its units.
        lost: tasks whose record could not be read.
    """

    tasks: list[str]
    layers: list[str]
    density: Numbers
    alone: Numbers
    used: Numbers
    shown: list[str]
    overlap: Numbers
    layer: str
    images: Mapping[str, Numbers]
    lost: list[str]


def read_masks(reader: Reader, entries: Mapping[str, Mapping[str, object]]) -> Masks | None:
    """Read the masks of all tasks, one record after the other; None if no task has any."""
    if not any(entry["masks"] for entry in entries.values()):
        return None
    middle = {list(entries)[one[len(one) // 2]] for one in bins(len(entries))}
    kept: dict[str, Mapping[str, Packed]] = {}
    counts: list[dict[str, int]] = []
    union: dict[str, Tensor] = {}
    used: list[dict[str, int]] = []
    tasks, lost = [], []
    for task in entries:
        try:
            masks = reader.record(task).masks
        except ValueError:
            lost.append(task)
            continue
        tasks.append(task)
        read = {name: unpack(packed) != 0 for name, packed in masks.items()}
        counts.append({name: int(mask.sum()) for name, mask in read.items()})
        for name, mask in read.items():
            union[name] = _either(union[name], mask) if name in union else mask
        used.append({name: int(mask.sum()) for name, mask in union.items()})
        if task in middle:
            kept[task] = masks
    if not tasks:
        return None
    layers, sizes = list(union), {name: mask.numel() for name, mask in union.items()}
    density = np.array([[one.get(name, math.nan) / sizes[name] for one in counts] for name in layers], np.float64)
    total = sum(sizes.values())
    alone, share = (np.array([sum(one.values()) / total for one in these], np.float64) for these in (counts, used))
    shapes = {name: tuple(mask.shape) for name, mask in union.items()}
    return Masks(tasks, layers, density, alone, share, list(kept), _overlap(kept, shapes), *_images(kept, shapes), lost)


def middle_mask(reader: Reader, entries: Mapping[str, Mapping[str, object]]) -> tuple[str, Numbers] | None:
    """A layer and the image of its mask for the middle task, or one near it that can be read; None if there is none."""
    tasks = [task for task, entry in entries.items() if entry["masks"]]
    for task in sorted(tasks, key=lambda task: abs(tasks.index(task) - len(tasks) // 2)):
        try:
            masks = reader.record(task).masks
        except ValueError:
            continue
        layer, images = _images({task: masks}, {name: packed.shape for name, packed in masks.items()})
        name = task if layer else next(iter(images))
        return layer or name, images[name]
    return None


def _either(one: Tensor, other: Tensor) -> Tensor:
    """What one of two masks reads; the smaller is a leading block of the larger."""
    shape = [max(a, b) for a, b in zip(one.shape, other.shape, strict=True)]
    return _padded(one, shape) | _padded(other, shape)


def _padded(mask: Tensor, shape: Sequence[int]) -> Tensor:
    if list(mask.shape) == list(shape):
        return mask
    whole = torch.zeros(*shape, dtype=torch.bool)
    whole[tuple(slice(size) for size in mask.shape)] = mask
    return whole


def _read(masks: Mapping[str, Packed], name: str, shape: Sequence[int]) -> Tensor:
    return _padded(unpack(masks[name]) != 0, shape) if name in masks else torch.zeros(*shape, dtype=torch.bool)


def _overlap(kept: Mapping[str, Mapping[str, Packed]], shapes: Mapping[str, Sequence[int]]) -> Numbers:
    """``|A & B| / |A | B|`` of every pair of tasks, over all layers together (Jaccard); 0 where both are empty."""
    both = torch.zeros(len(kept), len(kept), dtype=torch.float64)
    for name, shape in shapes.items():
        rows = torch.stack([_read(masks, name, shape).flatten() for masks in kept.values()])
        for part in rows.split(1 << 16, 1):
            # Counts of at most 65,536 are exact in float32.
            both += (part.float() @ part.float().T).double()
    alone = both.diagonal()
    return (both / (alone[:, None] + alone[None, :] - both).clamp(min=1)).numpy()


def _images(
    kept: Mapping[str, Mapping[str, Packed]], shapes: Mapping[str, Sequence[int]]
) -> tuple[str, dict[str, Numbers]]:
    """A layer and its masks for some tasks; of units those of all tasks, a row each."""
    weights = [name for name, shape in shapes.items() if len(shape) > 1 and math.prod(shape[1:]) > 1]
    if not weights:
        units = list(shapes)[:3]
        return "", {
            name: _pooled(torch.stack([_read(masks, name, shapes[name]).flatten() for masks in kept.values()]))
            for name in units
        }
    largest = max(weights, key=lambda name: math.prod(shapes[name]))
    places = [round(one * (len(kept) - 1) / 4) for one in range(5)]
    chosen = [list(kept)[place] for place in dict.fromkeys(places)]
    masks = {task: _read(kept[task], largest, shapes[largest]).flatten(1) for task in chosen}
    every = sum((_pooled(_read(one, largest, shapes[largest]).flatten(1)) for one in kept.values()), np.zeros(()))
    return largest, {**{task: _pooled(mask) for task, mask in masks.items()}, "mean of tasks": every / len(kept)}


def _pooled(mask: Tensor) -> Numbers:
    """A mask as an image of at most ``PIXELS`` a side: the mean of every block."""
    tall, wide = (min(side, PIXELS) for side in mask.shape)
    return F.adaptive_avg_pool2d(mask.float()[None], (tall, wide))[0].double().numpy()
