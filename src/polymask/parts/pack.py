"""Masks as bytes and back: one bit an entry, or one owner code for masks that are nested or disjoint.

The format needs no framework: entry ``i`` (C order) of a bit mask is bit ``i % 8``, least significant first, of byte
``i // 8``. A mask of -1, 0 and 1 is two such masks one after the other: the entries that are not 0, and those that are
-1. Owner codes of ``b`` bits are ``b`` of them: first bit 0 of every code, then bit 1. Codes are compared in this form,
eight entries a byte, so that reading one task of many costs little more than its bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from polymask.parts.soft import repeat_groups, soft_payload, soft_values


@dataclass(frozen=True)
class Packed:
    """A packed mask.

    Args:
        codec: "bits": one bit an entry; "ternary": two, for -1, 0 and 1; "real": 32, float32, little-endian; "owners":
            a plane of codes, of which ``least <= code <= level`` is read; "soft": a bit an entry, then a graded value
            for each that is 0 there (``parts.soft``); "block": ones, or a gain for each row: what counts is the shape;
            "scaled": "bits", "ternary" or ones, times a float16 scale of the tensor or of each row.
            A payload of bits ends at a multiple of 8 entries.
        shape: the mask's shape.
        payload: uint8, one-dimensional, on the CPU; of a "block" the gains of its rows, or nothing.
        bits: the bits of an entry: 1 for "bits", 2 for "ternary", 32 for "real", the width of a code for "owners", 0
            for "block"; for "soft" 8, 16 or 32, those of a graded value; for "scaled" 0 (ones), 1 or 2.
        level: the largest code that is read.
        least: the smallest code that is read.
        plane: the shape of the plane of owners, where it has grown beyond the mask, or of a soft mask of groups before
            each is repeated; None: the mask's own.
    """

    codec: str
    shape: tuple[int, ...]
    payload: Tensor
    bits: int = 1
    level: int = 1
    least: int = 1
    plane: tuple[int, ...] | None = None

    @property
    def nbytes(self) -> int:
        """The payload's size in bytes."""
        return self.payload.numel() * self.payload.element_size()


def code_bits(largest: int) -> int:
    """The bits that hold the codes 0..largest: ``ceil(log2(largest + 1))``, at least 1.

    >>> [code_bits(n) for n in (1, 2, 3, 4, 10)]
    [1, 2, 2, 3, 4]
    """
    return max(1, largest.bit_length())


def pack(mask: Tensor) -> Packed:
    """A bool mask at one bit an entry, ``ceil(n / 8)`` bytes; an int8 one of -1, 0 and 1 at two; a real one at 32.

    >>> pack(torch.tensor([True, False, True])).payload
    tensor([5], dtype=torch.uint8)
    >>> pack(torch.tensor([1, 0, -1], dtype=torch.int8)).payload
    tensor([5, 4], dtype=torch.uint8)
    """
    # NumPy knows no bfloat16; a real mask is kept as float32, whatever it was.
    plain = mask.detach().cpu().float() if mask.is_floating_point() else mask.detach().cpu()
    flat = plain.contiguous().numpy().reshape(-1)
    if mask.dtype == torch.int8:
        return Packed("ternary", tuple(mask.shape), torch.cat([_to_bytes(flat != 0), _to_bytes(flat < 0)]), 2)
    if mask.is_floating_point():
        padded = np.pad(flat.astype("<f4"), (0, -len(flat) % 8))
        return Packed("real", tuple(mask.shape), torch.from_numpy(padded.view(np.uint8)), 32)
    return Packed("bits", tuple(mask.shape), _to_bytes(flat))


def pack_owners(owner: UInt8[Tensor, " *_"], level: int, largest: int, least: int = 1) -> Packed:
    """The mask ``least <= owner <= level`` as a view of a plane of owners that nested or disjoint masks share.

    Args:
        owner: uint8 codes; 0 is free, ``k`` belongs to the k-th task.
        level: the mask's own code.
        largest: the largest code in use; the plane has ``code_bits(largest)`` bits an entry.
        least: the smallest code that the mask reads: 1, or ``level`` where a task reads nothing but its own.

    >>> plane = pack_owners(torch.tensor([0, 1, 2, 3], dtype=torch.uint8), level=2, largest=3)
    >>> plane.nbytes, unpack(plane)
    (2, tensor([False,  True,  True, False]))
    """
    bits = code_bits(largest)
    codes = owner.detach().cpu().contiguous().numpy().reshape(-1)
    planes = torch.cat([_to_bytes((codes >> bit) & 1) for bit in range(bits)])
    return Packed("owners", tuple(owner.shape), planes, bits, level, least)


