"""Doubt a wiring: mask at random, overwrite all that should then not matter, and see whether the network answers so."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from polymask.wiring.inputs import REFUSED
from polymask.wiring.probe import Probe, axis_of, disturbing
from polymask.wiring.table import Wiring

DENSITIES = (0.5, 0.2, 0.8, 0.5)
"""How many units are open in each pattern; what a hidden path lets through shows in one of them all but surely."""
LEAST, MOST, UNITS = 4, 48, 4096
"""How many patterns: the fewer units a network has, the more, as a narrow layer is often wholly shut."""
POOL = 1 << 16
OTHERS, ROUNDS, MANY = 3, 2, 4
"""Under each pattern, how many inputs beside those that were asked; how often a network is asked anew, and under how
many inputs that proved the wiring wrong."""


@dataclass
class Guilt:
    """What a network did that it should not do.

    Args:
        layers: those past whose masks something reached the output.
        inputs: under which it did, beside those that were asked.
    """

    layers: set[str] = field(default_factory=set)
    inputs: list[Any] = field(default_factory=list)


@torch.no_grad()
def doubted(wiring: Wiring, probe: Probe, anew: Callable[[Guilt], Wiring | None] = lambda _: None) -> Wiring:
    """The wiring, if a network behaves as it says; else with every layer that does not left conservative.

    Under each pattern, what should arrive as zero is looked at, and every entry of a weight or bias that no task with
    these masks would read is drawn anew, layer by layer only if all together change the logits. Paint of NaN cannot
    see through ``nan_to_num`` or an argmax; this can.

    Args:
        wiring: what was found.
        probe: the perturbed copy of the network; its weights change.
        anew: finds the wiring again under inputs that proved it wrong; None if there is nothing new to ask.
    """
    if not wiring.sites:
        return wiring
    shared = _shared(probe.model)
    guilt = _guilt(wiring, probe, shared)
    for _ in range(ROUNDS):
        other = anew(guilt) if guilt.layers else None
        if other is None:
            break
        wiring, guilt = other, _guilt(other, probe, shared)
    if guilt.layers:
        warnings.warn(
            f"masked units were seen to reach the output past what was found of {', '.join(sorted(guilt.layers))}: "
            "these layers freeze whole once a task has learned them. Is there a nan_to_num, an argmax or a table "
            "lookup between layers?",
            stacklevel=3,
        )
    wiring = _spared(wiring, shared, "its weight or bias has another name too")
    return _spared(wiring, guilt.layers, "masked units reach the output on a path that was not found")


def _guilt(wiring: Wiring, probe: Probe, shared: set[str]) -> Guilt:
    """What a network does under random masks and various inputs that the wiring does not say."""
    guilt, readers = Guilt(), {reader for reader in wiring.feeds if reader not in wiring.echoes}
    patterns = max(LEAST, min(MOST, UNITS // max(sum(wiring.sizes.values()), 1)))
    turns = sum(setting.often for setting in probe.inputs.taken.settings)
    for place in range(patterns):
        probe.redraw()
        masks = _masks(wiring, probe, DENSITIES[place % 4], whole=place % 4 > 2)
        layers = {*wiring.rows, *readers} - guilt.layers - shared
        case = _Case(wiring, probe, masks, [*layers])
        case.ask(min(OTHERS, -(-turns // patterns)))
        told = [case.arriving(layer) for layer in layers if layer in readers]
        changed = case.changed([*layers])
        if changed:
            alone = {layer: case.changed([layer], changed) for layer in layers}
            told += [*alone.items()]
            rest = [layer for layer in layers if not alone[layer]]
            told += [(layer, changed) for layer in rest if case.changed(rest, changed)]
        for layer, inputs in told:
            guilt.layers.update({layer} if inputs else ())
            new = [case.inputs[place] for place in inputs if min(inputs) >= case.known]
            guilt.inputs += new[: max(0, MANY - len(guilt.inputs))]
    return guilt


def _spared(wiring: Wiring, layers: set[str], why: str) -> Wiring:
    """The wiring with some layers left conservative."""
    notes = {layer: why for layer in sorted(layers) if layer in wiring.rows or layer in wiring.feeds}
    return replace(
        wiring,
        rows={layer: site for layer, site in wiring.rows.items() if layer not in layers},
        free={reader: free | torch.tensor(reader in layers) for reader, free in wiring.free.items()},
        notes={**wiring.notes, **notes},
    )


def _shared(model: nn.Module) -> set[str]:
    """The modules of which some parameter is another module's as well."""
    owners: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(name)
    return {name.rpartition(".")[0] for names in owners.values() if len(names) > 1 for name in names}


