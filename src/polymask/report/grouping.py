"""How a grouping of batches that nobody named compares with what they truly were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Boundaries(NamedTuple):
    """How many changes of task there were, how many of them were seen at their very batch, and how many were none."""

    true: int
    found: int
    false: int


def purity(groups: Sequence[str | None], true: Sequence[object]) -> float:
    """``sum_g max_c |g and c| / n``: the share of batches whose group is mostly of their own task.

    Groups may be more than tasks, so it is read beside their number. A batch that is in no group counts as wrong.

    Args:
        groups: the group that each of ``n`` batches was put to; None: to none.
        true: the task that it is of.

    Raises:
        ValueError: if there are no batches, or more of one than of the other.

    >>> purity(["1", "1", "1", "2"], ["a", "a", "b", "b"]), purity(["1", None], ["a", "a"])
    (0.75, 0.5)
    """
    _check(groups, true)
    joint = Counter((group, task) for group, task in zip(groups, true, strict=True) if group is not None)
    largest: dict[str | None, int] = {}
    for (group, _), count in joint.items():
        largest[group] = max(count, largest.get(group, 0))
    return sum(largest.values()) / len(groups)


def boundaries(groups: Sequence[str | None], true: Sequence[object]) -> Boundaries:
    """How many changes of the true task were changes of the group, and how many changes of the group were none.

    Args:
        groups: the group that each batch was put to; None: to none.
        true: the task that it is of.

    Raises:
        ValueError: if there are no batches, or more of one than of the other.

    >>> boundaries(["1", "1", "2", "3"], ["a", "a", "b", "b"])
    Boundaries(true=1, found=1, false=1)
    """
    _check(groups, true)
    seen, there = changes(groups), changes(true)
    return Boundaries(len(there), len({*seen} & {*there}), len({*seen} - {*there}))


def changes(values: Sequence[object]) -> list[int]:
    """The places whose value is another than the one before.

    >>> changes(["a", "a", "b", "a"])
    [2, 3]
    """
    return [place for place, (before, here) in enumerate(pairwise(values), 1) if before != here]


def _check(groups: Sequence[str | None], true: Sequence[object]) -> None:
    if not groups or len(groups) != len(true):
        raise ValueError(
            f"expected a group and a true task of every batch, found {len(groups)} groups and {len(true)} tasks"
        )
