"""Holding out part of the examples, or keeping some alone, class by class, by a keyed draw."""

from __future__ import annotations

import torch
from torch import Tensor

from polymask.parts.seeds import generator


def held_out(y: Tensor, fraction: float, draws: torch.Generator, name: str) -> tuple[Tensor, Tensor]:
    """Rows that stay and rows that are held out, each in order; class by class if y is int64 labels.

    Args:
        y: labels or targets, one row an example.
        fraction: how much to hold out.
        draws: where the choice comes from.
        name: of the task, for the message.

    Raises:
        ValueError: the fraction is not between 0 and 1, or there is but one example.

    >>> from polymask.parts.seeds import generator
    >>> [len(rows) for rows in held_out(torch.tensor([0] * 30 + [1] * 10), 0.1, generator(0), "toy")]
    [36, 4]
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction to hold out must lie between 0 and 1, found {fraction}")
    if len(y) < 2:
        raise ValueError(f"task {name!r} has one example, too few to hold one out: give the part itself")
    drawn = torch.randperm(len(y), generator=draws)
    classes = y.unique() if y.dtype == torch.int64 and y.ndim == 1 else None
    groups = [drawn] if classes is None else [drawn[y[drawn] == label] for label in classes]
    # a class keeps at least one example to learn from, and some class gives at least one away
    chosen = torch.cat([group[: min(round(fraction * len(group)), len(group) - 1)] for group in groups])
    chosen = chosen if len(chosen) else max(groups, key=len)[:1]
    held = torch.zeros(len(y), dtype=torch.bool)
    held[chosen] = True
    return (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)


def drawn(y: Tensor, count: int, key: tuple[object, ...]) -> Tensor:
    """So many rows in order, a share of each class as large as its own, at least one; of targets any.

    Raises:
        ValueError: there are more classes than rows are wanted.

    >>> drawn(torch.tensor([0, 0, 0, 0, 1, 1]), 3, ("key",)).shape
    torch.Size([3])
    """
    order = torch.randperm(len(y), generator=generator(*key))
    if y.is_floating_point() or y.ndim != 1:
        return order[:count].sort().values
    classes, sizes = y.unique(return_counts=True)
    if len(classes) > count:
        raise ValueError(f"expected an example or more of each of {len(classes)} classes, found examples={count}")
    # whole shares first, then one more where the rest is largest
    shares = sizes.double() * count / len(y)
    wanted = shares.floor().long().clamp(min=1)
    for place in (shares - wanted).argsort(descending=True, stable=True).tolist() * 2:
        if int(wanted.sum()) < count and wanted[place] < sizes[place]:
            wanted[place] += 1
    while int(wanted.sum()) > count:
        wanted[wanted.argmax()] -= 1
    chosen = [order[y[order] == label][:most] for label, most in zip(classes, wanted.tolist(), strict=True)]
    return torch.cat(chosen).sort().values
