"""The k-th largest magnitude without a sort: NumPy's selection, vectorised, over a float's bits."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from polymask.parts.bits import bits_of


def magnitudes(x: Float[Tensor, " *_"]) -> Int[Tensor, " n"]:
    """``|x|`` as integers in the same order: a float's bits without its sign, flat.

    NaN comes after infinity, and 0 equals -0: an order without exceptions, that 16-bit floats have as well.

    Args:
        x: floats of 16, 32 or 64 bits, of any shape.

    >>> magnitudes(torch.tensor([1.0, -2.0, float("nan"), float("inf"), -0.0])).argsort()
    tensor([4, 0, 1, 3, 2])
    """
    whole = bits_of(x.detach().reshape(-1))
    return whole & torch.iinfo(whole.dtype).max


def kth_largest(values: Int[Tensor, " n"], k: int) -> int:
    """The ``k``-th largest of ``n`` integers: exact, whatever they are, and with nothing kept from call to call.

    A vectorised quickselect that falls back to a sort, and so takes ``n log n`` at worst.

    Args:
        values: integers on the CPU, flat.
        k: 1..n.

    >>> kth_largest(torch.tensor([5, 9, 5, 1]), 2)
    5
    """
    place = values.numel() - k
    return int(np.partition(values.numpy(), place)[place])
