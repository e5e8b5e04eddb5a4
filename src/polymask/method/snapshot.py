"""A learner's state at one moment: what a begun task can be taken back to, what a stopped one goes on from."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from polymask.copies.kept import renewed
from polymask.method.cycle import let_train
from polymask.sites.slots import FeatureSite, Scores, WeightSite, fill
from polymask.sites.table import Kind, Sites, bake, whole
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
        sites.drop(name)
    clear_sources(sites)
    with renewed(method.model):
        for name, value in before.tensors.items():
            sites.put(name, value)
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
    sites = copy.deepcopy(sites)
    for name in list(sites.weights):
        site = sites.weights[name]
        if site.kept is not None:
            site.gate = torch.zeros((), dtype=torch.bool, device=site.kept.device)
    activate(sites, record)
    return bake(sites.model)


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
        value.copy_(whole(theirs[name]))


def learner_state(method: Method) -> dict[str, Any]:
    """Everything that the learner needs to go on, as nested mappings of tensors and JSON values."""
    sites, before = method.sites, method._before
    slots: dict[str, dict[str, Tensor]] = {}
    for name, site in sites.every().items():
        held: dict[str, Tensor] = {slot: getattr(site, slot) for slot in SLOTS if getattr(site, slot, None) is not None}
        if isinstance(site.source, Scores):
            held["scores"] = site.source.scores.detach()
        slots[name] = held
    return {
        "task": method.task,
        "phase": method.phase,
        "steps": method.steps,
        "finished": list(method.records),
        "tensors": {name: sites.tensor(name).detach() for name in sites.roles},
        "frozen": [name for name in sites.names("masked") if not isinstance(sites.tensor(name), nn.Parameter)]
        + (sites.names("first") if method.records else []),
        "opened": sorted(sites.opened),
        "slots": slots,
        "state": method.state,
        "initial": method.initial,
        "before": None if before is None else _before_state(before),
    }


def _before_state(before: Before) -> dict[str, Any]:
    filled = {name: {slot: t for slot, t in slots.items() if t is not None} for name, slots in before.slots.items()}
    return {"state": before.state, "tensors": before.tensors, "slots": filled}


def load_learner_state(method: Method, state: Mapping[str, Any], records: Mapping[str, TaskRecord]) -> None:
    """Bring a fresh method to a saved state; see ``Method.load_state_dict``."""
    missing = [name for name in state["finished"] if name not in records]
    if missing:
        raise ValueError(f"expected a record of every finished task, found none for {', '.join(missing)}")
    sites = method.sites
    if (own := set(sites.names("private"))) != set(state["initial"]):
        raise ValueError(
            f"expected {min(own ^ set(state['initial']))!r} to have the role under which the finished tasks were "
            "learned, found another: they go on answering from their bank, but learn new tasks in a new folder, "
            "or with the polymask and the network that the bank was made with"
        )
    state = placed(sites, state, next(method.model.parameters(), torch.zeros(())).device)
    method.records = {name: records[name] for name in state["finished"]}
    for name in state["frozen"]:
        sites.freeze(name)
    for name, value in state["tensors"].items():
        sites.put(name, value)
    method.state = {key: dict(value) for key, value in state["state"].items()}
    method.initial = dict(state["initial"])
    if state["task"] is not None:
        method.task, method.phase, sites.opened = state["task"], state["phase"], set(state["opened"])
        method._open(state["phase"], None)
    sites.opened = set(state["opened"])
    for name, held in state["slots"].items():
        _put_slots(sites.every()[name], held)
    for name, value in state["tensors"].items():
        sites.restore(name, value)
    method.state = {key: dict(value) for key, value in state["state"].items()}
    if state["task"] is not None:
        before = state["before"]
        slots = {name: {slot: held.get(slot) for slot in ("mask", "delta")} for name, held in before["slots"].items()}
        method._before = Before(before["state"], before["tensors"], slots)
        let_train(method)
    method.steps = state["steps"]


def placed(sites: Sites, value: Any, device: torch.device, named: bool = False) -> Any:
    """A state on the model's devices: what is under a tensor's name lies where that tensor does; a file does not know.

    Args:
        sites: the model's.
        value: a tensor, a mapping of values, or anything else, which stays.
        device: of what is under no tensor's name.
        named: whether it already is under one; then its keys are slots.
    """
    if isinstance(value, Tensor):
        return value.to(device)
    if not isinstance(value, Mapping):
        return value
    found = {}
    for key, item in value.items():
        home = not named and key in sites.roles
        found[key] = placed(sites, item, sites.tensor(key).device if home else device, named or home)
    return found


@torch.no_grad()
def _put_slots(site: WeightSite | FeatureSite, held: Mapping[str, Tensor]) -> None:
    for slot in SLOTS if isinstance(site, WeightSite) else ("mask",):
        fill(site, slot, held.get(slot))
    if isinstance(site.source, Scores) and "scores" in held:
        site.source.scores.copy_(held["scores"])


def without_base(state: Mapping[str, Any]) -> dict[str, Any]:
    """A learner's state between two tasks less what a bank's base and records hold; the rest goes on from those.

    Raises:
        ValueError: if a task is open.
    """
    if state["task"] is not None:
        raise ValueError(f"expected no open task, found {state['task']!r}: only a whole state can go on from it")
    return {**state, "tensors": {}, "slots": {}}


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's values, where there are several; as bytes, since not every kind is sent."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for tensor in tensors:
            values = tensor.detach().contiguous()
            torch.distributed.broadcast(values.view(-1).view(torch.uint8), 0)
            tensor.detach().copy_(values)
