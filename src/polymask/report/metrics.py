"""Accuracy matrix -> numbers, each under the name of its formula.

``R`` is T x T: ``R[i, j]`` is the score on task j after training task i, a float tensor or nested lists; None
or NaN: not measured. Formulas count tasks from 1, messages from 0. For every metric of this file:

- *Missing.* NaN may stand wherever the formula does not look; elsewhere a ValueError names the entry: a mean
  over what happens to be there is another metric.
- *Undefined.* What compares tasks is NaN for T = 1, what compares orders for one order; ``as_json``: null.
- *Sign.* With ``higher_is_better=False`` (losses) transfer above 0 is still good, forgetting above 0 bad.
  Equal scores give exactly 0.0: for a method that cannot forget, assert ``forgetting_chaudhry(R) == 0``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

Vector = Tensor | Sequence[float | None]
Matrix = Tensor | Sequence[Sequence[float | None]]


def average_accuracy(matrix: Matrix) -> float:
    """``mean_j R[T, j]`` (ACC of Lopez-Paz & Ranzato 2017, GEM). Reads the last row.

    >>> average_accuracy([[90, None], [80, 70]])
    75.0
    """
    r = _square(matrix)
    return float(_pick(r, -1, torch.arange(len(r))).mean())


def average_accuracy_triangle(matrix: Matrix) -> float:
    """``mean_{j <= i} R[i, j]`` (A of Diaz-Rodriguez et al. 2018). Reads the lower triangle.

    >>> average_accuracy_triangle([[90, None], [80, 70]])
    80.0
    """
    r = _square(matrix)
    return float(_pick(r, *torch.tril_indices(len(r), len(r))).mean())


def bwt_gem(matrix: Matrix, higher_is_better: bool = True) -> float:
    """``mean_{j < T} R[T, j] - R[j, j]`` (BWT of Lopez-Paz & Ranzato 2017). Reads diagonal and last row.

    >>> bwt_gem([[90, None], [80, 70]]), bwt_gem([[0.5, None], [0.75, 0.5]], higher_is_better=False)
    (-10.0, -0.25)
    """
    r = _square(matrix, higher_is_better)
    j = torch.arange(len(r) - 1)
    return float((_pick(r, -1, j) - _pick(r, j, j)).mean())


def bwt_triangle(matrix: Matrix, higher_is_better: bool = True) -> float:
    """``mean_{j < i} R[i, j] - R[j, j]`` (BWT of Diaz-Rodriguez et al. 2018). Reads the lower triangle.

    >>> bwt_triangle([[90, None, None], [80, 70, None], [60, 65, 50]])
    -15.0
    """
    r = _square(matrix, higher_is_better)
    i, j = torch.tril_indices(len(r), len(r), -1)
    return float((_pick(r, i, j) - _pick(r, j, j)).mean())


def forgetting_chaudhry(matrix: Matrix, higher_is_better: bool = True) -> float:
    """``mean_{j < T} max_{j <= l < T} R[l, j] - R[T, j]`` (F of Chaudhry et al. 2018, eq. 3).

    Reads the lower triangle. The maximum starts at l = j: what was not yet learned cannot be forgotten.

    >>> forgetting_chaudhry([[90, None, None], [95, 70, None], [85, 60, 50]])
    10.0
    """
    r = _square(matrix, higher_is_better)
    scores = [_pick(r, torch.arange(j, len(r)), j) for j in range(len(r) - 1)]
    return float(torch.tensor([float(s[:-1].max() - s[-1]) for s in scores], dtype=torch.float64).mean())


def forgetting_avalanche(matrix: Matrix, higher_is_better: bool = True) -> float:
    """``mean_{j < T} R[j, j] - R[T, j] = -bwt_gem`` (as in Avalanche). Reads diagonal and last row.

    >>> forgetting_avalanche([[90, None], [80, 70]])
    10.0
    """
    # Not -bwt_gem: nothing forgotten is 0.0, never -0.0.
    return 0.0 - bwt_gem(matrix, higher_is_better)


def fwt_gem(matrix: Matrix, baseline: Vector, higher_is_better: bool = True) -> float:
    """``mean_{j > 1} R[j - 1, j] - b[j]``, b: (T,), the untrained network (FWT of Lopez-Paz & Ranzato 2017).

    Reads the diagonal above the main one, and b from task 2. Meaningless with a head for each task.

    >>> fwt_gem([[90, 60], [80, 70]], [None, 50])
    10.0
    """
    r = _square(matrix, higher_is_better)
    j = torch.arange(1, len(r))
    return float((_pick(r, j - 1, j) - _vector(baseline, "baseline", len(r), 1, higher_is_better)).mean())


def transfer_vs_independent(matrix: Matrix, independent: Vector, higher_is_better: bool = True) -> float:
    """``mean_{j > 1} R[j, j] - s[j]``, s: (T,), a network of its own for each task (CLArena's FWT).

    Reads the diagonal and s, both from task 2: the first task has nothing to gain from.

    >>> transfer_vs_independent([[90, None], [80, 70]], [None, 75])
    -5.0
    """
    r = _square(matrix, higher_is_better)
    j = torch.arange(1, len(r))
    return float((_pick(r, j, j) - _vector(independent, "independent", len(r), 1, higher_is_better)).mean())


def hat_forgetting_ratio(row: Vector, random: Vector, joint: Vector) -> float:
    """``mean_{j <= t} (a[j] - random[j]) / (joint[j] - random[j]) - 1`` (rho of Serra et al. 2018, HAT).

    0: as good as joint training on the same t tasks; -1: as bad as the untrained network; same for losses.
    All three are (t,) and read whole; ``row`` holds the scores on tasks 1 to t after training task t.

    Raises:
        ValueError: a score missing, or a task on which joint training is as good as none.

    >>> hat_forgetting_ratio([70, 90], random=[50, 50], joint=[90, 90])
    -0.25
    """
    size = len(row)
    a, low, high = _vector(row, "row", size), _vector(random, "random", size), _vector(joint, "joint", size)
    if (high == low).any():
        where = (high == low).nonzero().flatten().tolist()
        raise ValueError(f"expected joint != random, found them equal at {where}: leave these tasks out")
    return float(((a - low) / (high - low) - 1).mean())


def opd(finals: Mapping[str, Vector]) -> dict[str, float]:
    """``OPD_t = max_o P_t[o] - min_o P_t[o]`` over orders o (performance disparity; Yoon et al. 2020, APD).

    ``finals`` maps a task's *name*, never its position, to its final scores, one for each order. Average over
    seeds first, or their noise counts as disparity.

    Raises:
        ValueError: no task, a score missing, or tasks with unequal numbers of orders.

    >>> opd({"cats": [80, 70, 75], "dogs": [60, 60, 61]})
    {'cats': 10.0, 'dogs': 1.0}
    """
    orders = max(map(len, finals.values()), default=0)
    if not orders:
        raise ValueError("expected the final scores of at least one task, found none")
    scores = {task: _vector(values, f"finals[{task!r}]", orders) for task, values in finals.items()}
    return {task: float(p.max() - p.min()) if orders > 1 else math.nan for task, p in scores.items()}


def aopd(finals: Mapping[str, Vector]) -> float:
    """``mean_t OPD_t`` (Yoon et al. 2020), see ``opd``.

    >>> aopd({"cats": [80, 70, 75], "dogs": [60, 60, 61]})
    5.5
    """
    # Exactly rounded: a sum of floats may bring the mean of equal entries above each of them, and so above MOPD.
    return float(statistics.mean(opd(finals).values()))


def mopd(finals: Mapping[str, Vector]) -> float:
    """``max_t OPD_t`` (Yoon et al. 2020), see ``opd``.

    >>> mopd({"cats": [80, 70, 75], "dogs": [60, 60, 61]})
    10.0
    """
    return max(opd(finals).values())


def as_json(value: float) -> float | None:
    """The number, or None (JSON null) where it is not finite.

    >>> as_json(0.5), as_json(float("nan"))
    (0.5, None)
    """
    return value if math.isfinite(value) else None


def summary(matrix: Matrix, higher_is_better: bool = True) -> dict[str, float | None]:
    """The three numbers of every report, ready for JSON. Reads the lower triangle.

    >>> summary([[90, None], [80, 70]])
    {'average_accuracy': 75.0, 'bwt_gem': -10.0, 'forgetting_chaudhry': 10.0}
    """
    return {
        "average_accuracy": as_json(average_accuracy(matrix)),
        "bwt_gem": as_json(bwt_gem(matrix, higher_is_better)),
        "forgetting_chaudhry": as_json(forgetting_chaudhry(matrix, higher_is_better)),
    }


def _read(values: Matrix | Vector, name: str, shape: tuple[int, ...]) -> Tensor:
    try:
        r = values.detach().cpu() if isinstance(values, Tensor) else torch.tensor(np.array(values, np.float64))
    except ValueError as error:
        raise ValueError(f"expected {name} of shape {shape}, None where not measured; {error}") from error
    if r.shape != shape or not r.numel():
        raise ValueError(f"expected {name} of shape {shape}, at least one task, found {tuple(r.shape)}")
    return r.double()


def _square(matrix: Matrix, higher_is_better: bool = True) -> Tensor:
    r = _read(matrix, "matrix", (len(matrix), len(matrix)))
    return r if higher_is_better else -r


def _vector(values: Vector, name: str, size: int, start: int = 0, higher_is_better: bool = True) -> Tensor:
    v = _read(values, name, (size,))[start:]
    if v.isnan().any():
        missing = [k + start for k in v.isnan().nonzero().flatten().tolist()]
        raise ValueError(f"expected a score in {name} at {missing}, found NaN: measure it")
    return v if higher_is_better else -v


def _pick(r: Tensor, i: Tensor | int, j: Tensor | int) -> Tensor:
    scores = r[i, j]
    if scores.isnan().any():
        first = int(torch.arange(r.numel()).view(r.shape)[i, j][scores.isnan()][0])
        cell = f"R[{first // len(r)}, {first % len(r)}]"
        raise ValueError(f"this metric reads {cell}, found NaN: measure it, or take one that does not read it")
    return scores
