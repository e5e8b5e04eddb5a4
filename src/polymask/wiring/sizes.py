"""Other lengths and batch sizes of an example: which axes go together, and what else they may measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

Place = tuple[int, int]
"""A leaf and one of its axes."""
Sizes = Mapping[Place, int]
"""What the axes of some leaves measure, where that is not as given."""
ROWS = (3, 17, 9, 5, 33, 1)
LENGTHS = (17, 3, 9, 33, 129)
"""Little and much first: what depends on a size mostly does so beyond some threshold."""
HINTS = 6


def resized(leaf: Tensor, place: int, sizes: Sizes) -> Tensor:
    """A leaf with its rows repeated or left out, along every axis that is to measure something else.

    >>> resized(torch.tensor([[1, 2, 3]]), 0, {(0, 0): 2, (0, 1): 4})
    tensor([[1, 2, 3, 1],
            [1, 2, 3, 1]])
    """
    for axis, now in enumerate(leaf.shape):
        size = sizes.get((place, axis), now)
        if size != now:
            leaf = leaf.index_select(axis, torch.arange(size) % max(now, 1))
    return leaf


def one_row(shapes: Mapping[int, Sequence[int]]) -> Sizes:
    """The first axis of every leaf cut to 1."""
    return {(place, 0): 1 for place, shape in shapes.items() if len(shape) and shape[0]}


def groups(shapes: Mapping[int, Sequence[int]]) -> list[tuple[Place, ...]]:
    """Axes that may have to change together: those of one size and one place, those of one size, and all first ones.

    >>> groups({0: (5, 4, 6), 1: (4,)})
    [((0, 0),), ((0, 1),), ((0, 2),), ((1, 0),), ((0, 1), (1, 0)), ((0, 0), (1, 0))]
    """
    alike: dict[tuple[int, int], list[Place]] = {}
    equal: dict[int, list[Place]] = {}
    first = [(place, 0) for place, shape in shapes.items() if len(shape)]
    for place, shape in shapes.items():
        for axis, size in enumerate(shape):
            alike.setdefault((axis, size), []).append((place, axis))
            equal.setdefault(size, []).append((place, axis))
    return list(dict.fromkeys(tuple(group) for group in (*alike.values(), *equal.values(), first) if group))


def candidates(
    shapes: Mapping[int, Sequence[int]], hints: Sequence[int]
) -> Iterator[tuple[tuple[Place, ...], int, bool]]:
    """What groups of axes may measure, one of every group after the other, what matters most first.

    Args:
        shapes: leaf -> shape, as given.
        hints: sizes that may matter, such as how many positions are embedded; the first few within reach.

    Yields:
        The group, a size, and whether it is one of the hints.
    """
    rounds = []
    for group in groups(shapes):
        place, axis = group[0]
        now = shapes[place][axis]
        first, rest = ((65, 2, now), ROWS) if axis == 0 else ((65, 1, now + 1), (2, 2 * now, now - 1, *LENGTHS))
        hinted = [hint for hint in hints if 1 < hint <= 8 * max(now, 16)][:HINTS]
        wanted = dict.fromkeys((*first, *hinted, *rest))
        rounds.append([(group, size, size in hinted) for size in wanted if size > 0 and (size != now or axis == 0)])
    for each in zip_longest(*rounds):
        yield from (one for one in each if one is not None)
