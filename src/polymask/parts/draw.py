"""Weights that need no file: drawn from a seed and the tensor's name, the same wherever they are drawn."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Float32, Shaped
from torch import Tensor, nn

from polymask.parts.seeds import generator


def signed_constant(shape: torch.Size | tuple[int, ...], seed: int, name: str) -> Float32[Tensor, " *_"]:
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


def voted_scores(votes: Shaped[Tensor, "*w"], bound: float, draw: torch.Generator) -> Float[Tensor, "*w"]:
    """Random scores whose magnitudes follow votes: the largest ``|s|`` where a weight has most votes.

    Scores of earlier tasks are not kept, their masks are; this is how they come back. Of a bool mask (votes 0 and 1)
    the top-k of the mask's own count is the mask again, but for ties of ``|s|``; of the mean of several masks it is
    the weights that most of them keep. Signs, and the order among equal votes, are random.

    Args:
        votes: real, any shape.
        bound: magnitudes are uniform in ``(0, bound)``.
        draw: where all randomness comes from.

    >>> votes = torch.tensor([0.0, 1.0, 0.5, 0.0])
    >>> voted_scores(votes, 1.0, torch.Generator().manual_seed(0)).abs().argsort(descending=True)[:2]
    tensor([1, 2])
    """
    n = votes.numel()
    drawn = torch.empty(n).uniform_(-bound, bound, generator=draw)
    shuffled = torch.randperm(n, generator=draw)
    places = shuffled[votes.flatten()[shuffled].argsort(descending=True, stable=True)]
    scores = torch.empty(n)
    scores[places] = drawn[drawn.abs().argsort(descending=True)]
    return scores.view(votes.shape)


def signed_scores(mask: Bool[Tensor, "*w"], bound: float, draw: torch.Generator) -> Float[Tensor, "*w"]:
    """Random scores that are negative exactly where a mask is off, so that ``s >= 0`` is the mask again.

    Args:
        mask: bool, any shape.
        bound: magnitudes are uniform in ``(bound / 1000, bound)``: none is 0, which has no sign.
        draw: where all randomness comes from.

    >>> signed_scores(torch.tensor([True, False, True]), 1.0, torch.Generator().manual_seed(0)) >= 0
    tensor([ True, False,  True])
    """
    sizes = torch.empty(mask.shape).uniform_(bound / 1000, bound, generator=draw)
    return torch.where(mask, sizes, -sizes)
