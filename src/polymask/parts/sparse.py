"""Sparse corrections of weights: as values at places, and as the bytes that take the least room."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

LEVELS = 127
"""The largest level of an 8-bit value; the least is its negative."""


@dataclass(frozen=True)
class Sparse:
    """A sparse tensor: ``value`` at the flat (C order) ``index``, 0 elsewhere; and what it shares with others.

    Args:
        shape: of the tensor.
        index: int32, one-dimensional.
        value: as long as ``index``; real, or int8 levels of ``scale``.
        scale: what a level of an int8 value is worth; None: the values are what they are.
        local: another sparse tensor of this shape that several share, to be added to this one; None: there is none.
    """

    shape: tuple[int, ...]
    index: Tensor
    value: Tensor
    scale: float | None = None
    local: Sparse | None = None


def sparsify(dense: Tensor, bits: int = 32, local: Sparse | None = None) -> Sparse:
    """The non-zero entries of a tensor.

    Args:
        dense: real, below 32 bits; it is rounded as ``rounded`` does.
        bits: 8, 16 or 32 (as they are), of a value.
        local: what it shares with others.

    >>> densify(sparsify(torch.tensor([[0.0, 2.0], [0.0, 0.0]])))
    tensor([[0., 2.],
            [0., 0.]])
    """
    flat = dense.detach().cpu().flatten()
    scale = float(scale_of(flat)) if bits == 8 else None
    if bits == 16:
        flat = flat.half()
    elif scale is not None:
        flat = torch.round(flat.float() / scale).to(torch.int8)
    # What rounds to 0 is not kept.
    index = flat.nonzero().squeeze(1)
    value = flat[index].clone()
    return Sparse(tuple(dense.shape), index.to(torch.int32), value, scale, local)


def densify(sparse: Sparse) -> Tensor:
    """The dense tensor of a sparse one, with what it shares; float32 where its values are rounded."""
    value = sparse.value
    if value.dtype == torch.int8 and sparse.scale is not None:
        value = value.float() * torch.tensor(sparse.scale)
    elif value.dtype == torch.float16:
        value = value.float()
    flat = torch.zeros(math.prod(sparse.shape), dtype=value.dtype)
    flat[sparse.index.long()] = value
    dense = flat.view(sparse.shape)
    return dense if sparse.local is None else dense + densify(sparse.local)


def rounded(dense: Tensor, bits: int) -> Tensor:
    """A tensor as it is stored at this many bits a value: so rounded in the forward, it trains as it will be read.

    At 8 bits a value is a level from -127 to 127 of the largest magnitude; at 16 it is a half-precision float.

    >>> rounded(torch.tensor([1.0, 0.5, 0.001]), 8)
    tensor([1.0000, 0.5039, 0.0000])
    """
    if bits == 16:
        return dense.half().to(dense.dtype)
    if bits == 8:
        scale = scale_of(dense)
        return (torch.round(dense.float() / scale) * scale).to(dense.dtype)
    return dense


def scale_of(dense: Tensor) -> Tensor:
    """What a level is worth: a 127th of the largest magnitude; 1 where there is none."""
    largest = dense.detach().abs().max().float() if dense.numel() else torch.zeros(())
    return torch.where(largest > 0, largest / LEVELS, 1.0)


def count_active(deltas: Iterable[Mapping[str, Sparse]]) -> int:
    """How many values some tasks keep, name -> sparse tensor each; what several share is counted once.

    >>> shared = sparsify(torch.tensor([0.0, 1.0]))
    >>> one = sparsify(torch.tensor([2.0, 0.0]), local=shared)
    >>> count_active([{"w": one}, {"w": one}])
    3
    """
    own, shared = 0, dict[tuple[str, bytes], int]()
    for name, sparse in (pair for one in deltas for pair in one.items()):
        own += sparse.value.numel()
        if (local := sparse.local) is not None:
            shared[name, fingerprint_of(local)] = local.value.numel()
    return own + sum(shared.values())


def fingerprint_of(sparse: Sparse) -> bytes:
    """What tells a sparse tensor from others of its shape: its places and values."""
    parts = (sparse.index, sparse.value.contiguous())
    return repr(sparse.scale).encode() + b"".join(part.view(torch.uint8).numpy().tobytes() for part in parts)


def to_tensors(sparse: Sparse) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A sparse tensor, without what it shares, as JSON and the tensors to be kept, in the codec that takes the least.

    "index": 32 bits a place; "bitmap": a bit an entry (least significant first); "dense": every value, zeros too.

    >>> about, kept = to_tensors(sparsify(torch.tensor([0.0, 2.0, 3.0, 0.0])))
    >>> about, sorted(kept)
    ({'shape': [4], 'codec': 'bitmap'}, ['bits', 'value'])
    """
    n, count, width = math.prod(sparse.shape), sparse.value.numel(), sparse.value.element_size()
    sizes = {"index": count * (4 + width), "bitmap": -(-n // 8) + count * width, "dense": n * width}
    codec = min(sizes, key=lambda name: sizes[name])
    about: dict[str, Any] = {"shape": list(sparse.shape), "codec": codec}
    if sparse.scale is not None:
        about["scale"] = sparse.scale
    if codec == "index":
        return about, {"index": sparse.index, "value": sparse.value}
    flat = np.zeros(n, dtype=np.uint8)
    flat[sparse.index.numpy()] = 1
    if codec == "bitmap":
        return about, {"bits": torch.from_numpy(np.packbits(flat, bitorder="little")), "value": sparse.value}
    value = torch.zeros(n, dtype=sparse.value.dtype)
    value[sparse.index.long()] = sparse.value
    return about, {"value": value}


def from_tensors(about: Mapping[str, Any], kept: Mapping[str, Tensor], local: Sparse | None = None) -> Sparse:
    """What ``to_tensors`` took apart.

    >>> sparse = sparsify(torch.tensor([0.0, 2.0, 3.0, 0.0]))
    >>> from_tensors(*to_tensors(sparse)).index
    tensor([1, 2], dtype=torch.int32)
    """
    shape, value, scale = tuple(about["shape"]), kept["value"], about.get("scale")
    if about["codec"] == "index":
        return Sparse(shape, kept["index"], value, scale, local)
    if about["codec"] == "bitmap":
        flags = np.unpackbits(kept["bits"].numpy(), count=math.prod(shape), bitorder="little")
        return Sparse(shape, torch.from_numpy(flags.nonzero()[0].astype(np.int32)), value, scale, local)
    index = value.nonzero().squeeze(1)
    return Sparse(shape, index.to(torch.int32), value[index], scale, local)