def _masks(wiring: Wiring, probe: Probe, density: float, whole: bool) -> dict[str, Tensor]:
    """Random masks; some sites wholly shut or wholly open, if asked for."""
    masks = {site: torch.rand(size, generator=probe.draw) < density for site, size in wiring.sizes.items()}
    for mask in masks.values() if whole else ():
        fate = float(torch.rand((), generator=probe.draw))
        mask.fill_(False) if fate < 0.3 else mask.fill_(True) if fate > 0.7 else None
    return masks


class _Case:
    """One draw of a network with one pattern of masks, and what it answers to some inputs.

    Args:
        wiring: what is said of it.
        probe: the network.
        masks: the pattern.
        layers: those whose columns are looked at.
    """

    def __init__(self, wiring: Wiring, probe: Probe, masks: dict[str, Tensor], layers: list[str]) -> None:
        self.wiring, self.probe, self.masks = wiring, probe, masks
        self.values = {name: mask.float() for name, mask in {**masks, **wiring.echoed(masks)}.items()}
        self.look = {layer: axis_of(probe.modules[layer]) for layer in layers if layer in wiring.feeds}
        self.inputs: list[Any] = []
        self.answers: list[tuple[Tensor, dict[str, Tensor]]] = []
        self.known = len(probe.asked)

    def ask(self, others: int) -> None:
        """Answer to all inputs under which paint was followed, and to some others."""
        found = [(x, self._run(x)) for x in self.probe.asked]
        more = [self.probe.inputs.another(self._run) for _ in range(others)]
        for x, answer in (*found, *filter(None, more)):
            self.inputs.append(x)
            self.answers.append(answer)

    def _run(self, x: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return self.probe.run(self.values, self.look, disturbing, x=x)

    def arriving(self, layer: str) -> tuple[str, list[int]]:
        """The inputs under which something arrives at a column of a layer that should be zero."""
        dead = ~self.wiring.columns(layer, self.masks, True).bool()
        return layer, [
            place for place, (_, seen) in enumerate(self.answers) if layer in seen and _any(seen[layer], dead)
        ]

    def changed(self, layers: Collection[str], places: Collection[int] | None = None) -> list[int]:
        """The inputs whose logits change when the entries of these layers that are not live are drawn anew."""
        places = range(len(self.inputs)) if places is None else places
        tensors = dict(self.probe.model.named_parameters())
        names = [f"{layer}.{leaf}".lstrip(".") for layer in sorted(layers) for leaf in ("weight", "bias")]
        kept = {name: tensors[name].data for name in names if name in tensors}
        pool = torch.randn(POOL, generator=self.probe.draw)
        for name, was in kept.items():
            live = self.wiring.ends(name, was.shape, self.masks, True)
            noise = pool.repeat(-(-was.numel() // POOL))[: was.numel()].view(was.shape).to(was.dtype)
            tensors[name].data = torch.where(live, was, noise.mul_(was.std(correction=0).clamp(min=0.1)))
        found = [place for place in places if not self._same(place)]
        for name, was in kept.items():
            tensors[name].data = was
        return found

    def _same(self, place: int) -> bool:
        before, _ = self.answers[place]
        try:
            after, _ = self.probe.run(self.values, x=self.inputs[place])
        except REFUSED:
            return False
        return before.shape == after.shape and bool(((before == after) | (before.isnan() & after.isnan())).all())


def _any(seen: Tensor, dead: Tensor) -> bool:
    return seen.shape != dead.shape or bool((seen & dead).any())
