"""Which tensor of a network plays which role: the policies of a method, applied to what the forward really reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any, Literal

from torch import Tensor, nn

from polymask.sites.foreign import refuse_foreign
from polymask.sites.plugs import plugged
from polymask.sites.read import EMBEDDINGS, Read, find_head, read_tensors, refuse_past
from polymask.sites.state import Moving, moving
from polymask.sites.table import HEAD, MOVES, MOVES_ALONE, STATISTIC, Kind, Role
from polymask.sites.trace import Place, can_seal, places
from polymask.wiring.other_paths import other_paths

Norms = Literal["frozen", "private", "first", "statistics", "shared", "masked"]
Biases = Literal["frozen", "private", "first", "none", "shared", "masked"]
Heads = Literal["private", "masked"]

_HELD_AT_0 = Role("frozen", "held at 0", held=0.0)
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""What norms call their statistics; by another name, they are known by their changes in a forward."""


@dataclass(frozen=True)
class Policy:
    """What a method does with the tensors of a network, kind by kind.

    Args:
        weights: matrix and kernel weights: "masked", or for a baseline "private", "frozen" or "shared".
        others: embeddings, positions and whatever else is neither weight, norm, bias nor head.
        norms: "statistics" holds the affine part at 1 and 0 and keeps the running statistics per task; "masked" puts
            a site on the affine part and keeps the statistics per task.
        biases: "none" holds them at 0; "masked" puts a site on each, so that it may be gated like its unit.
        heads: "private": a head of its own per task; "masked": one head, masked like any weight, its width given.
        masked: patterns (``layer*.weight``) of the weights to mask; None: all that qualify, of a network with adapters
            those in them.
        named: pattern of tensors -> their role, whatever they are, but in the head; the first that matches counts.
    """

    weights: Kind
    others: Kind
    norms: Norms
    biases: Biases
    heads: Heads = "private"
    masked: Sequence[str] | None = None
    named: Mapping[str, Kind] = field(default_factory=dict)

    def said_of(self, name: str) -> Kind | None:
        """The role that ``named`` gives a tensor."""
        return next((kind for pattern, kind in self.named.items() if fnmatch(name, pattern)), None)


@dataclass(frozen=True)
class Plan:
    """What becomes of a network's tensors.

    Args:
        roles: tensor -> role.
        head: the name of the module that is its head.
        later: buffers that a forward changes -> what they may look like later.
        others: inputs under which it takes other paths than under the example.
    """

    roles: dict[str, Role]
    head: str
    later: Mapping[str, Tensor] = field(default_factory=dict)
    others: Sequence[Any] = ()


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises: by its class's name, which covers torch, timm and transformers alike."""
    return any("Norm" in cls.__name__ for cls in type(module).__mro__)


def is_weight(place: Place) -> bool:
    """Whether a matrix or kernel weight stands here: a parameter of two axes or more, called a weight."""
    return place.trains and place.tensor().ndim >= 2 and "weight" in place.leaf and not is_norm(place.module)


def plan(model: nn.Module, example: Any, policy: Policy, head: str | None = None) -> Plan:
    """Give every parameter and every buffer of a model its role; of buffers in no state dict, those that move.

    Args:
        model: a plain model.
        example: an input it accepts: a tensor, a tuple of arguments or a mapping of keyword arguments.
        policy: the method's policies.
        head: the name of the head module; None: found, as the last weight read before the output.

    Raises:
        ValueError: if the example does not pass, no weight can be masked, a weight that was asked for is never read,
            the head cannot be found, the model carries a weight or spectral norm, or an answer depends on more than
            its parameters, its buffers and its input.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> policy = Policy(weights="masked", others="frozen", norms="frozen", biases="first")
    >>> {name: role.kind for name, role in plan(net, torch.zeros(1, 4), policy).roles.items()}
    {'0.weight': 'masked', '0.bias': 'first', '2.weight': 'private', '2.bias': 'private'}
    """
    where, weights, found, head_name, others = _survey(model, example, head)
    patterns = policy.masked or [f"{name}.*" for name in plugged(model)] or None
    wanted, moves = _match_masked(patterns, weights, found.order), moving(model, example, others)
    roles = {}
    for name, spots in where.items():
        role = _role(name, spots, policy, found.order, wanted, model.get_submodule(head_name), moves)
        if role is not None:
            role = _frozen_if_given(role, spots, model.get_submodule(head_name))
        role = _private_if_moving(role, name, spots, moves)
        if role is not None:
            roles[name] = role
    refuse_past([name for name in found.past if roles[name].kind in ("masked", "frozen", "first")])
    if policy.weights == "masked" and not any(role.kind == "masked" for role in roles.values()):
        raise ValueError(
            "expected a model with at least one matrix or kernel weight before its head, found none to mask: "
            "name weights with masked=, or use another method"
        )
    return Plan(roles, head_name, moves.later, others)


def head_of(model: nn.Module, example: Any, head: str | None = None) -> str:
    """The name of the module that is a model's head; see ``plan``."""
    return _survey(model, example, head)[3]