def pack_block(shape: Sequence[int], gains: Float[Tensor, " rows *_"] | None = None) -> Packed:
    """A mask that is its shape: the leading block of a weight that grows, at no byte an entry.

    Args:
        shape: the block; an axis of 1 is read whole, however long it grows.
        gains: what every row is multiplied by, (rows,); None: by nothing, the mask is of ones.

    >>> unpack(pack_block((2, 3))).shape, unpack(pack_block((2, 1), torch.tensor([0.5, 2.0])))
    (torch.Size([2, 3]), tensor([[0.5000],
            [2.0000]]))
    """
    payload = torch.empty(0, dtype=torch.uint8) if gains is None else gains.detach().cpu().flatten().clone()
    return Packed("block", tuple(shape), payload, 0)


def pack_soft(mask: Float[Tensor, "*w"], bits: int, shape: Sequence[int] | None = None) -> Packed:
    """A mask of ``soft_mask``, a bit an entry and ``bits`` for each that is not selected.

    Args:
        mask: as ``soft_mask`` makes it.
        bits: of the graded value: 8, 16 or 32.
        shape: that of the mask as the weight reads it, where ``mask`` has one entry for a group (``repeat_groups``).

    >>> unpack(pack_soft(torch.tensor([[1.0, 0.5]]), 8, shape=(1, 11)))
    tensor([[1.0000, 1.0000, 1.0000, 1.0000, 1.0000, 1.0000, 1.0000, 1.0000, 0.5000,
             0.5000, 0.5000]])
    """
    read = tuple(mask.shape) if shape is None else tuple(shape)
    plane = None if read == tuple(mask.shape) else tuple(mask.shape)
    return Packed("soft", read, soft_payload(mask, bits), bits, plane=plane)


def pack_scaled(scale: Float[Tensor, " *s"], mask: Shaped[Tensor, "*w"] | None = None) -> Packed:
    """A mask times a scale in half precision, one for the tensor or one for each row; without a mask the scale alone.

    Args:
        scale: as ``as_half`` rounds it: of one entry, or (rows, 1, ...).
        mask: bool, or int8 of -1, 0 and 1.

    >>> unpack(pack_scaled(torch.tensor([[0.5], [2.0]]), torch.tensor([[True, False], [True, True]])))
    tensor([[0.5000, 0.0000],
            [2.0000, 2.0000]])
    >>> unpack(pack_scaled(torch.tensor([[0.5]]))), pack_scaled(torch.tensor([[0.5]])).nbytes
    (tensor([[0.5000]]), 2)
    """
    halves = torch.from_numpy(scale.detach().cpu().flatten().numpy().astype("<f2").view(np.uint8))
    if mask is None:
        return Packed("scaled", tuple(scale.shape), halves, 0)
    plain = pack(mask)
    return Packed("scaled", plain.shape, torch.cat([plain.payload, halves]), plain.bits)


