"""Soft masks: 1 where scores reach a threshold, a graded value of at most a half elsewhere (KSM); and as bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

GROUP = 8
"""How many neighbours along an axis share one score of a group; the last group of an axis may have fewer."""

BITS = (8, 16, 32)
"""How many bits the graded value of an entry may take."""

_KINDS = {8: "u1", 16: "<u2", 32: "<f4"}


@torch.no_grad()
def soft_mask(scores: Shaped[Tensor, "*s"], tau: float, bits: int = 8) -> Float[Tensor, "*s"]:
    """The mask ``M = b + a / 2`` with ``b = [scores >= tau]`` (KSM, Yang et al. 2021), as it is stored.

    ``a`` is ``scores * (1 - b)``, its entries that are not 0 brought to [0, 1] by ``(a - lo) / (hi - lo)``, ``lo`` and
    ``hi`` the least and the largest of the whole layer, the zeros of selected entries among them. Where ``hi = lo``,
    every entry that is not selected is 1/2. Below 32 bits ``a`` is rounded to a multiple of ``1 / (2^bits - 1)``.

    Args:
        scores: real; the mask is float32 whatever their dtype.
        tau: the threshold.
        bits: 8, 16 or 32, of the graded value.

    >>> soft_mask(torch.tensor([0.01, 0.004, 0.002, -0.002]), 0.005).mul(510).round()
    tensor([510., 255., 170.,   0.])
    >>> soft_mask(torch.tensor([0.001, 0.001]), 0.005)
    tensor([0.5000, 0.5000])
    """
    on = scores >= tau
    a = torch.where(on, 0, scores).float()
    lo, hi = a.min(), a.max()
    # No branch: what a number decides in Python waits for the device, and stops a graph.
    graded = torch.where(hi > lo, torch.where(a != 0, (a - lo) / (hi - lo), 0), 1)
    half = 0.5 * graded if bits == 32 else _half(torch.round(graded * _levels(bits)), bits)
    return torch.where(on, 1, half)


def soft_payload(mask: Float[Tensor, "*s"], bits: int) -> Tensor:
    """A mask of ``soft_mask`` as bytes: a bit an entry, 1 where it is 1; then the graded value of every other entry.

    >>> soft_payload(soft_mask(torch.tensor([0.01, 0.004, 0.002, -0.002]), 0.005), 8)
    tensor([  1, 255, 170,   0], dtype=torch.uint8)
    """
    flat = mask.detach().cpu().float().flatten()
    on = flat == 1
    off = flat[~on]
    values = off if bits == 32 else torch.round(off * 2 * _levels(bits))
    planes = (np.packbits(on.numpy(), bitorder="little"), values.numpy().astype(_KINDS[bits]).view(np.uint8))
    return torch.from_numpy(np.concatenate(planes))


def soft_values(payload: Tensor, shape: tuple[int, ...], bits: int) -> Float[Tensor, "*s"]:
    """The mask of a payload, float32.

    Raises:
        ValueError: for a payload of the wrong length, or an unknown number of bits.

    >>> mask = soft_mask(torch.rand(3, 5) / 100, 0.005, 16)
    >>> torch.equal(soft_values(soft_payload(mask, 16), (3, 5), 16), mask)
    True
    """
    n = math.prod(shape)
    plane = -(-n // 8)
    data = payload.numpy()
    on = np.unpackbits(data[:plane], count=min(n, 8 * len(data[:plane])), bitorder="little").astype(bool)
    off = n - int(on.sum())
    if bits not in BITS or len(data) != (expected := plane + off * bits // 8):
        raise ValueError(
            f"expected {expected if bits in BITS else '8, 16 or 32 bits an entry and their'} bytes for a soft mask of "
            f"shape {shape}, found {len(data)} at {bits} bits: damaged record"
        )
    mask = torch.ones(n)
    values = torch.from_numpy(data[plane:].copy().view(_KINDS[bits]).astype(np.float32))
    mask[torch.from_numpy(~on)] = values if bits == 32 else _half(values, bits)
    return mask.view(shape)


def repeat_groups(mask: Float[Tensor, ...], shape: Sequence[int]) -> Float[Tensor, ...]:
    """A mask with one entry a group as it is read: each repeated 8 times along the axis of groups, the last less often.

    Args:
        mask: one entry a group.
        shape: of the mask as the weight reads it.

    Raises:
        ValueError: if the groups are not those of the shape.

    >>> repeat_groups(torch.tensor([[1.0, 0.5]]), (1, 10)).sum()
    tensor(9.)
    """
    for axis, (groups, size) in enumerate(zip(mask.shape, shape, strict=True)):
        if groups != size:
            if groups != -(-size // GROUP):
                raise ValueError(
                    f"expected {-(-size // GROUP)} groups of {GROUP} along axis {axis} of a mask of shape "
                    f"{tuple(shape)}, found {groups}: damaged record"
                )
            mask = mask.repeat_interleave(GROUP, axis).narrow(axis, 0, size)
    return mask


def _levels(bits: int) -> int:
    return (1 << bits) - 1


def _half(level: Tensor, bits: int) -> Tensor:
    """Half of a graded value by its level; in one place, so that what trains and what is read agree to the bit."""
    return 0.5 * (level / _levels(bits))
