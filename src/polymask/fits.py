"""Whether a record fits a network: names, shapes, kinds of numbers, and nothing that is not finite."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from polymask.parts.pack import Packed, unpack
from polymask.parts.sparse import Sparse
from polymask.sites.table import Sites

if TYPE_CHECKING:
    from polymask.task import TaskRecord


def misfit(sites: Sites, record: TaskRecord) -> str | None:
    """The first part of a record that does not fit the model, in words; None if all does.

    Args:
        sites: the attached model.
        record: the task.
    """
    for name, packed in record.masks.items():
        if wrong := _mask(sites, name, packed):
            return f"a mask of {name!r} that fits, found {wrong}"
    for name, sparse in record.deltas.items():
        if wrong := _delta(sites, record, name, sparse):
            return f"a correction of {name!r} that fits, found {wrong}"
    for name, value in record.private.items():
        if wrong := _private(sites, record, name, value):
            return f"its own {name!r} to fit, found {wrong}"
    return None


def _mask(sites: Sites, name: str, packed: Packed) -> str | None:
    if name not in sites.weights and name not in sites.units:
        return "no such site"
    if name in sites.weights:
        base = tuple(sites.tensor(name).shape)
        if len(packed.shape) != len(base) or any(a > b for a, b in zip(packed.shape, base, strict=True)):
            return f"shape {packed.shape} for {base}"
    elif packed.shape != (sites.wiring.sizes.get(name, math.prod(packed.shape)),):
        return f"shape {packed.shape} for {sites.wiring.sizes.get(name, 'a row of')} units"
    if packed.codec in ("real", "soft", "scaled", "block") and not bool(unpack(packed).isfinite().all()):
        return "values that are not finite"
    return None


def _delta(sites: Sites, record: TaskRecord, name: str, sparse: Sparse) -> str | None:
    if name not in sites.weights:
        return "no masked weight of that name"
    w, mask = sites.tensor(name), record.masks.get(name)
    read = tuple(w.shape)
    if mask is not None:
        # Of a weight that has grown since, the mask is the leading block; one of a single entry is read whole.
        read = tuple(a if a > 1 else b for a, b in zip(mask.shape, read, strict=True))
    index, value = sparse.index, sparse.value
    if tuple(sparse.shape) != read:
        return f"shape {tuple(sparse.shape)} for {read}"
    if index.ndim != 1 or index.shape != value.shape or index.is_floating_point() or index.dtype == torch.bool:
        return f"{tuple(index.shape)} places of {_short(index)} for values of shape {tuple(value.shape)}"
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < math.prod(read):
        return f"places from {int(index.min())} to {int(index.max())} among {math.prod(read)} entries"
    if value.dtype == torch.int8 and sparse.scale is not None:
        value = value * torch.tensor(sparse.scale)
    return _number(value, w) or (None if sparse.local is None else _delta(sites, record, name, sparse.local))


def _private(sites: Sites, record: TaskRecord, name: str, value: Tensor) -> str | None:
    if name not in sites.roles:
        return "no such tensor"
    if sites.roles[name].kind != "private":
        return "a tensor that all tasks share"
    built, found = tuple(sites.built[name]), tuple(value.shape)
    if found != built and not _may_differ(sites, record, name, built, found):
        return f"shape {found} for {built}"
    return _number(value, sites.tensor(name))


def _may_differ(sites: Sites, record: TaskRecord, name: str, built: tuple[int, ...], found: tuple[int, ...]) -> bool:
    """Whether a tensor may have another shape than it is built with: in a head, or where the network has grown.

    A module with a matrix of the task's own is a head: as many rows as the task has outputs, in all its tensors.
    Elsewhere a tensor may only be longer, and as long as the rows that the task reads of the weights beside it.
    """
    path = name.rpartition(".")[0]
    beside = [other for other in sites.roles if other.rpartition(".")[0] == path and other != name]
    matrices = [other for other in (name, *beside) if other in record.private and record.private[other].ndim > 1]
    if matrices:
        first = record.private[matrices[0]]
        wider = len(found) == len(built) and all(a >= b for a, b in zip(found[1:], built[1:], strict=True))
        return found[:1] == first.shape[:1] and (wider or not built)
    longer = len(found) == len(built) and all(a >= b for a, b in zip(found, built, strict=True))
    return longer and all(
        _rows(sites, record, other) == found[0] for other in beside if sites.built[other][:1] == built[:1]
    )


def _rows(sites: Sites, record: TaskRecord, name: str) -> int:
    """How many rows of a tensor a task reads."""
    if name in record.private:
        return len(record.private[name])
    mask = record.masks.get(name)
    if mask is not None and mask.shape[0] > 1:
        return mask.shape[0]
    return len(sites.tensor(name))


def _number(value: Tensor, like: Tensor) -> str | None:
    """What is wrong with the numbers of a tensor that takes the place of another."""
    if (value.is_floating_point(), value.is_complex()) != (like.is_floating_point(), like.is_complex()):
        return f"{_short(value)} for {_short(like)}"
    if (value.is_floating_point() or value.is_complex()) and not bool(value.isfinite().all()):
        return "values that are not finite"
    return None


def _short(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
