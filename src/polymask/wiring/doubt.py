"""Doubt a wiring: mask at random, overwrite all that should then not matter, and see whether the network answers so."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from polymask.wiring.case import Case
from polymask.wiring.probe import Probe
from polymask.wiring.table import Wiring

DENSITIES = (0.5, 0.2, 0.8, 0.5)
"""How many units are open in each pattern; what a hidden path lets through shows in one of them all but surely."""
LEAST, MOST, UNITS = 4, 48, 4096
"""How many patterns: the fewer units a network has, the more, as a narrow layer is often wholly shut."""
MANY, OTHERS = 16, 3
"""From how many patterns on each has few inputs; of fewer, how many beside those under which paint was followed."""
ROUNDS, FEW = 2, 4
"""How often a network is asked anew, and under how many inputs that proved the wiring wrong."""


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
def doubted(
    wiring: Wiring, probe: Probe, anew: Callable[[Guilt], Wiring | None] = lambda _: None, brief: bool = False
) -> Wiring:
    """The wiring, if a network behaves as it says; else with every layer that does not left conservative.

    Under each pattern, what should arrive as zero is looked at, and every entry of a weight or bias that no task with
    these masks would read is drawn anew, layer by layer only if all together change the logits. Paint of NaN cannot
    see through ``nan_to_num`` or an argmax; this can.

    Args:
        wiring: what was found.
        probe: the perturbed copy of the network; its weights change.
        anew: finds the wiring again under inputs that proved it wrong; None if there is nothing new to ask.
        brief: whether it was doubted at length, in vain, for another network of the same build.
    """
    if not wiring.sites:
        return wiring
    shared = _shared(probe.model)
    guilt = _guilt(wiring, probe, shared, brief)
    if guilt.layers and brief:
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


def _guilt(wiring: Wiring, probe: Probe, shared: set[str], brief: bool = False) -> Guilt:
    """What a network does under random masks and various inputs that the wiring does not say."""
    guilt, readers = Guilt(), {reader for reader in wiring.feeds if reader not in wiring.echoes}
    patterns = LEAST if brief else max(LEAST, min(MOST, UNITS // max(sum(wiring.sizes.values()), 1)))
    turns = sum(setting.often for setting in probe.inputs.taken.settings)
    for place in range(patterns):
        probe.redraw()
        masks = _masks(wiring, probe, DENSITIES[place % 4], whole=place % 4 > 2)
        case = Case(wiring, probe, masks, {*wiring.rows, *readers} - guilt.layers - shared)
        # Of many patterns, every other one under unlike inputs alone.
        if patterns < MANY or place % 2 == 0 or not case.ask_others(1):
            case.ask_known()
            case.ask_others(min(OTHERS, -(-turns // patterns)) if patterns < MANY else 0)
        told = case.told()
        if told and not case.known:
            case.ask_known()
            told = case.told()
        for layer, places in told.items():
            guilt.layers.add(layer)
            if not case.known & places:
                guilt.inputs += [case.inputs[place] for place in places][: max(0, FEW - len(guilt.inputs))]
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
