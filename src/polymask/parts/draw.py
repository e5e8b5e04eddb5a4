"""Weights that need no file: drawn from a seed and the tensor's name, the same wherever they are drawn."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from polymask.parts.seeds import generator


def signed_constant(shape: torch.Size | tuple[int, ...], seed: int, name: str) -> Tensor:
    """The signed Kaiming constant ``w = sign(w0) * sqrt(2) / sqrt(fan_in)``.

    The network of SupSup (Wortsman et al. 2020, section 3.1) after "What's hidden in a randomly weighted neural
    network?" (Ramanujan et al. 2020, section 3.3). ``w0`` is the framework's default initialisation, uniform in
    ``(-1/sqrt(fan_in), 1/sqrt(fan_in))``; ``fan_in`` is the product of ``shape[1:]``.

    Args:
        shape: the weight's shape, output first.
        seed: the model's seed.
        name: the tensor's name in the model; every tensor has a draw of its own.

    Returns:
        A float32 tensor on the CPU.

    Raises:
        ValueError: for a shape of fewer than two axes, or one without entries.

    >>> w = signed_constant((4, 8), 0, "fc.weight")
    >>> w.abs().unique().tolist(), torch.equal(w, signed_constant((4, 8), 0, "fc.weight"))
    ([0.5], True)
    """
    fan_in = math.prod(shape[1:])
    if len(shape) < 2 or not fan_in:
        raise ValueError(
            f"expected a weight of two axes or more for {name!r}, found shape {tuple(shape)}: a bias or an affine "
            "has no fan_in, hold it at a constant"
        )
    w0 = torch.empty(shape, dtype=torch.float32)
    nn.init.kaiming_uniform_(w0, a=math.sqrt(5), generator=generator(seed, name, "weights"))
    constant = math.sqrt(2) / math.sqrt(fan_in)
    # sign(0) is 0, and one draw in 2**24 is exactly 0: such a weight would be missing from the network for good.
    return torch.where(w0 < 0, -constant, constant).to(torch.float32)
