"""What a network's head reads of an input: one vector a row, projected by a keyed random matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from polymask.calling import as_read, call, leaves_of, tensors_of
from polymask.parts.seeds import generator


@torch.no_grad()
def features_of(network: nn.Module, head: str, x: Any) -> Float[Tensor, "rows d"]:
    """What the head of a network reads of every row, in evaluation mode, float32 on the CPU; the network is left alone.

    ``(rows, d)`` as it is; ``(rows, d, ...)`` before a convolution, its mean over all places; ``(rows, L, d)`` before a
    linear layer, its mean over ``L``, without the padding where the batch is a mapping with an "attention_mask".

    Args:
        network: a plain network.
        head: the path of its head, such as "fc".
        x: a batch as the network reads it.

    Raises:
        ValueError: if the head is not called once in a forward pass, or reads something of another shape.

    >>> net = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(4, 2))
    >>> features_of(net, "2", torch.tensor([[[1.0, -1.0], [2.0, 3.0]]]))
    tensor([[1., 0., 2., 3.]])
    """
    device = next((t.device for t in network.parameters()), torch.device("cpu"))
    here = as_read(network, tensors_of(x, partial(Tensor.to, device=device)))
    rows = next(len(t) for t in leaves_of(here) if t.ndim)
    mask = here.get("attention_mask") if isinstance(here, Mapping) else None
    seen: list[Tensor] = []

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        found = (leaves_of((args, kwargs)) or [torch.zeros(0)])[0]
        # Pooled here, as what comes next may write over it.
        seen.append(_pooled(found, isinstance(module, _ConvNd), rows, mask, head).to("cpu", torch.float32, copy=True))

    was, handle = network.training, network.get_submodule(head).register_forward_pre_hook(note, with_kwargs=True)
    try:
        call(network.eval(), here)
    finally:
        handle.remove()
        network.train(was)
    if len(seen) != 1:
        raise ValueError(
            f"expected a network that calls its head {head!r} once in a forward pass, found {len(seen)} calls: it has "
            "no features to tell tasks by, ask by 'every-mask' which task it is"
        )
    return seen[0]


def _pooled(found: Tensor, convolves: bool, rows: int, mask: Tensor | None, head: str) -> Tensor:
    """One vector a row of what a head reads."""
    if found.ndim < 2 or len(found) != rows:
        pass
    elif found.ndim == 2:
        return found
    elif convolves:
        return found.flatten(2).mean(2)
    elif found.ndim == 3 and mask is None:
        return found.mean(1)
    elif found.ndim == 3 and mask is not None and mask.shape == found.shape[:2]:
        weight = mask.to(found.dtype)[..., None]
        return (found * weight).sum(1) / weight.sum(1).clamp_min(1)
    raise ValueError(
        f"expected a head {head!r} that reads ({rows}, d), ({rows}, L, d) or, before a convolution, ({rows}, d, ...), "
        f"found {tuple(found.shape)}: it has no features to tell tasks by, ask by 'every-mask' which task it is"
    )


def project(features: Float[Tensor, "rows d"], dims: int | None, seed: int = 0) -> Float[Tensor, "rows k"]:
    """Features brought to at most ``dims`` by a random matrix of their width, ``N(0, 1/dims)``, keyed by the seed.

    >>> (
    ...     project(torch.ones(3, 100), 32).shape,
    ...     project(torch.ones(3, 5), 32).shape,
    ...     project(torch.ones(3, 9), None).shape,
    ... )
    (torch.Size([3, 32]), torch.Size([3, 5]), torch.Size([3, 9]))
    """
    width = features.shape[1]
    if dims is None or width <= dims:
        return features
    matrix = torch.randn(width, dims, generator=generator(seed, "features")) / math.sqrt(dims)
    return features @ matrix.to(features.dtype)
