"""What a begun task can be taken back to, and copies that answer as a finished one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from polymask.copies.kept import refresh_caches
from polymask.sites.slots import Scores
from polymask.sites.table import Kind, Sites, replica, unsharded
from polymask.sites.trace import effective, strip
from polymask.task import TaskRecord, activate

if TYPE_CHECKING:
    from polymask.method.contract import Method

SLOTS = ("kept", "gate", "rate", "mask", "delta")
UNHELD: tuple[Kind, ...] = ("private", "first", "shared")


@dataclass(frozen=True)
class Before:
    """What ``begin`` may change and ``abandon`` puts back; weights held all or nothing are in ``kept``."""

    state: dict[str, dict[str, Tensor]]
    tensors: dict[str, Tensor]
    slots: dict[str, dict[str, Tensor | None]]


def take(method: Method) -> Before:
    """Note everything that opening a task may change."""
    sites = method.sites
    slots: dict[str, dict[str, Tensor | None]] = {
        name: {"mask": site.mask, "delta": site.delta} for name, site in sites.weights.items()
    }
    slots.update({name: {"mask": site.mask} for name, site in sites.units.items()})
    # A weight that grows while a task is open leaves nothing of its old shape in ``kept``; under a gate that is not
    # all or nothing, loading the model's state overwrites it.
    kinds = (*UNHELD, "masked") if method.grows or method.exact is not True else UNHELD
    tensors = {name: sites.base(name).clone() for name in sites.names(*kinds)}
    return Before({key: dict(value) for key, value in method.state.items()}, tensors, slots)


def put_back(method: Method, before: Before) -> None:
    """Undo whatever happened since ``take``."""
    sites = method.sites
    for name in sorted(sites.opened):
        sites.drop_learned(name)
    clear_sources(sites)
    with refresh_caches(method.model):
        for name, value in before.tensors.items():
            sites.write(name, value)
    for name, slots in before.slots.items():
        for slot, content in slots.items():
            setattr(sites.every()[name], slot, content)
    method.state = {key: dict(value) for key, value in before.state.items()}
    for parameter in method.model.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None


def hard_masks(sites: Sites) -> dict[str, Tensor]:
    """The mask of every site whose scores train."""
    with torch.no_grad():
        return {
            name: site.source.hard(site.source.scores)
            for name, site in sites.every().items()
            if isinstance(site.source, Scores)
        }


def clear_sources(sites: Sites) -> None:
    """Take all scores off."""
    for site in sites.every().values():
        site.source = None


def plain(sites: Sites, record: TaskRecord) -> nn.Module:
    """A baked copy of an attached model that answers as a record, whatever is open on the original."""
    sites = replica(sites)
    for name in list(sites.weights):
        site = sites.weights[name]
        if site.kept is not None:
            site.gate = torch.zeros((), dtype=torch.bool, device=site.kept.device)
    sites.clear()
    activate(sites, record)
    return strip(sites.model, effective).eval()


@torch.no_grad()
def collect(model: nn.Module, trained: nn.Module) -> None:
    """Copy every parameter and buffer of a copy, sharded or not, into the model it was copied from.

    Raises:
        ValueError: if the copy lacks a tensor of the model.
    """
    theirs: dict[str, Tensor] = dict((*trained.named_parameters(), *trained.named_buffers()))
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if name not in theirs:
            raise ValueError(f"expected a copy of this model made after begin(), found none of its {name!r} there")
        value.copy_(unsharded(theirs[name]))


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's values, where there are several; as bytes, since not every kind is sent."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for tensor in tensors:
            values = tensor.detach().contiguous()
            torch.distributed.broadcast(values.view(-1).view(torch.uint8), 0)
            tensor.detach().copy_(values)
