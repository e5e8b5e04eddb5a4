"""A finished task as data: its masks, its private tensors, what it reads of the base; and how it becomes active."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polymask.copies.kept import refresh_caches
from polymask.fits import misfit
from polymask.parts.binarize import leading, select, select_into
from polymask.parts.pack import Packed, unpack
from polymask.parts.sparse import Sparse, densify
from polymask.sites.slots import fill, has_rows
from polymask.sites.table import BASE, HEAD, Sites
from polymask.sites.trace import Place


@dataclass(frozen=True)
class Meta:
    """What a record says about itself.

    Args:
        task: the task's name.
        method: the name of the method that learned it.
        outputs: the width of its head.
        exact: True: finished tasks keep their logits to the bit; a float: drift at most this; None: it may forget.
        labels: the names of labels 0..outputs-1, if they have any.
        inputs: how an input is prepared (normalisation, size, channels), as JSON.
        revision: how often the record has been reissued.
        reason: why it was reissued.
        private_bits: to how many bits an entry its own tensors are rounded: 32 (as they are), 16 or 8.
    """

    task: str
    method: str
    outputs: int
    exact: bool | float | None
    labels: tuple[str, ...] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)
    revision: int = 0
    reason: str = ""
    private_bits: int = 32


@dataclass(frozen=True)
class TaskRecord:
    """Everything of a task that the shared base does not hold. Immutable.

    Args:
        masks: tensor name (or module name, for units) -> packed mask.
        deltas: tensor name -> sparse correction added to the weight.
        private: tensor name -> the task's own tensor.
        reads: tensor name -> hash of what the task reads of it (``fingerprint``).
        meta: see ``Meta``.
    """

    masks: Mapping[str, Packed]
    deltas: Mapping[str, Sparse]
    private: Mapping[str, Tensor]
    reads: Mapping[str, str]
    meta: Meta


def fingerprint(base: Tensor, mask: Tensor | None = None) -> str:
    """BLAKE2b-128 of dtype, shape and the C-order bytes of ``where(mask != 0, base, +0)``.

    Of inputs, never of products: ``w * mask`` changes its bytes when an entry that is not read changes its sign.

    >>> w, mask = torch.tensor([1.0, -2.0]), torch.tensor([True, False])
    >>> fingerprint(w, mask) == fingerprint(torch.tensor([1.0, 5.0]), mask) != fingerprint(w)
    True
    """
    base = base.detach().cpu()
    if mask is not None:
        base = torch.where(mask.cpu() != 0, leading(base, mask), torch.zeros((), dtype=base.dtype))
    digest = hashlib.blake2b(f"{base.dtype}{tuple(base.shape)}".encode(), digest_size=16)
    digest.update(base.contiguous().flatten().view(torch.uint8).numpy().data if base.numel() else b"")
    return digest.hexdigest()


def reads(sites: Sites, masks: Mapping[str, Tensor]) -> dict[str, str]:
    """The hash of what a task reads of every tensor of the base, under its masks; private tensors are not the base.

    Args:
        sites: the attached model.
        masks: tensor or module name -> mask.
    """
    return fingerprints(sites, entries(sites, masks))


def fingerprints(sites: Sites, read: Mapping[str, Tensor | None]) -> dict[str, str]:
    """The hashes of some entries of the base: tensor name -> those where not 0; None: all of them."""
    return {name: fingerprint(sites.base(name), mask) for name, mask in read.items()}


def entries(sites: Sites, masks: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    """The entries that a task reads of every tensor of the base: where not 0, broadcasting to it; None: all of them.

    Of a tensor that has grown since, a mask is its leading block.

    Args:
        sites: the attached model.
        masks: tensor or module name -> mask.
    """
    units = units_of(sites, masks)
    found: dict[str, Tensor | None] = {}
    for name in sites.names(*BASE):
        mask, shape = masks.get(name), sites.base(name).shape
        if sites.wiring.sites:
            # What grows has a mask of its own, its leading block, and no units.
            found[name] = sites.wiring.per_entry(name, shape, units, True) if mask is None else mask
            continue
        rows = masks.get(name.rpartition(".")[0]) if sites.units else None
        if rows is not None and has_rows(sites.base(name), len(rows)):
            live = (rows != 0).view(-1, *[1] * (len(shape) - 1))
            mask = live if mask is None else live & (mask != 0)
        found[name] = mask
    return found


def units_of(sites: Sites, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The masks of all sites on units whose wiring is known, bool; all ones where a task has none."""
    sizes = sites.wiring.sizes.items()
    return {name: masks[name] != 0 if name in masks else torch.ones(n, dtype=torch.bool) for name, n in sizes}


