"""Many tasks as few: bins of neighbours, so that a picture of 2,500 tasks is no larger than one of 50."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

MOST = 50
"""Tasks up to which each is shown by itself."""


def bins(count: int, most: int = MOST) -> list[range]:
    """Neighbouring places in bins whose sizes differ by at most one; a bin each where there are few.

    >>> bins(3), [len(one) for one in bins(7, most=3)]
    ([range(0, 1), range(1, 2), range(2, 3)], [2, 2, 3])
    """
    edges = [place * count // min(count, most) for place in range(min(count, most) + 1)] if count else [0]
    return [range(low, high) for low, high in pairwise(edges)]


def bin_names(names: Sequence[str], groups: Sequence[range], short: bool = False) -> list[str]:
    """What each bin is called: the task, or the first and the last of several; in short the first.

    >>> bin_names(["a", "b", "c"], [range(0, 1), range(1, 3)])
    ['a', 'b … c']
    """
    ends = [names[one[0]] if len(one) == 1 else f"{names[one[0]]} … {names[one[-1]]}" for one in groups]
    return [f"{names[one[0]]} …" if short and len(one) > 1 else end for one, end in zip(groups, ends, strict=True)]


def bin_means(values: NDArray[np.float64], groups: Sequence[range], axis: int = 0) -> NDArray[np.float64]:
    """The mean of what is known in every bin along an axis; NaN where nothing is.

    >>> bin_means(np.array([1.0, np.nan, 3.0]), [range(0, 2), range(2, 3)]).tolist()
    [1.0, 3.0]
    """
    if not groups:
        return values
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice")
        means = [np.nanmean(np.take(values, list(one), axis), axis) for one in groups]
    return np.stack(means, axis)


def bin_matrix(values: NDArray[np.float64], groups: Sequence[range]) -> NDArray[np.float64]:
    """A square matrix of all tasks as one of bins: the mean of what is known in every block.

    Of a block on the diagonal, where only some of its tasks are learned in a row, that of its diagonal: every task when
    it was learned.

    >>> bin_matrix(np.array([[1.0, np.nan, np.nan], [2.0, 5.0, np.nan], [2.0, 4.0, 6.0]]), bins(3, most=2)).tolist()
    [[1.0, nan], [2.0, 5.5]]
    """
    known = np.isfinite(values)
    sums, counts = np.where(known, values, 0.0), known.astype(np.float64)
    starts = [one[0] for one in groups]
    for axis in (0, 1):
        sums, counts = np.add.reduceat(sums, starts, axis), np.add.reduceat(counts, starts, axis)
    means = np.full(sums.shape, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    np.fill_diagonal(means, bin_means(values.diagonal(), groups))
    return means
