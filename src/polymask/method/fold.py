"""The end of a task: what it learned becomes part of the base, or nothing has happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from polymask.method import cycle, guard, snapshot
from polymask.sites.marks import is_marked, mark
from polymask.sites.table import bake
from polymask.task import TaskRecord, activate

if TYPE_CHECKING:
    from polymask.method.contract import Method


@dataclass(frozen=True)
class Fold:
    """What ``end`` changes on its way, all of it, so that an interruption can be undone.

    Args:
        homes: modules with their parameters, buffers, own ``train`` and mode, and the leaves that never learn again.
        kept: masked weight -> what it held and under which gate.
        slots: site -> its mask, its correction and its scores.
        private: the tensors of the open task, and those of which rows are.
        opened: the weights that learned.
        learner: the learner's own references: records, state, initial, watch.
    """

    homes: list[tuple[nn.Module, dict[str, Any], dict[str, Any], Any, bool, set[str]]]
    kept: dict[str, tuple[Tensor | None, Tensor | None]]
    slots: dict[str, dict[str, Any]]
    private: dict[str, Tensor]
    opened: set[str]
    learner: dict[str, Any]


SLOTS = ("mask", "delta", "source")
LEARNER = ("records", "state", "initial", "watch", "count")


def fold_task(method: Method, task: str) -> dict[str, TaskRecord]:
    """Fold what the open task learned into the base, make its record the active one, and watch what it reads."""
    sites = method.sites
    cycle.round_private(method)
    hard = snapshot.hard_masks(sites)
    for name in sorted(sites.opened):
        sites.keep_learned(name)
    for name in sites.names("first"):
        sites.freeze(name)
    # Statistics, which no gradient keeps equal, differ between processes.
    snapshot.broadcast([sites.tensor(name) for name in sites.names("private", "first", "shared")])
    with torch.no_grad():
        record, read = cycle.record_of(method, task, method._close(hard), method._deltas(hard))
    guard.enforce(method, f"end({task!r})", method._as_in_place, base=False)
    snapshot.clear_sources(sites)
    method.count += task not in method.records
    before, method.records = method.records, {**method.records, task: record}
    again = method._reissue()
    issued = {**again, task: again.get(task, record)}
    method.records.update(issued)
    activate(sites, method.records[task])
    held = guard.held_after(method, before, issued, {task: read})
    method.watch = guard.make_watch(method, held, task, method.model, bake(method.model))
    return issued


def before_fold(method: Method) -> Fold:
    """Note everything that ending a task may change."""
    sites = method.sites
    modules = {id(spot.module): spot.module for name in sites.roles for spot in sites.spots(name)}
    homes = [
        (each, dict(each._parameters), dict(each._buffers), vars(each).get("train"), each.training, set(_frozen(each)))
        for each in modules.values()
    ]
    kept = {name: (None if site.kept is None else site.kept.clone(), site.gate) for name, site in sites.weights.items()}
    slots = {
        name: {slot: getattr(site, slot) for slot in (SLOTS if name in sites.weights else ("mask", "source"))}
        for name, site in sites.every().items()
    }
    private = {name: sites.tensor(name).detach().clone() for name in [*sites.names("private"), *method.owned]}
    learner = {name: getattr(method, name) for name in LEARNER}
    learner["state"] = {key: dict(value) for key, value in method.state.items()}
    return Fold(homes, kept, slots, private, set(sites.opened), learner)


@torch.no_grad()
def unfold(method: Method, fold: Fold) -> None:
    """Back to the moment before ``end``, the task open; may be begun again if it is interrupted itself."""
    sites = method.sites
    for module, parameters, buffers, train, training, frozen in fold.homes:
        for place, content in ((module._parameters, parameters), (module._buffers, buffers)):
            place.clear()
            place.update(content)
        module.__dict__.pop("train", None)
        if train is not None:
            module.__dict__["train"] = train
        module.training = training
        _frozen(module).intersection_update(frozen)
    for name, (was, gate) in fold.kept.items():
        sites.weights[name].kept, sites.weights[name].gate = was, gate
        if was is not None and name not in fold.opened:
            sites.tensor(name).copy_(was)
    for name, slots in fold.slots.items():
        for slot, content in slots.items():
            setattr(sites.every()[name], slot, content)
    for name, value in fold.private.items():
        sites.tensor(name).copy_(value)
    sites.opened = set(fold.opened)
    for name, value in fold.learner.items():
        setattr(method, name, value)


def _frozen(module: nn.Module) -> set[str]:
    return mark(module).frozen if is_marked(module) else set()
