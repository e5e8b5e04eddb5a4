"""What finished tasks read of the base: a bit an entry, a digest of what lies under them, and whether it still holds.

One union for all tasks, so that looking costs the same however many there are.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymask.parts.binarize import leading
from polymask.sites.table import Sites

Digest = Callable[[bytes, Any], str]
"""``(what the data are, the data as a buffer) -> digest``."""


@dataclass(frozen=True)
class Part:
    """What finished tasks read of one tensor of the base.

    Args:
        shape: the tensor's shape when that was last noted; it may grow, what is read stays its leading block.
        dtype: its dtype, as torch writes it.
        bits: a bit for every entry, packed as a mask is, (ceil(n / 8),); None: every entry is read.
        digest: of dtype, shape and the C-order bytes of ``where(bit, base, +0)``.
    """

    shape: tuple[int, ...]
    dtype: str
    bits: Tensor | None
    digest: str


Held = Mapping[str, Part]
"""Tensor name -> what finished tasks read of it."""


class AlteredNetwork(RuntimeError):  # noqa: N818 - the name says what is wrong
    """What finished tasks read, or what they answer, is no longer what it was when they ended."""


def checksum(head: bytes, data: Any) -> str:
    """CRC-32, for memory: a quarter of the time of a digest that withstands an adversary.

    >>> checksum(b"float32", b"abc") == checksum(b"float32", b"abc") != checksum(b"float32", b"abd")
    True
    """
    return f"{zlib.crc32(data, zlib.crc32(head)):08x}"


def proof(head: bytes, data: Any) -> str:
    """BLAKE2b-128, for what is written to disk."""
    found = hashlib.blake2b(head, digest_size=16)
    found.update(data)
    return found.hexdigest()


def add_read(held: Held, sites: Sites, entries: Mapping[str, Tensor | None], digest: Digest) -> dict[str, Part]:
    """The union of what was held and of what one more task reads.

    A digest is taken anew only where the union or the tensor's shape has changed: what is held is as it was.

    Args:
        held: what earlier tasks read.
        sites: the attached model.
        entries: from ``task.entries``: tensor name -> the entries that the task reads; None: all.
        digest: ``checksum`` or ``proof``.
    """
    found: dict[str, Part] = {}
    for name, read in entries.items():
        base, old = sites.base(name), held.get(name)
        bits = _united(old, read, base)
        if old is not None and old.shape == tuple(base.shape) and _same(old.bits, bits):
            found[name] = old
            continue
        found[name] = part(base, bits, digest)
    return {**{name: old for name, old in held.items() if name not in found}, **found}


def part(base: Tensor, bits: Tensor | None, digest: Digest) -> Part:
    """A tensor's part, its digest taken."""
    shape, dtype = tuple(base.shape), _short(base)
    return Part(shape, dtype, bits, digest(_head(dtype, shape), _selected(base, bits)))


def find_altered(held: Held, sites: Sites, digest: Digest) -> dict[str, str]:
    """The tensors that are not what finished tasks read, each with what was found of it.

    Args:
        held: what they read.
        sites: the attached model.
        digest: the one that ``held`` was made with.
    """
    found: dict[str, str] = {}
    for name, was in held.items():
        if name not in sites.roles:
            found[name] = "gone"
        elif (now := difference(was, sites.base(name), digest)) is not None:
            found[name] = now
    return found


def digest_again(held: Held, sites: Sites, digest: Digest) -> dict[str, Part]:
    """The same entries with digests of another kind, of the tensors as they are now."""
    return {
        name: replace(was, digest=digest(_head(was.dtype, was.shape), _selected(_block(sites, name, was), was.bits)))
        for name, was in held.items()
    }


@torch.no_grad()
def with_held(held: Held, name: str, now: Tensor, value: Tensor) -> Tensor:
    """A tensor with what finished tasks read of it taken from ``value``, and all else as it is now.

    Args:
        held: what they read.
        name: the tensor's name.
        now: as it is; it may have grown.
        value: as it was: a bank's.
    """
    was = held[name]
    block = _lead(was.shape)
    out = now.detach().clone()
    old = value.to(out)[block]
    out[block] = old if was.bits is None else torch.where(bool_of(was).to(out.device), old, out[block])
    return out


def bool_of(was: Part) -> Tensor:
    """The entries that are read, bool, of the part's shape."""
    if was.bits is None:
        return torch.ones(was.shape, dtype=torch.bool)
    n = int(np.prod(was.shape, dtype=np.int64))
    return torch.from_numpy(_unpacked(was.bits, n).astype(bool)).view(was.shape)


def difference(was: Part, base: Tensor, digest: Digest) -> str | None:
    """What a tensor is now, in words, if it is not what was read; None if it is."""
    if _short(base) != was.dtype:
        return f"{_short(base)} instead of {was.dtype}"
    if base.ndim != len(was.shape) or any(a < b for a, b in zip(base.shape, was.shape, strict=True)):
        return f"of shape {tuple(base.shape)} instead of {was.shape}"
    block = base[_lead(was.shape)]
    return None if digest(_head(was.dtype, was.shape), _selected(block, was.bits)) == was.digest else "other values"


def _block(sites: Sites, name: str, was: Part) -> Tensor:
    return sites.base(name)[_lead(was.shape)]


def _united(old: Part | None, read: Tensor | None, base: Tensor) -> Tensor | None:
    if read is None or (old is not None and old.bits is None and old.shape == tuple(base.shape)):
        return None
    both = torch.zeros(base.shape, dtype=torch.bool)
    # A mask of a layer that has grown since is its leading block.
    leading(both, read).copy_(read.cpu() != 0)
    if old is not None:
        both[_lead(old.shape)] |= bool_of(old)
    return None if bool(both.all()) else _packed(both)


def _lead(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(size) for size in shape)


def _packed(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.contiguous().numpy().reshape(-1), bitorder="little"))


def _unpacked(bits: Tensor, n: int) -> NDArray[np.uint8]:
    return np.unpackbits(bits.numpy(), count=n, bitorder="little")


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def _selected(base: Tensor, bits: Tensor | None) -> Any:
    """The bytes of ``where(bit, base, +0)``: by integers, which is exact and faster than ``where``."""
    plain = base.detach().cpu().contiguous().reshape(-1)
    if not plain.numel():
        return b""
    size = min(plain.element_size(), 8)
    words = plain.view(torch.uint8).numpy().view(f"u{size}")
    if bits is None:
        return words.data
    times = _unpacked(bits, plain.numel()).astype(words.dtype)
    times = times if words.size == times.size else np.repeat(times, words.size // times.size)
    return np.multiply(words, times, out=times).data


def _head(dtype: str, shape: tuple[int, ...]) -> bytes:
    return f"{dtype}{shape}".encode()


def _short(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
