"""Additive corrections of a shared weight: pruned, drawn to zero, read beside a gated weight, grouped (APD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from polymask.parts.sparse import rounded


def prune(tau: Shaped[Tensor, "*w"], threshold: float) -> Shaped[Tensor, "*w"]:
    """The entries of magnitude above a threshold, 0 elsewhere.

    >>> prune(torch.tensor([0.5, -0.1, 0.2]), 0.2)
    tensor([0.5000, 0.0000, 0.0000])
    """
    return torch.where(tau.abs() > threshold, tau, 0)


def soft_threshold(tau: Shaped[Tensor, "*w"], by: Tensor | float) -> Shaped[Tensor, "*w"]:
    """Every entry drawn to 0 by ``by``, at most to 0: the proximal step of ``by * ||tau||_1``.

    >>> soft_threshold(torch.tensor([0.5, -0.25, 0.125]), 0.25)
    tensor([0.2500, 0.0000, 0.0000])
    """
    if tau.is_complex():
        return torch.sgn(tau) * (tau.abs() - by).clamp(min=0)
    return tau - tau.clamp(-by, by) if isinstance(by, float) else tau - torch.clamp(tau, min=-by, max=by)


def correction(tau: Shaped[Tensor, "*w"], threshold: float, bits: int = 32) -> Shaped[Tensor, "*w"]:
    """A correction as it is read and stored: pruned at a threshold, then rounded to so many bits a value."""
    return rounded(prune(tau, threshold), bits)


class _Read(torch.autograd.Function):
    """``w * m + read``; the gradient of what is read of ``tau`` reaches all of it, and ``w`` scaled by ``rate``."""

    @staticmethod
    def forward(w: Tensor, m: Tensor, tau: Tensor, rate: Tensor | None, read: Tensor) -> Tensor:
        return (w * m).add_(read)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        w, m, _, rate, _ = inputs
        ctx.save_for_backward(w, m, rate)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        w, m, rate = ctx.saved_tensors
        scale = m if rate is None else m * rate
        to_w = g * scale if ctx.needs_input_grad[0] else None
        to_m = None
        if ctx.needs_input_grad[1]:
            along = [axis for axis in range(w.ndim) if m.shape[axis] == 1]
            to_m = g * w.conj()
            to_m = to_m.sum(along, keepdim=True) if along else to_m
            to_m = to_m.real if to_m.is_complex() else to_m
        return to_w, to_m, g, None, None


def read_corrected(
    w: Shaped[Tensor, "*w"],
    m: Shaped[Tensor, "*m"],
    tau: Shaped[Tensor, "*w"],
    rate: Shaped[Tensor, "*m"] | None,
    threshold: float,
    bits: int = 32,
) -> Shaped[Tensor, "*w"]:
    """The weight ``w * m + tau``, ``tau`` pruned and rounded as it will be stored (APD, Yoon et al. 2020, equation 1).

    Straight through: a pruned entry has a gradient all the same, or it could never grow.

    Args:
        w: the shared weight.
        m: one gate a unit, of one entry along every other axis; in the dtype of ``w``.
        tau: the correction.
        rate: what the gradient of ``w`` is multiplied by, a number a unit; None: by 1.
        threshold: see ``prune``.
        bits: see ``rounded``.

    >>> w, tau = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.1]], requires_grad=True)
    >>> y = read_corrected(w, torch.tensor([[0.5]]), tau, None, 0.2)
    >>> y.sum().backward()
    >>> y, tau.grad
    (tensor([[1., 1.]], grad_fn=<_ReadBackward>), tensor([[1., 1.]]))
    """
    read = correction(tau.detach(), threshold, bits)
    found: Tensor = _Read.apply(w, m, tau, rate, read)  # type: ignore[no-untyped-call]
    return found


def groups_of(
    gram: Float[Tensor, "n n"], count: int, start: Sequence[Sequence[int]], draw: torch.Generator
) -> list[list[int]]:
    """k-means over points of which only the inner products are known: ``||x_i - c||^2`` needs no more.

    Lloyd's steps until nothing changes, 100 at most. A group that runs empty takes the point that lies farthest from
    its own centre; where all lie on theirs, there are fewer groups.

    Args:
        gram: the inner products, float64.
        count: how many groups, at most one a point.
        start: groups of which the centres are kept; the others begin at points drawn from the rest.
        draw: where all randomness comes from.

    >>> x = torch.tensor([[0.0], [0.1], [5.0], [5.1]], dtype=torch.float64)
    >>> groups_of(x @ x.T, 2, [], torch.Generator().manual_seed(0))
    [[0, 1], [2, 3]]
    """
    n = len(gram)
    count = min(count, n)
    centres = [list(group) for group in start][:count]
    taken = {point for group in centres for point in group}
    rest = [point for point in torch.randperm(n, generator=draw).tolist() if point not in taken]
    rest += [point for point in torch.randperm(n, generator=draw).tolist() if point in taken]
    centres += [[point] for point in rest[: count - len(centres)]]
    for _ in range(100):
        far = _distances(gram, centres)
        nearest = far.argmin(0)
        groups = [(nearest == k).nonzero().flatten().tolist() for k in range(len(centres))]
        for k, group in enumerate(groups):
            lone = far.gather(0, nearest[None])[0].clone()
            lone[[g[0] for g in groups if len(g) == 1]] = 0
            if not group and float(lone.max()) > 0:
                point = int(lone.argmax())
                groups = [[p for p in g if p != point] for g in groups]
                groups[k], nearest[point] = [point], k
        groups = [group for group in groups if group]
        if groups == centres:
            break
        centres = groups
    return sorted(centres)


def _distances(gram: Tensor, centres: Sequence[Sequence[int]]) -> Tensor:
    """The squared distance of every point (column) from every centre (row), the mean of its points."""
    weights = torch.zeros(len(centres), len(gram), dtype=gram.dtype)
    for k, group in enumerate(centres):
        weights[k, list(group)] = 1 / len(group)
    across = weights @ gram
    return (gram.diagonal()[None] - 2 * across + (across * weights).sum(1, keepdim=True)).clamp(min=0)


def shared_part(least: Shaped[Tensor, "*w"], largest: Shaped[Tensor, "*w"], beta: float) -> Shaped[Tensor, "*w"]:
    """What the members of a group share: the middle of their range where that is at most ``beta``; NaN where it is not.

    >>> shared_part(torch.tensor([1.0, 0.0]), torch.tensor([1.5, 2.0]), 0.5)
    tensor([1.2500,    nan])
    """
    return torch.where(largest - least <= beta, (largest + least) / 2, torch.nan)
