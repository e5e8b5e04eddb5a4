"""Where masks meet a network: the table of its sites and roles, attached and taken off again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polymask.copies.kept import copy_memo, refresh_caches, twin
from polymask.parts.gate import hold
from polymask.sites.marks import Latch, held, is_marked
from polymask.sites.slots import FeatureSite, WeightSite, fill
from polymask.sites.trace import Place, add_units, effective, places, strip
from polymask.wiring.table import Wiring

Kind = Literal["masked", "private", "frozen", "first", "shared"]
BASE: tuple[Kind, ...] = ("masked", "frozen", "first", "shared")
"""The roles whose tensors all tasks share: what a bank keeps once."""
STATISTIC = "a norm's statistics"
"""Why a norm's statistics have their role; where they are frozen, their norm stays in evaluation mode."""
MOVES = "changes in forward"
MOVES_ALONE = f"{MOVES}, and by nothing else"
"""Why a tensor is private: no optimizer is offered the latter."""
HEAD = "the head"
"""Why the tensors of a head have the role that they have."""


@dataclass(frozen=True)
class Role:
    """What one tensor of the model is for.

    Args:
        kind: "masked": read under a mask; "private": swapped whole per task; "frozen": never learns; "first": learned
            with the first task, then frozen; "shared": goes on learning (finished tasks are not protected from it).
        why: one phrase, printed beside it.
        held: the value at which a method holds the tensor, if it holds it at one.
    """

    kind: Kind
    why: str
    held: float | None = None


