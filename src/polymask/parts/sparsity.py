"""How much of a layer a task takes: magnitude pruning, equal shares, budgets per layer."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


def smallest(w: Shaped[Tensor, "*w"], among: Bool[Tensor, "*w"], count: int) -> Bool[Tensor, "*w"]:
    """The mask of the ``count`` entries of smallest ``|w|`` among those given; at ties the lower index goes first.

    Magnitude pruning per layer (PackNet, Mallya and Lazebnik 2018, section 3); exactly ``count`` entries, where a
    threshold would remove every tied entry.

    Args:
        w: the weight.
        among: bool, the shape of ``w``: the entries that may be chosen.
        count: how many.

    Raises:
        ValueError: if fewer than ``count`` entries may be chosen.

    >>> smallest(torch.tensor([3.0, -1.0, 2.0, 0.5]), torch.tensor([True, True, True, False]), 2)
    tensor([False,  True,  True, False])
    """
    where = among.flatten().nonzero().squeeze(1)
    if count > len(where):
        raise ValueError(f"expected at most {len(where)} entries to prune, found {count}: prune a smaller share")
    mask = torch.zeros(w.numel(), dtype=torch.bool, device=w.device)
    if count:
        order = w.detach().abs().flatten()[where].sort(stable=True).indices
        mask[where[order[:count]]] = True
    return mask.view(w.shape)


def equal_share(position: int, tasks: int) -> float:
    """The share that task ``position`` (from 1) prunes of its own so that all tasks end with equal shares.

    ``p_t = (T - t) / (T - t + 1)``: 0.9, 0.889, ... 0.5, 0 for ten tasks.

    >>> [round(equal_share(t, 4), 3) for t in (1, 2, 3, 4)]
    [0.75, 0.667, 0.5, 0.0]
    """
    return (tasks - position) / (tasks - position + 1)


def capacity_penalty(gates: Iterable[tuple[Float[Tensor, " _"], Shaped[Tensor, " _"]]]) -> Float[Tensor, ""]:
    """``sum a (1 - A) / sum (1 - A)`` over all units of all layers: what a task takes of what is free.

    HAT's regulariser (Serra et al. 2018, equation 5): global sums; 0 where nothing is free.

    Args:
        gates: pairs of a layer's gates ``a`` now and how far ``A`` earlier tasks have used its units, each (units,).

    >>> capacity_penalty([(torch.tensor([1.0, 0.5]), torch.tensor([0.0, 1.0])), (torch.ones(3), torch.zeros(3))])
    tensor(1.)
    """
    taken, free = torch.zeros(()), torch.zeros(())
    for a, used in gates:
        left = 1 - used.to(a.dtype)
        taken, free = taken.to(a.device) + (a * left).sum(), free.to(a.device) + left.sum()
    return taken / free.clamp(min=torch.finfo(free.dtype).tiny)


def layer_budget(shape: torch.Size | tuple[int, ...], s: float) -> float:
    """SupSup's density of a layer under the budget ``S`` (Wortsman et al. 2020, appendix): about ``S (out + in)``.

    ``rho = min(0.5, S (c_out + c_in) / (c_out c_in k_h k_w))`` for a weight ``(c_out, c_in, k_h, k_w)``.

    >>> layer_budget((64, 64, 3, 3), 8), layer_budget((10, 20), 1)
    (0.027777777777777776, 0.15)
    """
    return min(0.5, s * (shape[0] + shape[1]) / math.prod(shape))
