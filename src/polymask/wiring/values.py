"""Other values for one leaf of an example: what a number, a flag, a table of ids or a mask could also be."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MANY, LOUD = 8, 1000.0
"""How many single values of a leaf are tried, each on its own."""


@dataclass(frozen=True)
class Way:
    """One way to draw a leaf.

    Args:
        kind: "given", "always" the one value of ``points``, all as "loud" as that, numbers "spread" over magnitudes,
            "levels" among ``points``, or integers "within" a range, "prefix" of ones, "falling", or the given ones
            "shuffled"; of what is not given, zeros and ones of the kind in ``points`` "beside" the leaf at place
            ``low``.
        low: the least integer.
        high: the largest.
        points: values of which something may depend.
    """

    kind: str
    low: int = 0
    high: int = 0
    points: tuple[Any, ...] = ()

    def drawn(self, leaf: Any, draw: torch.Generator) -> Any:
        """Another value for a leaf.

        >>> other = Way("within", 0, 3).drawn(torch.zeros(100, dtype=torch.long), torch.Generator())
        >>> bool((other >= 0).all() and (other <= 3).all())
        True
        """
        if not isinstance(leaf, Tensor):
            return self.points[0] if self.kind == "always" else leaf
        return leaf.clone() if self.kind == "given" else _DRAWS[self.kind](self, leaf, draw).to(leaf.dtype)


def _always(way: Way, leaf: Tensor, _: torch.Generator) -> Tensor:
    return torch.full(leaf.shape, float(way.points[0]))


def _loud(way: Way, leaf: Tensor, draw: torch.Generator) -> Tensor:
    return torch.randn(leaf.shape, generator=draw) * float(way.points[0])


def _spread(way: Way, leaf: Tensor, draw: torch.Generator) -> Tensor:
    """From a tenth to a thousand, each row in a magnitude of its own; as often around a value that may matter."""
    sizes = 10 ** (4 * torch.rand(leaf.shape[:1], generator=draw) - 1)
    if way.points and _chance(draw, 0.5):
        sizes = torch.full_like(sizes, 2 * abs(float(_one_of(way.points, draw))))
    return torch.randn(leaf.shape, generator=draw) * sizes.view(*leaf.shape[:1], *[1] * (leaf.ndim - 1))


def _levels(way: Way, leaf: Tensor, draw: torch.Generator) -> Tensor:
    points = torch.tensor([float(point) for point in way.points])
    if _chance(draw, 0.3):
        points = points[_place(len(points), draw)][None]
    return points[torch.randint(len(points), leaf.shape, generator=draw)]


def _within(way: Way, leaf: Tensor, draw: torch.Generator) -> Tensor:
    """From the whole range, from a part of it, or from a single value."""
    at = [way.low, way.high, *way.points]
    at += [int(torch.randint(way.low, way.high + 1, (), generator=draw)) for _ in range(2)]
    # Often up to an end of the range: what depends on integers mostly does so beyond some threshold.
    low, high = sorted((_one_of(at, draw), _one_of((way.low, way.high, *at), draw)))
    if _chance(draw, 0.4):
        low, high = way.low, way.high
    found = torch.randint(low, high + 1, leaf.shape, generator=draw)
    some = torch.rand(leaf.shape, generator=draw) < 0.2 * _chance(draw, 0.5)
    points = torch.tensor(at)
    return torch.where(some, points[torch.randint(len(points), leaf.shape, generator=draw)], found)


def _prefix(way: Way, leaf: Tensor, draw: torch.Generator) -> Tensor:
    """Ones up to a place of each row's own, or from there on; at least one."""
    length = leaf.shape[-1]
    ends = torch.randint(1, length + 1, (*leaf.shape[:-1], 1), generator=draw)
    ones = torch.arange(length).expand(leaf.shape) < ends
    return ones.flip(-1) if _chance(draw, 0.3) else ones


def _falling(way: Way, leaf: Tensor, draw: torch.Generator) -> Tensor:
    return torch.randint(max(way.low, 1), max(way.high, 1) + 1, leaf.shape, generator=draw).sort(-1, True).values


def _shuffled(way: Way, leaf: Tensor, draw: torch.Generator) -> Tensor:
    return leaf.flatten()[torch.randperm(leaf.numel(), generator=draw)].view(leaf.shape)


_DRAWS = {
    "always": _always,
    "loud": _loud,
    "spread": _spread,
    "levels": _levels,
    "within": _within,
    "prefix": _prefix,
    "falling": _falling,
    "shuffled": _shuffled,
}


def of_fractions(leaf: Tensor, thresholds: Collection[float]) -> list[Way]:
    """Ways to draw fractions; those that were given whole are also drawn whole.

    Args:
        leaf: as given.
        thresholds: what the network compares with.

    >>> [way.kind for way in of_fractions(torch.tensor([0.0, 1.0, 1.0]), [])]
    ['spread', 'levels', 'given', 'levels']
    """
    ways = [
        Way("spread", points=tuple(sorted({abs(t) for t in thresholds if abs(t) > 1}))),
        Way("levels", points=(0.0, 1.0)),
        Way("given"),
    ]
    seen = leaf.float().unique()
    if len(seen) and torch.equal(seen, seen.round()):
        ways.append(Way("levels", points=tuple(_picked([float(value) for value in seen]))))
    return ways