@dataclass
class Sites:
    """The table of a model's sites and roles; made by ``attach``.

    Args:
        model: the attached model.
        roles: tensor name -> role, in the model's own order; a tied tensor stands under its first name.
        weights: name -> site of every masked weight.
        units: module name -> site of every layer whose units are masked.
        opened: the masked weights that learn at the moment.
        built: tensor name -> the shape that the network is built with, whatever it has grown to since.
        wiring: which unit feeds which column; empty where no method asked.
        latch: whether a task is open.
    """

    model: nn.Module
    roles: dict[str, Role]
    weights: dict[str, WeightSite] = field(default_factory=dict)
    units: dict[str, FeatureSite] = field(default_factory=dict)
    opened: set[str] = field(default_factory=set)
    built: dict[str, torch.Size] = field(default_factory=dict)
    wiring: Wiring = field(default_factory=Wiring)
    latch: Latch = field(default_factory=Latch)
    _places: dict[str, list[Place]] = field(default_factory=dict)

    def every(self) -> dict[str, WeightSite | FeatureSite]:
        """All sites: name of the weight, or of the module whose units are masked -> site."""
        return {**self.weights, **self.units}

    def is_open(self) -> bool:
        """Whether a task is in training: weights learn, or scores make a mask."""
        return bool(self.opened) or any(site.source is not None for site in self.every().values())

    def names(self, *kinds: Kind) -> list[str]:
        """The tensors of these roles, in the model's order."""
        return [name for name, role in self.roles.items() if role.kind in kinds]

    def inside(self, path: str) -> list[str]:
        """The tensors that stand in a module itself, those tied to other modules too."""
        module = self.model.get_submodule(path)
        return [name for name in self.roles if any(place.module is module for place in self._places[name])]

    def clear(self) -> None:
        """Take every mask, correction and score off; their memory stays with whoever noted it."""
        self.opened = set()
        for site in self.every().values():
            site.mask = site.source = None
        for weight in self.weights.values():
            weight.delta = None

    def spots(self, name: str) -> list[Place]:
        """The places where a tensor stands."""
        return self._places[name]

    def loose(self) -> dict[str, Tensor]:
        """The tensors that have no role and are still there: constants that are not stored with the network."""
        return {n: spots[0].tensor() for n, spots in self._places.items() if n not in self.roles and spots[0].is_there}

    def is_tied(self, name: str) -> bool:
        """Whether a tensor stands in more than one place."""
        return len(self._places[name]) > 1

    def tensor(self, name: str) -> Tensor:
        """The live tensor behind a name: for a masked weight the one that trains, unmasked."""
        if name not in self._places:
            raise KeyError(f"expected the name of a tensor of the model, found {name!r}")
        return self._places[name][0].tensor()

    @torch.no_grad()
    def base(self, name: str) -> Tensor:
        """The base that the masks of a tensor select from: ``hold(kept, w, gate)``, or the tensor itself."""
        site, w = self.weights.get(name), self.tensor(name)
        if site is None or site.gate is None or site.kept is None:
            return w.detach()
        if site.gate.ndim == 0 and not site.gate:
            return site.kept
        return hold(site.kept, w, site.gate)

    @torch.no_grad()
    def write(self, name: str, value: Tensor) -> None:
        """Write a tensor's value, ``kept`` too, which finished tasks read; a new shape takes a new tensor."""
        old, site = self.tensor(name), self.weights.get(name)
        if site is not None and site.kept is not None:
            fill(site, "kept", value.detach().to(old.device, old.dtype))
        if old.shape == value.shape:
            old.copy_(value)
            return
        value = value.detach().to(old.device, old.dtype, copy=True)
        new = nn.Parameter(value) if isinstance(old, nn.Parameter) else value
        for place in self._places[name]:
            place.replace(new)

    @torch.no_grad()
    def write_trained(self, name: str, value: Tensor) -> None:
        """Write only what trains; ``kept``, and so what finished tasks read, stays, against ``write``."""
        self.tensor(name).copy_(value)

    @torch.no_grad()
    def open_gate(self, name: str, gate: Tensor | None) -> None:
        """Let a shut weight learn where the gate is open (None: everywhere); what it was stays in ``kept``."""
        site, w = self.weights[name], self.tensor(name)
        if site.kept is None:
            site.kept = w.detach().clone()
        else:
            w.copy_(site.kept)
        fill(site, "gate", gate)
        site.rate = None
        self.opened.add(name)

    @torch.no_grad()
    def narrow_gate(self, name: str, gate: Tensor, mask: Tensor) -> None:
        """Close part of an open gate, read the weight under a mask; unlike ``open_gate`` what it learned stays."""
        site = self.weights[name]
        fill(site, "mask", mask)
        if gate.any():
            fill(site, "gate", gate)
        else:
            self.opened.discard(name)
            fill(site, "gate", torch.zeros((), dtype=torch.bool, device=gate.device))

    @torch.no_grad()
    def keep_learned(self, name: str) -> None:
        """Shut an open weight's gate with what it learned in ``kept``, out of reach of every later step."""
        site, w = self.weights[name], self.tensor(name)
        self.opened.discard(name)
        site.rate = None
        if isinstance(w, nn.Parameter):
            w.copy_(self.base(name))
            fill(site, "kept", w.detach())
            fill(site, "gate", torch.zeros((), dtype=torch.bool, device=w.device))

    @torch.no_grad()
    def drop_learned(self, name: str) -> None:
        """Shut an open weight's gate without what it learned: back to ``kept``, against ``keep_learned``."""
        site, w = self.weights[name], self.tensor(name)
        self.opened.discard(name)
        site.rate = None
        if isinstance(w, nn.Parameter) and site.kept is not None:
            w.copy_(site.kept)
            fill(site, "gate", torch.zeros((), dtype=torch.bool, device=w.device))

    def freeze(self, name: str) -> None:
        """Turn a parameter into a buffer, out of the reach of every optimizer and of ``requires_grad_(True)``."""
        # A copy: an optimizer that still holds the parameter writes to the parameter's memory.
        value, site, role = self.base(name).clone(), self.weights.get(name), self.roles[name]
        for place in self._places[name]:
            place.freeze(value)
            if role.kind in ("frozen", "first") and role.why == STATISTIC:
                place.seal()
        if site is not None:
            site.kept = site.gate = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Sites:
        memo.update(copy_memo(self.model))
        memo[id(self)] = new = object.__new__(Sites)
        new.__dict__ = copy.deepcopy(self.__dict__, memo)
        return new


