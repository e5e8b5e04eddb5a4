"""From real scores to a mask, and the straight-through gradient back: the one place that has either."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int8, Shaped
from torch import Tensor

from polymask.parts.bits import bits_of, has_bits, select_bits
from polymask.parts.kth import kth_largest, magnitudes


def select(w: Tensor, mask: Tensor) -> Tensor:
    """Read ``w`` under a mask: a bool one selects, an int8 one of -1, 0, 1 turns signs as well, a real one multiplies.

    The result has the dtype of ``w``: a real mask is cast to it. Selecting keeps an infinity or NaN in an unread entry
    from reaching the task as ``0 * inf``. Of a weight that has grown since, an older mask reads the ``leading`` block.

    >>> select(torch.tensor([1.0, float("inf")]), torch.tensor([True, False]))
    tensor([1., 0.])
    """
    w = leading(w, mask)
    if mask.dtype == torch.int8:
        return select(w, mask != 0) * mask
    if mask.dtype != torch.bool:
        return w * (mask.to(w.dtype) if w.is_floating_point() else mask)
    return select_bits(w, mask) if has_bits(w) else torch.where(mask, w, 0)


@torch.no_grad()
def select_into(out: Shaped[Tensor, "*w"], w: Shaped[Tensor, "*w"], mask: Tensor) -> None:
    """Write ``select(w, mask)`` over ``out``, without a gradient.

    Args:
        out: the shape and dtype of ``w``.
        w: the weight.
        mask: broadcasts to ``w``; a bool one is written without a copy.

    >>> out = torch.ones(2)
    >>> select_into(out, torch.tensor([2.0, float("nan")]), torch.tensor([True, False]))
    >>> out
    tensor([2., 0.])
    """
    if mask.dtype == torch.bool and has_bits(w):
        torch.mul(bits_of(w), mask, out=bits_of(out))
    else:
        out.copy_(select(w, mask))


def leading(w: Tensor, mask: Tensor) -> Tensor:
    """The block of ``w`` that a mask was made for: its first entries along every axis that has grown since.

    Axes are matched from the last, as broadcasting does, and one of a single entry is no block, it broadcasts.

    >>> leading(torch.arange(3.0), torch.ones(2, dtype=torch.bool))
    tensor([0., 1.])
    """
    for axis in range(-mask.ndim, 0):
        if 1 < mask.shape[axis] < w.shape[axis]:
            w = w.narrow(axis, 0, mask.shape[axis])
    return w


def threshold(scores: Shaped[Tensor, "*s"], tau: float) -> Bool[Tensor, "*s"]:
    """The mask ``scores > tau`` (Piggyback, Mallya et al. 2018, section 3).

    >>> threshold(torch.tensor([0.01, 0.005, -1.0]), 0.005)
    tensor([ True, False, False])
    """
    return scores > tau


def ternary(scores: Shaped[Tensor, "*s"], tau: float) -> Int8[Tensor, "*s"]:
    """The mask -1 where ``scores < 0``, 0 up to ``tau``, 1 above (Piggyback, Mallya et al. 2018, section 3); int8.

    >>> ternary(torch.tensor([-0.1, 0.0, 0.005, 0.01]), 0.005)
    tensor([-1,  0,  0,  1], dtype=torch.int8)
    """
    return (scores > tau).to(torch.int8) - (scores < 0).to(torch.int8)


HALF_MOST = 65504.0
"""The largest number of half precision."""


def as_half(scale: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """The magnitude of a scale as half precision holds it, with the gradient of the magnitude.

    >>> as_half(torch.tensor([0.1, -2.0]))
    tensor([0.1000, 2.0000])
    """
    size = scale.abs().clamp(max=HALF_MOST)
    return size + (size.detach().half().to(size.dtype) - size.detach())


LEAST = 1e-7
"""Gates below it are exactly 0 in the forward: arithmetic on subnormal numbers is several times slower."""


def annealed(e: Float[Tensor, "*u"], s: Float[Tensor, ""] | float, s_max: float) -> Float[Tensor, "*u"]:
    """The gate ``sigmoid(s * e)``, with the gradient ``s_max * sigmoid'(e)`` (HAT, Serra et al. 2018, section 2.4).

    That gradient is what the paper's compensation makes of the forward's own: ``s sigmoid'(se)`` times ``(s_max / s)
    (cosh(se) + 1) / (cosh(e) + 1)``. It stays where the forward has long been 0 or 1, so a unit can come back.

    Args:
        e: the embedding, one number a unit.
        s: the scale now, from ``1 / s_max`` to ``s_max``.
        s_max: the largest scale.

    >>> e = torch.tensor([2.0, -2.0], requires_grad=True)
    >>> annealed(e, 400.0, 400.0).sum().backward()
    >>> e.grad.round(decimals=2)
    tensor([42., 42.])
    """
    with torch.no_grad():
        gate = torch.sigmoid(s * e)
        gate = torch.where(gate < LEAST, 0, gate)
    slope = torch.sigmoid(e)
    return gate + s_max * (slope - slope.detach())


def kept_count(n: int, density: float) -> int:
    """How many of ``n`` entries a top-k mask keeps: ``n - floor((1 - density) * n)``.

    >>> kept_count(1000, 0.1), kept_count(7, 0.5)
    (100, 4)
    """
    # The rounding guards (1 - 0.1) * 1000 = 900.0000000000001 and its like; a count must not hang on the last bit.
    return n - int(round((1.0 - density) * n, 9) // 1)


@torch.library.custom_op("polymask::top_k", mutates_args=(), schema="(Tensor scores, int keep) -> Tensor")
def top_k(scores: Tensor, keep: int) -> Tensor:
    """The mask of the ``keep`` largest ``|scores|``; at ties the lower index wins (edge-popup, Ramanujan et al. 2020).

    >>> top_k(torch.tensor([0.3, -0.9, 0.3, 0.1]), 2)
    tensor([ True,  True, False, False])
    """
    flat = magnitudes(scores)
    if keep <= 0 or keep >= flat.numel():
        return torch.full(scores.shape, keep > 0, dtype=torch.bool, device=scores.device)
    if flat.is_cuda:
        # There a sort costs little, and waiting for a count would cost more: nothing here is read on the host.
        order = flat.sort(stable=True, descending=True).indices
        return torch.zeros_like(flat, dtype=torch.bool).index_fill_(0, order[:keep], True).view(scores.shape)
    edge = kth_largest(flat.cpu(), keep)
    mask = flat >= edge
    beyond = int(mask.count_nonzero()) - keep
    if beyond:
        mask[(flat == edge).nonzero().squeeze(1)[-beyond:]] = False
    return mask.view(scores.shape)


@top_k.register_fake
def _(scores: Tensor, keep: int) -> Tensor:
    return scores.new_empty(scores.shape, dtype=torch.bool)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, scores: Tensor, mask: Tensor, signed: bool) -> Tensor:
        ctx.save_for_backward(w, scores, mask)
        ctx.signed = signed
        return select(w, mask)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = grads
        w, scores, mask = ctx.saved_tensors
        to_w = select(grad, mask) if ctx.needs_input_grad[0] else None
        product = (grad * w.conj()).real if w.is_complex() else grad * w
        to_scores = product.sum_to_size(scores.shape).to(scores.dtype)
        return to_w, to_scores if ctx.signed else to_scores * scores.sign(), None, None


def straight_through(
    w: Tensor, scores: Shaped[Tensor, "*s"], mask: Shaped[Tensor, "*s"], *, signed: bool = True
) -> Tensor:
    """``select(w, mask)``, with the gradient that passes the mask's step straight through to the scores.

    ``dL/dw = mask * g`` and ``dL/ds = g * w``, summed over the axes along which the scores are broadcast; a mask of
    ``|s|`` multiplies the latter by ``sign(s)`` (Bengio et al. 2013; Mallya et al. 2018; Ramanujan et al. 2020).

    Args:
        w: the weight.
        scores: what trains; broadcasts to ``w``.
        mask: bool or real, the shape of ``scores``.
        signed: whether the mask is of ``s`` (True) or of ``|s|``.

    >>> w, s = torch.tensor([2.0, 3.0]), torch.tensor([0.5, -0.5], requires_grad=True)
    >>> straight_through(w, s, s > 0).sum().backward()
    >>> s.grad
    tensor([2., 3.])
    """
    masked: Tensor = _StraightThrough.apply(w, scores, mask, signed)  # type: ignore[no-untyped-call]
    return masked
