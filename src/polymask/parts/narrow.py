"""Tensors of a task's own in fewer bits: rounded while they are read, and stored without another loss.

Levels are of a power of two a row, since that is found again, exactly, in what was rounded to them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

BITS = (32, 16, 8)
LEVELS = 127
SMALL = 64
"""Entries below which a matrix is not worth the room that its rows' powers take."""

HALF, LEVEL, POWER = "half/", "level/", "power/"
"""What stands before a tensor's name where less than itself is stored."""


def narrowed(value: Tensor, bits: int) -> Tensor:
    """A tensor as it is stored at this many bits an entry; of float32 alone, others stay.

    At 16 bits an entry is a half-precision float; at 8 it is a level from -127 to 127 of a power of two, the least of
    its row that will do; what has no rows (a bias, a norm), or fewer entries than 64, is rounded to 16. A tensor stays
    as it is if an entry would become infinite, or at 16 bits 0.

    Args:
        value: real, of any shape; its rows are along the first axis.
        bits: 32, 16 or 8.

    >>> narrowed(torch.tensor([[1.0, 0.3], [0.01, 0.0]]).repeat(1, 32), 8)[:, :2]
    tensor([[1.0000, 0.2969],
            [0.0100, 0.0000]])
    """
    if bits == 32 or value.dtype != torch.float32 or not value.numel():
        return value
    if bits == 8 and _has_levels(value):
        power = _powers(value)
        level = torch.ldexp(torch.round(torch.ldexp(value, -power)), power) + 0.0  # no level is -0
        return level if bool(level.isfinite().all()) else value
    half = value.half().float()
    return half if bool(half.isfinite().all()) and torch.equal(half == 0, value == 0) else value


def narrowed_statistics(value: Tensor) -> Tensor:
    """Statistics as they are stored in 16 bits; as they are if one lies outside the normal range of half precision.

    What is divided by must keep its relative precision, however small it is.

    >>> narrowed_statistics(torch.tensor([1e-6, 0.1]))
    tensor([1.0000e-06, 1.0000e-01])
    """
    if value.dtype != torch.float32:
        return value
    small = (value != 0) & (value.abs() < torch.finfo(torch.half).tiny)
    return value if bool(small.any()) else narrowed(value, 16)


def _has_levels(value: Tensor) -> bool:
    return value.ndim > 1 and value.numel() >= SMALL


def _powers(value: Tensor) -> Tensor:
    """For every row the least ``k`` with ``|entry| <= 127 * 2^k``, as wide as the tensor has axes."""
    largest = value.abs().flatten(1).amax(1).clamp(min=2.0**-100)
    power = torch.ceil(torch.log2(largest.double() / LEVELS))
    return power.int().view(-1, *[1] * (value.ndim - 1))


def narrow(name: str, value: Tensor, bits: int) -> dict[str, Tensor]:
    """The tensors that hold one in as few bits as asked for, or as they can, exactly: name -> tensor.

    >>> sorted(narrow("w", torch.ones(8, 8), 8)), sorted(narrow("w", torch.full((8, 8), 0.3), 8))
    (['level/w', 'power/w'], ['w'])
    """
    for few in (8, 16):
        if few >= bits and value.dtype == torch.float32 and value.numel():
            found = _held(name, value, few)
            if _same(widen(found)[name], value):
                return found
    return {name: value}


def _held(name: str, value: Tensor, bits: int) -> dict[str, Tensor]:
    if bits == 8 and _has_levels(value):
        power = _powers(value)
        return {LEVEL + name: torch.ldexp(value, -power).to(torch.int8), POWER + name: power.flatten().to(torch.int8)}
    return {HALF + name: value.half()}


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two float32 tensors have the same bits."""
    return torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))


def widen(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``narrow`` made of any number of tensors, as they were.

    >>> widen(narrow("w", torch.ones(8, 8), 8))["w"].unique()
    tensor([1.])
    """
    found: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if key.startswith(HALF):
            found[key.removeprefix(HALF)] = value.float()
        elif key.startswith(LEVEL):
            name = key.removeprefix(LEVEL)
            power = tensors[POWER + name].int().view(-1, *[1] * (value.ndim - 1))
            found[name] = torch.ldexp(value.float(), power)
        elif not key.startswith(POWER):
            found[key] = value
    return found