def louder(thresholds: Collection[float]) -> list[Way]:
    """Magnitudes of fractions beyond what a network compares something with, and one beyond most.

    >>> [way.points[0] for way in louder([0.5, 50.0])]
    [200.0, 1000.0]
    """
    sizes = {LOUD, *(4.0 * abs(t) for t in thresholds if 1 < abs(t) < LOUD)}
    return [Way("loud", points=(size,)) for size in sorted(sizes)[-MANY:]]


def ranges(leaf: Tensor, tables: Iterable[int], compared: Collection[float], hints: Collection[float]) -> list[Way]:
    """Ranges in which integers may be drawn, the widest first; the first that a network takes is the right one.

    Args:
        leaf: as given.
        tables: the sizes of the tables in which it is looked up.
        compared: what the network compares the leaf itself with.
        hints: whatever else it compares something with.

    >>> [(way.low, way.high) for way in ranges(torch.tensor([2, 5]), [12], [], [7.0])]
    [(0, 11), (0, 5), (1, 5), (2, 5)]
    >>> [(way.low, way.high) for way in ranges(torch.tensor([0, 0]), [], [150.0], [])]
    [(0, 151), (0, 1), (1, 1), (0, 0)]

    What looks like a table's index may be another number that happens to be the same:

    >>> [(way.low, way.high) for way in ranges(torch.tensor([1]), [6], [150.0], [])]
    [(0, 151), (0, 5), (0, 1), (1, 1)]
    """
    if leaf.dtype == torch.bool:
        return [Way("within", 0, 1)]
    low, high = (int(leaf.min()), int(leaf.max())) if leaf.numel() else (0, 1)
    far = [int(t) + (1 if t > high else -1) for t in compared if t > high or t < min(low, 0)]
    found = [(0, size - 1) for size in sorted({*tables}, reverse=True)]
    found += [(min(0, low, *far), max(1, high, *far)), (min(0, low), max(1, high)), (1, max(1, high)), (low, high)]
    points = sorted({low, high, low + 1, *[int(t) + step for t in (*compared, *hints) for step in (-1, 0, 1)]})
    return [
        Way("within", a, b, tuple(_picked([point for point in points if a <= point <= b])))
        for a, b in sorted(dict.fromkeys(found), key=lambda ends: ends[0] - ends[1])
        if b >= high
    ]


def beside(within: Way | None, leaf: Tensor) -> list[Way]:
    """What else may be tried of integers: each value that may matter alone, masks of a prefix, lengths, another order.

    Args:
        within: the range that the network takes; None: none.
        leaf: as given.
    """
    low, high, points = (within.low, within.high, within.points) if within else (0, 1, (0, 1))
    ways = [Way("always", points=(point,)) for point in dict.fromkeys((low, high, *points))]
    if leaf.ndim and leaf.dtype != torch.bool and high > 1:
        ways.append(Way("falling", low, high))
    if leaf.ndim > 1 and high <= 1:
        ways.append(Way("prefix"))
    if leaf.numel() > 1 and leaf.min() != leaf.max():
        ways.append(Way("shuffled"))
    return ways


def beyond(within: Way | None, leaf: Tensor, hints: Collection[int | float | str]) -> list[Way]:
    """Values outside the range, each alone: kept only if the network then does something else.

    Args:
        within: the range that the network takes; None: none.
        leaf: as given.
        hints: the constants of the network's own code.
    """
    said = {int(hint) + step for hint in hints if not isinstance(hint, str) for step in (0, 1, -1)}
    inside = range(within.low, within.high + 1) if within else range(0)
    if leaf.dtype == torch.bool or (within and within.high > MANY):
        return []
    return [Way("always", points=(v,)) for v in sorted({*range(4), *said}, key=abs) if v not in inside][: 2 * MANY]


def others(leaf: Any, hints: Collection[int | float | str]) -> list[Way]:
    """What a leaf that is no tensor may also be.

    Args:
        leaf: as given: a flag, a number, a word.
        hints: the constants of the network's own code.

    >>> [way.points[0] for way in others(False, [])], [way.points[0] for way in others("a", ["b", 3])]
    ([True], ['b'])
    """
    if isinstance(leaf, bool):
        found: list[Any] = [not leaf]
    elif isinstance(leaf, int):
        said = {int(hint) + step for hint in hints if not isinstance(hint, str) for step in (0, 1, -1)}
        found = [*range(4), leaf + 1, leaf - 1, *sorted(said)]
    elif isinstance(leaf, float):
        found = [0.0, 1.0, -leaf, 10 * leaf, *[float(hint) + 0.5 for hint in hints if not isinstance(hint, str)]]
    elif isinstance(leaf, str):
        found = sorted(hint for hint in hints if isinstance(hint, str))
    else:
        found = []
    return [Way("always", points=(value,)) for value in dict.fromkeys(found) if value != leaf][: 4 * MANY]


def _picked(values: Sequence[Any]) -> list[Any]:
    """A few of many values, evenly."""
    last = len(values) - 1
    return [values[place * last // (MANY - 1)] for place in range(MANY)] if len(values) > MANY else [*values]


def _place(count: int, draw: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=draw))


def _one_of(points: Sequence[Any], draw: torch.Generator) -> Any:
    return points[_place(len(points), draw)]


def _chance(draw: torch.Generator, much: float) -> bool:
    return float(torch.rand((), generator=draw)) < much
