"""The k-th largest magnitude without a sort: a bracket from a sample, a count, and an exact selection inside it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polymask.parts.bits import bits_of

# Below, one selection over everything costs less than the bracket.
SMALL, DEVIATIONS = 8192, 3.0


def magnitudes(x: Tensor) -> Tensor:
    """``|x|`` as integers in the same order: a float's bits without its sign, flat.

    NaN comes after infinity, and 0 equals -0: an order without exceptions, that 16-bit floats have as well.

    Args:
        x: floats of 16, 32 or 64 bits, of any shape.

    >>> magnitudes(torch.tensor([1.0, -2.0, float("nan"), float("inf"), -0.0])).argsort()
    tensor([4, 0, 1, 3, 2])
    """
    whole = bits_of(x.detach().reshape(-1))
    return whole & torch.iinfo(whole.dtype).max


def kth_largest(values: Tensor, k: int) -> tuple[Tensor, int, int]:
    """The ``k``-th largest of ``n`` integers, how many are larger, and how many equal it; exact, whatever they are.

    A strided sample tells between which two values the k-th lies; those above are counted, and an exact selection runs
    over those inside alone. Where the sample misleads (the count tells), the selection runs over all. Nothing is kept
    from one call to the next.

    Args:
        values: non-negative integers, flat.
        k: 1..n.

    >>> kth_largest(torch.tensor([5, 9, 5, 1]), 2)
    (tensor(5), 1, 2)
    """
    inside, above = _bracketed(values, k)
    edge = inside.kthvalue(inside.numel() - (k - above) + 1).values
    return edge, above + int((inside > edge).count_nonzero()), int((inside == edge).count_nonzero())


def stride(n: int) -> int:
    """The sample's stride: of ``m`` samples the bracket keeps ``~ n / sqrt(m)`` values, so that ``m ~ n^(2/3)``.

    >>> stride(8193), stride(2_359_296)
    (13, 88)
    """
    return int(n ** (1 / 3) / 1.5)


def _bracketed(values: Tensor, k: int) -> tuple[Tensor, int]:
    """A part of the values that holds the k-th largest, and how many lie above all of the part."""
    n = values.numel()
    if n > SMALL:
        low, high = _bracket(values[:: stride(n)].contiguous(), k / n)
        above = int((values > high).count_nonzero())
        inside = values[(values >= low) & (values <= high)]
        if above < k <= above + inside.numel():
            return inside, above
    return values, 0


def _bracket(sample: Tensor, share: float) -> tuple[Tensor | int, Tensor | int]:
    """Two values between which the upper ``share`` ends: that rank in the sample, give or take its deviation."""
    m = sample.numel()
    spread = DEVIATIONS * math.sqrt(m * share * (1 - share)) + 1
    first, last = math.floor(m * share - spread), math.ceil(m * share + spread)
    high = sample.kthvalue(m - first + 1).values if first >= 1 else torch.iinfo(sample.dtype).max
    low = sample.kthvalue(m - last + 1).values if last <= m else 0
    return low, high