def unit_masks(sites: Sites, record: TaskRecord) -> dict[str, Tensor]:
    """Every mask on units that a record brings, those of the norms that are masked again as their input is too."""
    masks = {path: unpack(record.masks[path]) for path in sites.units if path in record.masks}
    if masks and sites.wiring.echoes:
        masks |= sites.wiring.echo_masks({path: mask for path, mask in masks.items() if path in sites.wiring.sites})
    return masks


Mixture = Sequence[tuple[float, TaskRecord]]


@torch.no_grad()
def activate(sites: Sites, record: TaskRecord | Mixture) -> None:
    """Copy a record into the slots of an attached model; knows no method.

    A mixture reads every weight under ``sum_i alpha_i M_i`` and takes the same average of private tensors
    (SupSup, Wortsman et al. 2020, section 3.3).

    Args:
        sites: the attached model; no task may be open on it.
        record: one record, or pairs of a coefficient of at least 0 and a record.

    Raises:
        RuntimeError: while a task is open.
        ValueError: if a record does not fit the model, or what is to be mixed has no common shape or classes.
    """
    if sites.is_open():
        raise RuntimeError(
            "expected no task in training, found one, whose scores and weights would be lost: end() or abandon() it "
            "first, or look at a finished task with method.plain(task)"
        )
    mixture = [(1.0, record)] if isinstance(record, TaskRecord) else list(record)
    for _, one in mixture:
        check_fits(sites, one)
    if not isinstance(record, TaskRecord):
        _check_mixture(sites, mixture)
    with refresh_caches(sites.model):
        _fill(sites, mixture)


def _fill(sites: Sites, mixture: Mixture) -> None:
    units = [(alpha, unit_masks(sites, one)) for alpha, one in mixture]
    for path, unit in sites.units.items():
        mask = _mix([(alpha, masks.get(path)) for alpha, masks in units], 1.0)
        fill(unit, "mask", None if mask is None else mask.to(next(sites.model.parameters()).device))
    for name, weight in sites.weights.items():
        device = sites.tensor(name).device
        mask = _mix([(alpha, unpack(one.masks[name]) if name in one.masks else None) for alpha, one in mixture], 1.0)
        delta = _mix([(alpha, densify(one.deltas[name]) if name in one.deltas else None) for alpha, one in mixture])
        fill(weight, "mask", None if mask is None else mask.to(device))
        fill(weight, "delta", None if delta is None else delta.to(device, sites.tensor(name).dtype))
    for name in mixture[0][1].private:
        mixed = _mix([(alpha, one.private[name]) for alpha, one in mixture])
        assert mixed is not None
        sites.write(name, mixed)


def _check_mixture(sites: Sites, mixture: Mixture) -> None:
    """Raise unless the records can be averaged: what stands for one thing in one of them does in all."""
    alphas = [float(alpha) for alpha, _ in mixture]
    if not alphas or not all(0 <= alpha < math.inf for alpha in alphas) or not any(alphas):
        raise ValueError(
            f"expected a mixture of records with coefficients of at least 0, of which one is above it, found {alphas}"
        )
    first = mixture[0][1]
    heads = [name for name in first.private if sites.roles[name].why == HEAD]
    for _, one in mixture[1:]:
        pair = f"tasks {first.meta.task!r} and {one.meta.task!r}"
        if differing := _unlike(first, one):
            raise ValueError(f"expected {pair} of a mixture to have {differing}: mix tasks of one kind and width")
        if heads and one.meta.labels != first.meta.labels:
            raise ValueError(
                f"expected {pair} of a mixture to have the same classes, found others, each with a head of its own "
                f"({heads[0]!r}): mix tasks with the same labels, or with a head that all share"
            )


