"""A learner's state as data: taken at any moment, brought back into a fresh learner."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from polymask.method.cycle import let_train
from polymask.method.snapshot import SLOTS, Before
from polymask.sites.slots import FeatureSite, Scores, WeightSite, fill
from polymask.sites.table import Sites
from polymask.task import TaskRecord

if TYPE_CHECKING:
    from polymask.method.contract import Method


def learner_state(method: Method) -> dict[str, Any]:
    """Everything that the learner needs to go on, as nested mappings of tensors and JSON values."""
    sites, before = method.sites, method._before
    slots: dict[str, dict[str, Tensor]] = {}
    for name, site in sites.every().items():
        held: dict[str, Tensor] = {slot: getattr(site, slot) for slot in SLOTS if getattr(site, slot, None) is not None}
        if isinstance(site.source, Scores):
            held |= {own: value.detach() for own, value in site.source.state_dict().items()}
        slots[name] = held
    return {
        "task": method.task,
        "phase": method.phase,
        "steps": method.steps,
        "finished": list(method.records),
        "count": method.count,
        "tensors": {name: sites.tensor(name).detach() for name in sites.roles},
        "frozen": [name for name in sites.names("masked") if not isinstance(sites.tensor(name), nn.Parameter)]
        + (sites.names("first") if method.count else []),
        "opened": sorted(sites.opened),
        "slots": slots,
        "state": method.state,
        "initial": method.initial,
        "before": None if before is None else _before_state(before),
    }


def _before_state(before: Before) -> dict[str, Any]:
    filled = {name: {slot: t for slot, t in slots.items() if t is not None} for name, slots in before.slots.items()}
    return {"state": before.state, "tensors": before.tensors, "slots": filled}


def load_learner_state(
    method: Method, state: Mapping[str, Any], records: Mapping[str, TaskRecord], removed: Collection[str]
) -> None:
    """Bring a fresh method to a saved state; see ``Method.load_state_dict``."""
    _check_state(method, state, records, removed)
    sites = method.sites
    state = on_devices(sites, state, next(method.model.parameters(), torch.zeros(())).device)
    method.records = {name: records[name] for name in state["finished"] if name in records}
    method.count = state.get("count", len(state["finished"]))
    for name in state["frozen"]:
        sites.freeze(name)
    for name, value in state["tensors"].items():
        sites.write(name, value)
    method.state = {key: dict(value) for key, value in state["state"].items()}
    method.initial = dict(state["initial"])
    if state["task"] is not None:
        method.task, method.phase, sites.opened = state["task"], state["phase"], set(state["opened"])
        method._open(state["phase"], None)
    sites.opened = set(state["opened"])
    for name, held in state["slots"].items():
        _put_slots(sites.every()[name], held)
    for name, value in state["tensors"].items():
        sites.write_trained(name, value)
    method.state = {key: dict(value) for key, value in state["state"].items()}
    if state["task"] is not None:
        before = state["before"]
        slots = {name: {slot: held.get(slot) for slot in ("mask", "delta")} for name, held in before["slots"].items()}
        method._before = Before(before["state"], before["tensors"], slots)
        let_train(method)
    elif method.count > len(method.records):
        method._forget()
    method.steps = state["steps"]


def _check_state(
    method: Method, state: Mapping[str, Any], records: Mapping[str, TaskRecord], removed: Collection[str]
) -> None:
    """Raise unless a state is of these records and of a network with these roles."""
    gone = [name for name in state["finished"] if name not in records]
    if missing := [name for name in gone if name not in removed]:
        raise ValueError(f"expected a record of every finished task, found none for {', '.join(missing)}")
    if gone and state["task"] is not None:
        raise ValueError(
            f"expected a state between two tasks, found {state['task']!r} open in one that still knows of "
            f"{', '.join(gone)}, which was removed since: learn {state['task']!r} from its start"
        )
    if (own := set(method.sites.names("private"))) != set(state["initial"]):
        raise ValueError(
            f"expected {min(own ^ set(state['initial']))!r} to have the role under which the finished tasks were "
            "learned, found another: they go on answering from their bank, but learn new tasks in a new folder, "
            "or with the polymask and the network that the bank was made with"
        )


def follow_device(method: Method) -> None:
    """Bring what a method keeps between tasks to where its network is now: it may have been moved since."""
    device = next(method.model.parameters(), torch.zeros(())).device
    method.state = on_devices(method.sites, method.state, device)
    method.initial = on_devices(method.sites, method.initial, device)


def on_devices(sites: Sites, value: Any, device: torch.device, named: bool = False) -> Any:
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
        found[key] = on_devices(sites, item, sites.tensor(key).device if home else device, named or home)
    return found


@torch.no_grad()
def _put_slots(site: WeightSite | FeatureSite, held: Mapping[str, Tensor]) -> None:
    for slot in SLOTS if isinstance(site, WeightSite) else ("mask",):
        fill(site, slot, held.get(slot))
    if isinstance(site.source, Scores):
        for own, value in site.source.state_dict().items():
            if own in held:
                value.copy_(held[own])


def without_base(state: Mapping[str, Any]) -> dict[str, Any]:
    """A learner's state between two tasks less what a bank's base and records hold; the rest goes on from those.

    Raises:
        ValueError: if a task is open.
    """
    if state["task"] is not None:
        raise ValueError(f"expected no open task, found {state['task']!r}: only a whole state can go on from it")
    return {**state, "tensors": {}, "slots": {}}
