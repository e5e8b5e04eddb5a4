"""Cross-check a wiring: mask at random, overwrite all that should then not matter, and see what it answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from polymask.wiring.case import Case
from polymask.wiring.paint import PaintedCopy
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
class Violations:
    """What a network did that it should not do.

    Args:
        layers: those past whose masks something reached the output.
        inputs: under which it did, beside those that were asked.
    """

    layers: set[str] = field(default_factory=set)
    inputs: list[Any] = field(default_factory=list)


@torch.no_grad()
def cross_check(
    wiring: Wiring,
    network: PaintedCopy,
    ask_again: Callable[[Violations], Wiring | None] = lambda _: None,
    brief: bool = False,
) -> Wiring:
    """The wiring, if a network behaves as it says; else with every layer that does not left conservative.

    Under each pattern, what should arrive as zero is looked at, and every entry of a weight or bias that no task with
    these masks would read is drawn anew, layer by layer only if all together change the logits. Paint of NaN cannot
    see through ``nan_to_num`` or an argmax; this can.

    Args:
        wiring: what was found.
        network: the perturbed copy of the network; its weights change.
        ask_again: finds the wiring again under inputs that proved it wrong; None if there is nothing new to ask.
        brief: whether it was cross-checked at length, in vain, for another network of the same build.
    """
    if not wiring.sites:
        return wiring
    shared = _shared(network.model)
    violations = _violations(wiring, network, shared, brief)
    if violations.layers and brief:
        violations = _violations(wiring, network, shared)
    for _ in range(ROUNDS):
        other = ask_again(violations) if violations.layers else None
        if other is None:
            break
        wiring, violations = other, _violations(other, network, shared)
    if violations.layers:
        leaking = ", ".join(sorted(violations.layers))
        warnings.warn(
            f"masked units were seen to reach the output past what was found of {leaking}: "
            "these layers freeze whole once a task has learned them. Is there a nan_to_num, an argmax or a table "
            "lookup between layers?",
            stacklevel=3,
        )
    wiring = _left_conservative(wiring, shared, "its weight or bias has another name too")
    return _left_conservative(wiring, violations.layers, "masked units reach the output on a path that was not found")


def _violations(wiring: Wiring, network: PaintedCopy, shared: set[str], brief: bool = False) -> Violations:
    """What a network does under random masks and many inputs that the wiring does not say."""
    violations, readers = Violations(), {reader for reader in wiring.feeds if reader not in wiring.echoes}
    patterns = LEAST if brief else max(LEAST, min(MOST, UNITS // max(sum(wiring.sizes.values()), 1)))
    turns = sum(setting.often for setting in network.inputs.space.settings)
    for place in range(patterns):
        network.redraw()
        masks = _masks(wiring, network, DENSITIES[place % 4], whole=place % 4 > 2)
        case = Case(wiring, network, masks, {*wiring.rows, *readers} - violations.layers - shared)
        # Of many patterns, every other one under unlike inputs alone.
        if patterns < MANY or place % 2 == 0 or not case.run_others(1):
            case.run_known()
            case.run_others(min(OTHERS, -(-turns // patterns)) if patterns < MANY else 0)
        leaks = case.leaks()
        if leaks and not case.known:
            case.run_known()
            leaks = case.leaks()
        for layer, places in leaks.items():
            violations.layers.add(layer)
            if not case.known & places:
                violations.inputs += [case.inputs[place] for place in places][: max(0, FEW - len(violations.inputs))]
    return violations


def _left_conservative(wiring: Wiring, layers: set[str], why: str) -> Wiring:
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


def _masks(wiring: Wiring, network: PaintedCopy, density: float, whole: bool) -> dict[str, Tensor]:
    """Random masks; some sites wholly shut or wholly open, if asked for."""
    masks = {site: torch.rand(size, generator=network.draw) < density for site, size in wiring.sizes.items()}
    for mask in masks.values() if whole else ():
        fate = float(torch.rand((), generator=network.draw))
        mask.fill_(False) if fate < 0.3 else mask.fill_(True) if fate > 0.7 else None
    return masks