def _unlike(first: TaskRecord, other: TaskRecord) -> str:
    """What two records would have to share to be averaged, and do not; empty if they can be."""
    for name in sorted({*first.private, *other.private}):
        shapes = [tuple(one.private[name].shape) if name in one.private else "none" for one in (first, other)]
        if shapes[0] != shapes[1]:
            return f"one shape of their own {name!r}, found {shapes[0]} and {shapes[1]}"
    for name in sorted({*first.masks} & {*other.masks}):
        if first.masks[name].shape != other.masks[name].shape:
            return f"masks of one shape on {name!r}, found {first.masks[name].shape} and {other.masks[name].shape}"
    return ""


@torch.no_grad()
def switch(plain: nn.Module, sites: Sites, record: TaskRecord) -> None:
    """Make a plain model of the same network answer as a record, in place: ``where(mask, base, 0) + delta``.

    What a server does between two requests: no copy of the network, the speed of a plain one afterwards.

    Args:
        plain: a baked or otherwise plain model of the network; its head may have another width.
        sites: the attached model that holds the base; it stays as it is.
        record: the task.

    Raises:
        ValueError: if the record does not fit the network.
    """
    check_fits(sites, record)
    with refresh_caches(plain):
        _write_task(plain, sites, record)


def _write_task(plain: nn.Module, sites: Sites, record: TaskRecord) -> None:
    for name in sites.weights:
        w, base = plain.get_parameter(name), sites.base(name)
        mask = unpack(record.masks[name]).to(w.device) if name in record.masks else None
        base = base if mask is None else leading(base, mask)
        if mask is None or w.shape != base.shape:
            _write(plain, name, base if mask is None else select(base, mask))
        else:
            select_into(w.data, base, mask)
        if name in record.deltas:
            plain.get_parameter(name).add_(densify(record.deltas[name]).to(w.device, w.dtype))
    for name, value in record.private.items():
        _write(plain, name, value)
    masks = unit_masks(sites, record)
    for path in sites.units:
        _switch_rows(plain, sites, record, path, masks.get(path))


def _switch_rows(plain: nn.Module, sites: Sites, record: TaskRecord, path: str, live: Tensor | None) -> None:
    """Mask the rows of a layer's parameters as its units are; what an earlier task masked comes back."""
    for name in [name for name in sites.inside(path) if _place(plain, name).trains]:
        rows = _place(plain, name).tensor() if name in sites.weights else record.private.get(name, sites.base(name))
        if live is not None and has_rows(rows, len(live)):
            live = live.to(rows) if live.is_floating_point() else live.to(rows.device)
            rows = select(rows, live.view(-1, *[1] * (rows.ndim - 1)))
        _write(plain, name, rows)


def _place(plain: nn.Module, name: str) -> Place:
    path, _, leaf = name.rpartition(".")
    return Place(plain.get_submodule(path), leaf)


def _write(plain: nn.Module, name: str, value: Tensor) -> None:
    place = _place(plain, name)
    old = place.tensor()
    if old.shape == value.shape:
        old.copy_(value)
    else:
        fresh = value.to(old.device, old.dtype, copy=True)
        place.replace(nn.Parameter(fresh, old.requires_grad) if isinstance(old, nn.Parameter) else fresh)


def _mix(terms: Sequence[tuple[float, Tensor | None]], absent: float = 0.0) -> Tensor | None:
    """The one tensor as it is, or the weighted sum of several, ``absent`` for None; None where no term has one."""
    if len(terms) == 1 or all(value is None for _, value in terms):
        return terms[0][1]
    first = next(value for _, value in terms if value is not None)
    if first.dtype in (torch.int64, torch.int32):
        return first
    return torch.stack([alpha * (torch.full_like(first, absent) if v is None else v) for alpha, v in terms]).sum(0)


def check_fits(sites: Sites, record: TaskRecord) -> None:
    """Check that a record fits the model; a mask may be smaller than its weight, which has then grown since.

    Raises:
        ValueError: if it does not; it names the first part that does not.
    """
    if wrong := misfit(sites, record):
        raise ValueError(f"expected of task {record.meta.task!r} {wrong}: another network, or a damaged record?")
