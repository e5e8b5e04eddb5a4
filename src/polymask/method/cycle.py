"""The parts of a task's life that no method changes: a clean start, what trains, the record at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from polymask.copies.kept import refresh_caches
from polymask.method.heads import fresh_head, width_of
from polymask.parts.narrow import narrowed, narrowed_statistics
from polymask.parts.pack import Packed, unpack
from polymask.parts.sparse import Sparse
from polymask.task import Meta, TaskRecord, entries, fingerprints

if TYPE_CHECKING:
    from polymask.method.contract import Method


def start(method: Method, task: str, outputs: int | None) -> None:
    """Take every mask off, put private tensors back to where tasks start, and give the task a head."""
    sites = method.sites
    sites.clear()
    with refresh_caches(method.model):
        for name, value in method.initial.items():
            sites.write(name, value)
        fresh_head(sites, method.head, outputs, (method.seed, task))


def bring_back(method: Method, record: TaskRecord) -> None:
    """Let a task that begins again start from the tensors of its own that it ended with.

    Raises:
        ValueError: if its head was of another width.
    """
    sites = method.sites
    with refresh_caches(method.model):
        for name, value in record.private.items():
            if (found := sites.tensor(name).shape) != value.shape:
                raise ValueError(
                    f"expected {name!r} of shape {tuple(value.shape)}, as task {record.meta.task!r} left it, found "
                    f"{tuple(found)}: begin it with outputs={record.meta.outputs}"
                )
            sites.write(name, value)


def let_train(method: Method) -> None:
    """Ask for gradients of what the phase offers, and of nothing else."""
    for parameter in method.model.parameters():
        parameter.requires_grad_(False)
    for parameter in method.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    method.versions = {name: parameter._version for name, parameter in method.named_parameters()}


def round_private(method: Method) -> None:
    """Round what the open task has of its own to what is kept of it; of rows of the base to half precision at least."""
    if method.private_bits == 32:
        return
    for name in method.sites.names("private"):
        value = method.sites.tensor(name)
        is_statistic = not isinstance(value, nn.Parameter)
        own = narrowed_statistics(value) if is_statistic else narrowed(value.detach(), method.private_bits)
        method.sites.write(name, own)
    for name in method.owned:
        method.sites.write_trained(name, narrowed(method.sites.tensor(name).detach(), 16))


def record_of(
    method: Method, task: str, masks: Mapping[str, Packed], deltas: Mapping[str, Sparse]
) -> tuple[TaskRecord, dict[str, Tensor | None]]:
    """The record of a task that ends, given what it keeps; and the entries that it reads, from ``task.entries``."""
    sites = method.sites
    private = {name: sites.tensor(name).detach().cpu().clone() for name in sites.names("private")}
    read = entries(sites, {name: unpack(one) for name, one in masks.items()})
    meta = Meta(task, method.name, width_of(sites, method.head), method.exact, private_bits=method.private_bits)
    if task in method.records:
        meta = replace(meta, revision=method.records[task].meta.revision + 1, reason="learned again")
    return TaskRecord(masks, deltas, private, fingerprints(sites, read), meta), read