def unpack(packed: Packed) -> Tensor:
    """The mask of a pack, on the CPU: int8 if "ternary", bool if "bits", "owners" or a "block" of ones, else real.

    Raises:
        ValueError: for an unknown codec, or a payload of the wrong length.

    >>> mask = torch.rand(3, 5) > 0.5
    >>> torch.equal(unpack(pack(mask)), mask)
    True
    """
    if packed.codec == "block":
        return _block(packed)
    shape = packed.plane or packed.shape
    if packed.codec == "soft":
        return repeat_groups(soft_values(packed.payload, shape, packed.bits), packed.shape)
    if packed.codec == "scaled":
        return _scaled(packed)
    n = math.prod(shape)
    expected = packed.bits * (-(-n // 8))
    if packed.nbytes != expected:
        raise ValueError(
            f"expected {expected} bytes for a mask of shape {packed.shape}, found {packed.nbytes}: damaged record"
        )
    if packed.codec == "bits":
        return _to_mask(packed.payload.numpy(), packed.shape)
    if packed.codec == "ternary":
        live, minus = (_to_mask(p, packed.shape) for p in packed.payload.numpy().reshape(2, -1))
        return live.to(torch.int8) - 2 * minus.to(torch.int8)
    if packed.codec == "real":
        return torch.from_numpy(packed.payload.numpy().view("<f4")[:n].astype(np.float32)).view(packed.shape)
    if packed.codec == "owners":
        planes = packed.payload.numpy().reshape(packed.bits, -1)
        owned = _owned(planes, packed.level)
        if packed.least > 1:
            owned &= ~_owned(planes, packed.least - 1)
        return _to_mask(owned, shape)[tuple(slice(size) for size in packed.shape)]
    raise ValueError(
        "expected the codec 'bits', 'ternary', 'real', 'soft', 'scaled', 'owners' or 'block', found "
        f"{packed.codec!r}: written by a newer version?"
    )


def owners(packed: Packed) -> UInt8[Tensor, " *_"]:
    """The plane of owner codes (uint8) behind an "owners" pack.

    >>> owners(pack_owners(torch.tensor([0, 3, 1], dtype=torch.uint8), 1, 3))
    tensor([0, 3, 1], dtype=torch.uint8)
    """
    planes = packed.payload.numpy().reshape(packed.bits, -1)
    shape = packed.plane or packed.shape
    codes = sum(_to_mask(plane, shape).to(torch.uint8) << bit for bit, plane in enumerate(planes))
    assert isinstance(codes, Tensor)
    return codes


def _scaled(packed: Packed) -> Tensor:
    size = packed.bits * (-(-math.prod(packed.shape) // 8))
    halves = packed.payload[size:].numpy()
    wanted = (math.prod(packed.shape),) if not packed.bits else (1, packed.shape[0])
    if len(halves) % 2 or len(halves) // 2 not in wanted:
        raise ValueError(
            f"expected {' or '.join(map(str, wanted))} scales of 2 bytes behind {size} bytes of a mask of shape "
            f"{packed.shape}, found {len(halves)} bytes: damaged record"
        )
    scale = torch.from_numpy(halves.view("<f2").astype(np.float32))
    if not packed.bits:
        return scale.view(packed.shape)
    plain = Packed("ternary" if packed.bits == 2 else "bits", packed.shape, packed.payload[:size], packed.bits)
    return unpack(plain).float() * scale.view(-1, *[1] * (len(packed.shape) - 1))


def _block(packed: Packed) -> Tensor:
    if not packed.payload.numel():
        return torch.ones(packed.shape, dtype=torch.bool)
    if packed.payload.shape != packed.shape[:1]:
        raise ValueError(
            f"expected {packed.shape[0]} gains for a block of shape {packed.shape}, found {packed.payload.numel()}: "
            "damaged record"
        )
    return packed.payload.view(-1, *[1] * (len(packed.shape) - 1)).expand(packed.shape).clone()


def _owned(planes: np.ndarray, level: int) -> np.ndarray:
    """Where ``0 < code <= level``, as packed bits: a comparison from the highest bit down."""
    level = min(level, 2 ** len(planes) - 1)
    below, equal = np.zeros_like(planes[0]), np.full_like(planes[0], 255)
    for bit in reversed(range(len(planes))):
        if level >> bit & 1:
            below |= equal & ~planes[bit]
            equal &= planes[bit]
        else:
            equal &= ~planes[bit]
    owned: np.ndarray = (below | equal) & np.bitwise_or.reduce(planes)
    return owned


def _to_mask(payload: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    flat = np.unpackbits(payload, count=math.prod(shape), bitorder="little")
    return torch.from_numpy(flat.view(np.bool_)).view(shape)


def _to_bytes(flat: np.ndarray) -> Tensor:
    return torch.from_numpy(np.packbits(flat, bitorder="little"))
