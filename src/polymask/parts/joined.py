"""Small masks in one piece, since in a file of tensors a name weighs more than a mask of a few units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

SMALL = 512
"""Bytes of a mask below which its name in the file is a large part of it."""

JOINED, ALONE = "masks", "mask/"


def join(payloads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that hold some payloads: all in one where they are small and several, else each by its name.

    >>> a, b = torch.zeros(3, dtype=torch.uint8), torch.ones(2, dtype=torch.uint8)
    >>> join({"a": a, "b": b}), list(join({"a": a}))
    ({'masks': tensor([0, 0, 0, 1, 1], dtype=torch.uint8)}, ['mask/a'])
    """
    parts = list(payloads.values())
    small = len(parts) > 1 and sum(part.nbytes for part in parts) < SMALL * len(parts)
    if small and all(part.dtype == torch.uint8 for part in parts):
        return {JOINED: torch.cat(parts)}
    return {ALONE + name: part for name, part in payloads.items()}


def part(tensors: Mapping[str, Tensor], names: Sequence[str], sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """The payloads that ``join`` was given.

    Args:
        tensors: what it made of them, others beside.
        names: theirs, in order.
        sizes: name -> bytes, where they are in one.

    >>> part({"masks": torch.tensor([0, 0, 1], dtype=torch.uint8)}, ["a", "b"], {"a": 2, "b": 1})["b"]
    tensor([1], dtype=torch.uint8)
    """
    if JOINED not in tensors:
        return {name: tensors[ALONE + name] for name in names}
    parts = tensors[JOINED].split([sizes[name] for name in names])
    return {name: one.clone() for name, one in zip(names, parts, strict=True)}
