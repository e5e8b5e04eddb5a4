"""Floats by their bits: selecting with integers is exact, safe for infinity and NaN, and on a CPU faster than where."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def has_bits(w: Tensor) -> bool:
    """Whether ``bits_of`` can read a tensor: real floats of 16, 32 or 64 bits."""
    return w.is_floating_point() and w.element_size() in _INTEGERS


def bits_of(w: Float[Tensor, "*w"]) -> Int[Tensor, "*w"]:
    """A float's bits read as an integer, in the same memory.

    Times 0 or 1 they are selected, on a CPU at a seventh of the cost of ``where``.

    >>> (bits_of(torch.tensor([2.0, float("nan")])) * torch.tensor([True, False])).view(torch.float32)
    tensor([2., 0.])
    """
    return w.view(_INTEGERS[w.element_size()])


def select_bits(w: Tensor, mask: Tensor) -> Tensor:
    """``where(mask, w, 0)`` of a tensor that ``has_bits`` and a bool mask that broadcasts with it; differentiable.

    >>> select_bits(torch.tensor([1.0, float("inf")]), torch.tensor([True, False]))
    tensor([1., 0.])
    """
    selected: Tensor = _Select.apply(w, mask)  # type: ignore[no-untyped-call]
    return selected


def hold_bits(kept: Tensor, w: Tensor, gate: Tensor) -> Tensor:
    """``where(gate, w, kept)`` as ``kept ^ ((w ^ kept) * gate)`` of their bits; differentiable in ``w`` alone.

    >>> hold_bits(torch.zeros(2), torch.tensor([1.0, float("nan")]), torch.tensor([True, False]))
    tensor([1., 0.])
    """
    held: Tensor = _Hold.apply(w, kept, gate)  # type: ignore[no-untyped-call]
    return held


class _Select(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.shape = w.shape
        return (bits_of(w) * mask).view(w.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        (mask,) = ctx.saved_tensors
        return select_bits(grad, mask).sum_to_size(ctx.shape), None


class _Hold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, kept: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(gate)
        ctx.shape = w.shape
        held = bits_of(kept)
        return (bits_of(w) ^ held).mul_(gate).bitwise_xor_(held).view(w.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        (gate,) = ctx.saved_tensors
        return select_bits(grad, gate).sum_to_size(ctx.shape), None, None