def replica(sites: Sites) -> Sites:
    """A copy with a network of its own, to make tasks active on and nothing else: what weights keep is shared."""
    kept = [t for site in sites.weights.values() for t in (site.kept, site.gate) if t is not None]
    return copy.deepcopy(sites, {id(t): t for t in kept})


def unsharded(tensor: Tensor) -> Tensor:
    """A tensor in one piece: gathered, differentiably, if its model is sharded; for penalties, which read weights.

    >>> unsharded(torch.ones(1))
    tensor([1.])
    """
    gathered: Tensor = tensor.full_tensor() if type(tensor).__name__ == "DTensor" else tensor  # type: ignore[attr-defined]
    return gathered


def attach(
    model: nn.Module,
    roles: Mapping[str, Role],
    units: Mapping[str, int] | None = None,
    wiring: Wiring | None = None,
) -> Sites:
    """Put sites on a model, in place: masked weights get a ``WeightSite``, frozen tensors become buffers.

    The model keeps its classes' behaviour, its ``state_dict`` keys and its ties; ``detach`` undoes all of it.

    Args:
        model: any module; changed in place.
        roles: a role for every parameter, and for the buffers that are not constants, under their first names.
        units: module name -> axis of the units, for layers whose units are masked.
        wiring: what those units feed, where that is known.

    Raises:
        ValueError: if a trainable tensor has no role, or the model is attached already.

    >>> net = nn.Linear(2, 2)
    >>> sites = attach(net, {"weight": Role("masked", "a matrix"), "bias": Role("frozen", "a bias")})
    >>> sites.weights["weight"].mask = torch.tensor([[True, False], [False, True]])
    >>> int((net.weight != 0).sum()), [name for name, _ in net.named_parameters()], list(net.state_dict())
    (2, ['parametrizations.weight.original'], ['weight', 'bias'])
    >>> detach(net) is net, [name for name, _ in net.named_parameters()]
    (True, ['weight', 'bias'])
    """
    if any(is_marked(module) for module in model.modules()):
        raise ValueError("expected a plain model, found one with sites: detach() it first")
    where = places(model)
    missing = [name for name, spots in where.items() if name not in roles and spots[0].trains]
    if missing:
        raise ValueError(f"expected a role for every trainable tensor, found none for {', '.join(missing)}")
    known = {name: roles[name] for name in where if name in roles}
    built = {name: where[name][0].tensor().shape for name in known}
    sites = Sites(model, known, built=built, wiring=wiring or Wiring(), _places=where)
    for name, role in sites.roles.items():
        for place in where[name]:
            place.mark(name, sites.latch)
        if role.kind == "masked":
            sites.weights[name] = site = WeightSite()
            for place in where[name]:
                place.parametrize(site)
        elif role.kind == "frozen" or role.why == MOVES_ALONE:
            sites.freeze(name)
    for name, axis in (units or {}).items():
        sites.units[name] = add_units(model.get_submodule(name), axis)
    return sites


def detach(model: nn.Module) -> nn.Module:
    """Take every site off, in place: the user's classes, keys and parameters, holding the learned base.

    Private tensors keep the values of the task that was active. The model is returned for convenience.
    """
    with refresh_caches(model):
        strip(model, held)
    return model


def bake(model: nn.Module) -> nn.Module:
    """A plain copy in evaluation mode that computes what the attached model computes for its active task.

    The copy has the user's classes and keys and no trace of masks; the original goes on working.

    >>> net = nn.Linear(2, 1, bias=False)
    >>> sites = attach(net, {"weight": Role("masked", "a matrix")})
    >>> sites.weights["weight"].mask = torch.tensor([[True, False]])
    >>> plain = bake(net)
    >>> type(plain) is nn.Linear, plain.weight[0, 1].item()
    (True, 0.0)
    """
    # What the sites hold is read once more and goes with them.
    plain = twin(model, [t for site in model.modules() if isinstance(site, WeightSite) for t in site.buffers()])
    with refresh_caches(plain):
        strip(plain, effective)
    plain.eval()
    return plain