def _survey(
    model: nn.Module, example: Any, head: str | None
) -> tuple[dict[str, list[Place]], list[str], Read, str, list[Any]]:
    """Where every tensor stands, the weights, what a forward reads, the head, and inputs that take other paths."""
    refuse_foreign(model)
    where = places(model)
    weights = [name for name, spots in where.items() if any(is_weight(spot) for spot in spots)]
    others = other_paths(model, example)
    found = read_tensors(model, example, [name for name, spots in where.items() if spots[0].trains], others)
    read = found.order
    refuse_past([name for name in found.past if name not in read])
    head_name = head or find_head(model, where, [name for name in read if name in weights], found.width)
    if head_name not in dict(model.named_modules()):
        raise ValueError(f"expected head= to name a module of the model, found {head!r}")
    own = model.get_submodule(head_name)
    inner = [name.rpartition(".")[0] for name in read if name in weights and name.startswith(f"{head_name}.")]
    if not any(parameter is not None for parameter in own._parameters.values()):
        within = f": take the last one in it, {inner[-1]!r}" if inner else ", and none in it"
        raise ValueError(f"expected head= to name a layer with weights, found {head_name!r} without its own{within}")
    return where, weights, found, head_name, others


def _role(
    name: str,
    spots: list[Place],
    policy: Policy,
    read: list[str],
    wanted: set[str] | None,
    head: nn.Module,
    moves: Moving,
) -> Role | None:
    place = spots[0]
    if place.trains and name not in read:
        return Role("frozen", "no forward reads it")
    if place.trains and not place.tensor().numel():
        return Role("frozen", "it has no entries")
    embedded = any(isinstance(spot.module, EMBEDDINGS) for spot in spots)
    in_head = any(spot.module is head for spot in spots)
    if in_head and not embedded:
        return _head_role(place, policy)
    if (said := policy.said_of(name)) is not None and place.trains:
        return Role(said, "named")
    if any(is_norm(spot.module) for spot in spots):
        return _norm_role(place, policy.norms, _is_statistic(name, spots, moves))
    if not place.trains:
        return None if place.leaf in place.module._non_persistent_buffers_set else Role("frozen", "a constant")
    return _parameter_role(name, spots, policy, wanted, embedded)


def _parameter_role(name: str, spots: list[Place], policy: Policy, wanted: set[str] | None, embedded: bool) -> Role:
    """The role of a parameter that is read, neither in the head nor in a norm."""
    if any(is_weight(spot) for spot in spots):
        if wanted is not None and name not in wanted:
            return Role(policy.others if policy.weights == "masked" else policy.weights, "not among masked=")
        if embedded and wanted is None:
            return Role(policy.others, "an embedding" if len(spots) == 1 else "tied to an embedding")
        return Role(
            policy.weights, "a matrix or kernel weight" + ("" if len(spots) == 1 else ", one site for its ties")
        )
    if "bias" in spots[0].leaf:
        return _HELD_AT_0 if policy.biases == "none" else Role(policy.biases, "a bias")
    return Role(policy.others, "neither weight, norm nor bias")


def _frozen_if_given(role: Role, spots: list[Place], head: nn.Module) -> Role:
    """The role, but frozen where the network came with the parameter frozen; masked weights and heads are ours."""
    place, ours = spots[0], any(spot.module is head for spot in spots)
    if role.kind == "masked":
        ours = ours or any(is_weight(spot) for spot in spots)
    if role.kind != "frozen" and not ours and place.trains and not place.tensor().requires_grad:
        return Role("frozen", "frozen when given")
    return role


def _head_role(place: Place, policy: Policy) -> Role:
    if policy.heads == "private":
        return Role("private", HEAD)
    if is_weight(place):
        return Role("masked", "the head, one for all tasks")
    return _HELD_AT_0 if "bias" in place.leaf else Role("frozen", HEAD)


def _is_statistic(name: str, spots: list[Place], moves: Moving) -> bool:
    """Whether a norm's statistic stands here: a buffer that training changes, or one that is called as torch's are."""
    known = name in moves.training or spots[0].leaf in STATISTICS
    return known and not spots[0].trains and any(is_norm(spot.module) for spot in spots)


def _private_if_moving(role: Role | None, name: str, spots: list[Place], moves: Moving) -> Role | None:
    """The role, but private where a forward changes the tensor; a norm's mode can keep its statistics from that."""
    place, kind = spots[0], None if role is None else role.kind
    if kind == "private" and not place.trains:
        return role
    if _is_statistic(name, spots, moves):
        if name not in moves.evaluation and (kind == "shared" or all(can_seal(spot.module) for spot in spots)):
            return role
    elif name not in moves.training | moves.evaluation or (role is not None and role.why == HEAD):
        return role
    learns = not place.trains or (kind in ("masked", "private", "first", "shared") and place.tensor().requires_grad)
    return Role("private", MOVES if learns else MOVES_ALONE)


def _norm_role(place: Place, norms: Norms, statistic: bool) -> Role:
    if norms == "statistics":
        if statistic:
            return Role("private", STATISTIC)
        return _HELD_AT_0 if "bias" in place.leaf else Role("frozen", "held at 1", held=1.0)
    if norms == "masked" and statistic:
        return Role("private", STATISTIC)
    return Role(norms, STATISTIC if statistic else "a norm's affine part")


def _match_masked(patterns: Sequence[str] | None, weights: list[str], read: list[str]) -> set[str] | None:
    if patterns is None:
        return None
    found = set()
    for pattern in patterns:
        hits = [name for name in weights if fnmatch(name, pattern)]
        if not hits:
            raise ValueError(
                f"expected masked= to match a weight, found none for {pattern!r} among {', '.join(weights)}"
            )
        unread = [name for name in hits if name not in read]
        if unread:
            raise ValueError(
                f"expected every masked weight to be read in a forward, in train and in eval mode; never read: "
                f"{', '.join(unread)}. Leave it out of masked=, or mask a weight that the network uses"
            )
        found.update(hits)
    return found
