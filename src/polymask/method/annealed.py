"""Annealed gates on units, as HAT and its kin learn them: open a task's, anneal them, say how far they are taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial

import torch
from torch import Tensor, nn

from polymask.method.contract import Method
from polymask.parts.seeds import generator
from polymask.sites.roles import Plan
from polymask.sites.slots import Annealed, Echo
from polymask.sites.table import Kind, unsharded
from polymask.wiring import Wiring, ask

EDGE = 6.0
"""Embeddings are kept within it, or they could not come back (Serra et al. 2018, section 2.4)."""

Draw = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True)
class Anneal:
    """How the gates of units are annealed over an epoch.

    Args:
        largest: the largest scale ``s_max``; the gradient is that of ``s_max sigmoid(e)``.
        smallest: the scale at the epoch's start; None: ``1 / s_max``.
        power: how the scale rises, ``smallest + (largest - smallest) * progress^power``.
        edge: embeddings are kept within it, or they could not come back.
    """

    largest: float
    smallest: float | None = None
    power: float = 1.0
    edge: float = EDGE

    def scale(self, progress: float) -> float:
        """The scale at a place in the epoch.

        >>> Anneal(400.0).scale(0.0), Anneal(400.0).scale(1.0), Anneal(100.0, 3.0, 2.0).scale(0.5)
        (0.0025, 400.0, 27.25)
        """
        start = 1 / self.largest if self.smallest is None else self.smallest
        return start + (self.largest - start) * math.pow(progress, self.power)


def normal(size: int, draw: torch.Generator) -> Tensor:
    """Embeddings from N(0, 1)."""
    return torch.randn(size, generator=draw)


def positive(size: int, draw: torch.Generator) -> Tensor:
    """Embeddings from U(0, 2): every unit starts in use."""
    return 2 * torch.rand(size, generator=draw)


def find_wiring(method: Method, planned: Plan, *kinds: Kind) -> Wiring:
    """Ask a method's network which units can be masked, of the layers whose weights have these roles.

    Where ``masked=`` names weights, the units of their layers alone.
    """
    names = [name for name, role in planned.roles.items() if role.kind in (kinds or ("masked",))]
    wiring = ask(method.model, method.example, planned.head, names, planned.later)
    patterns = method.policy.masked
    if patterns is None:
        return wiring
    rows = {layer: site for layer, site in wiring.rows.items() if any(fnmatch(f"{layer}.weight", p) for p in patterns)}
    return wiring.only({*rows.values()})


def linear_layers(model: nn.Module, planned: Plan) -> dict[str, int]:
    """The linear layers whose weight is masked, with how many units each has."""
    modules = dict(model.named_modules())
    paths = [name.removesuffix(".weight") for name, role in planned.roles.items() if role.kind == "masked"]
    return {path: one.out_features for path in paths if isinstance(one := modules.get(path), nn.Linear)}


def zeros_per_unit(method: Method) -> dict[str, Tensor]:
    """A zero for every unit of every site."""
    like = next(method.model.parameters())
    sizes = method.sites.wiring.sizes.items()
    return {site: torch.zeros(size, dtype=like.dtype.to_real(), device=like.device) for site, size in sizes}


def open_gates(method: Method, s_max: float, soft: bool = False, draw: Draw = normal) -> None:
    """Give every site of the open task an embedding, and let every norm that echoes one follow it."""
    wiring = method.sites.wiring
    sources = {}
    for site, size in wiring.sizes.items():
        embedding = draw(size, generator(method.seed, str(method.task), site, "scores"))
        sources[site] = Annealed(embedding, s_max, soft)
        method.give_scores(site, sources[site])
    for norm in wiring.echoes:
        method.sites.units[norm].source = Echo(partial(wiring.per_column, norm, always=1.0), sources)


def gates(method: Method) -> dict[str, Annealed]:
    """Site -> its gates, while a task is open."""
    every = method.sites.units.items()
    return {site: unit.source for site, unit in every if isinstance(unit.source, Annealed)}


@torch.no_grad()
def anneal(method: Method, how: Anneal, progress: float) -> None:
    """Set every gate's scale, and keep the embeddings within their edge."""
    for source in gates(method).values():
        source.scale.fill_(how.scale(progress))
        # Behind autograd's back, as an optimizer's step is.
        source.scores.data.clamp_(-how.edge, how.edge)


def gates_and_usage(method: Method, union: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Site -> its gates now, and how far earlier tasks have used its units: what ``capacity_penalty`` reads."""
    return {
        site: (unsharded(source.gate()).to(union[site].dtype), union[site]) for site, source in gates(method).items()
    }


def capacity_of(union: Mapping[str, Tensor], used: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """What ``Method.capacity`` reports, from the units in use and how far each entry of a weight is taken, 0 to 1.

    "size" is what Serra et al. 2018 (section 4.4) call the compressed network: the share of its masked weights and
    biases that tasks use.
    """
    taken = sum(float(one.float().sum()) for one in used.values())
    size = {"read": taken / max(sum(one.numel() for one in used.values()), 1)}
    units = {site: float(share.float().mean()) for site, share in union.items()}
    return {"size": size, "units": units, "free": {name: float((1 - one.float()).mean()) for name, one in used.items()}}


def per_entry(method: Method, name: str, values: Mapping[str, Tensor], always: float) -> Tensor:
    """``Wiring.per_entry`` in the shape of the tensor itself, and in its dtype, or the real one of a complex tensor."""
    tensor = method.sites.tensor(name)
    found = method.sites.wiring.per_entry(name, tensor.shape, values, always)
    return found.to(tensor.device, tensor.dtype.to_real()).expand(tensor.shape)


def with_task(
    method: Method, state: Mapping[str, Mapping[str, Tensor]], hard: Mapping[str, Tensor], unions: bool = False
) -> dict[str, dict[str, Tensor]]:
    """What is in use with one more task: "union", of units; "used", of the entries of weights and biases.

    Args:
        method: the learner.
        state: the same before.
        hard: site -> the mask of the task; of others nothing is looked at.
        unions: whether an entry is in use between any two units in use, or between two that one task uses.
    """
    masks = {site: hard[site].to(old) for site, old in state["union"].items()}
    union = {site: torch.maximum(old, masks[site]) for site, old in state["union"].items()}
    read = union if unions else masks
    used = {name: torch.maximum(old, per_entry(method, name, read, 1.0)) for name, old in state["used"].items()}
    return {"union": union, "used": used}
