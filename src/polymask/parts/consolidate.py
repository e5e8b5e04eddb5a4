"""Corrections of one weight that agree across tasks, merged into what they share (APD, Yoon et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from polymask.parts.additive import groups_of, prune, shared_part
from polymask.parts.sparse import Sparse, densify, fingerprint_of, sparsify


def consolidate(
    deltas: Sequence[Sparse], count: int, beta: float, threshold: float, draw: torch.Generator, bits: int = 32
) -> list[Sparse]:
    """Group the corrections of tasks, and move what the members of a group agree on into a part that they share.

    Every entry: where the members lie within ``beta`` of each other, the shared part is the middle of their range and
    their own is 0; elsewhere all stays their own. A group of one shares nothing. Groups that share something already
    keep their centres, the others begin at tasks drawn at random (``groups_of``).

    Args:
        deltas: one a task, of one shape.
        count: how many groups; fewer where there are not so many tasks, or no two differ.
        beta: how far members may lie apart; below 0 nothing is merged.
        threshold: the magnitude below which what results is pruned.
        draw: where all randomness comes from.
        bits: 8, 16 or 32, of a value of what results.

    >>> one, two = (sparsify(torch.tensor([1.0, x, 0.0])) for x in (2.0, 3.0))
    >>> found = consolidate([one, two], 1, 0.5, 0.0, torch.Generator().manual_seed(0))
    >>> [densify(sparse) for sparse in found], densify(found[0].local), found[0].local is found[1].local
    ([tensor([1., 2., 0.]), tensor([1., 3., 0.])], tensor([1., 0., 0.]), True)
    """
    groups = groups_of(_gram(deltas), count, _sharing(deltas), draw)
    found = [one if one.local is None else sparsify(prune(densify(one), threshold), bits) for one in deltas]
    for group in groups:
        if len(group) > 1:
            merged = _merged([deltas[k] for k in group], beta, threshold, bits)
            for place, sparse in zip(group, merged, strict=True):
                found[place] = sparse
    return found


def _merged(members: Sequence[Sparse], beta: float, threshold: float, bits: int) -> list[Sparse]:
    # One dense correction at a time, however many tasks there are.
    least = largest = densify(members[0])
    for sparse in members[1:]:
        tau = densify(sparse)
        least, largest = torch.minimum(least, tau), torch.maximum(largest, tau)
    middle = shared_part(least, largest, beta)
    apart = middle.isnan()
    local = sparsify(prune(torch.where(apart, 0, middle), threshold), bits)
    shared = local if local.index.numel() else None
    return [sparsify(prune(torch.where(apart, densify(one), 0), threshold), bits, shared) for one in members]


def _sharing(deltas: Sequence[Sparse]) -> list[list[int]]:
    """The groups of those that share a part already."""
    found: dict[bytes, list[int]] = {}
    for place, sparse in enumerate(deltas):
        if sparse.local is not None:
            found.setdefault(fingerprint_of(sparse.local), []).append(place)
    return list(found.values())


def _gram(deltas: Sequence[Sparse]) -> Tensor:
    """The inner products of all pairs, float64; one of a pair is dense at a time."""
    whole = [sparse if sparse.local is None else sparsify(densify(sparse)) for sparse in deltas]
    plain = [replace(sparse, local=None) for sparse in whole]
    gram = torch.zeros(len(deltas), len(deltas), dtype=torch.float64)
    for i, one in enumerate(plain):
        dense = densify(one).flatten().double()
        for j in range(i, len(plain)):
            other = plain[j]
            values = densify(replace(other, shape=(len(other.value),), index=torch.arange(len(other.value)))).double()
            gram[i, j] = gram[j, i] = dense[other.index.long()] @ values
    return gram
