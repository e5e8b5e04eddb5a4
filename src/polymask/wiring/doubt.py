"""Doubt a wiring: mask at random, overwrite all that should then not matter, and see whether the network answers so."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from polymask.wiring.probe import Probe
from polymask.wiring.table import Wiring

DENSITIES = (0.5, 0.2, 0.8, 0.5)
"""How many units are open in each pattern; what a hidden path lets through shows in one of them all but surely."""
LEAST, MOST, UNITS = 4, 48, 4096
"""How many patterns: the fewer units a network has, the more, as a narrow layer is often wholly shut."""
POOL = 1 << 16


@torch.no_grad()
def doubted(wiring: Wiring, probe: Probe) -> Wiring:
    """The wiring, if a network behaves as it says; else with every layer that does not left conservative.

    Under each pattern every entry of a weight or bias that no task with these masks would read is drawn anew, layer by
    layer only if all together change the logits. Paint of NaN cannot see through ``nan_to_num`` or an argmax; this can.

    Args:
        wiring: what was found.
        probe: the perturbed copy of the network; its weights change.
    """
    if not wiring.sites:
        return wiring
    shared = _shared(probe.model)
    guilty: set[str] = set()
    readers = {reader for reader in wiring.feeds if reader not in wiring.echoes}
    for place in range(max(LEAST, min(MOST, UNITS // sum(wiring.sizes.values())))):
        probe.redraw()
        masks = _masks(wiring, probe, DENSITIES[place % 4], whole=place % 4 > 2)
        layers = sorted({*wiring.rows, *readers} - guilty - shared)
        if not _silent(wiring, probe, masks, layers):
            guilty.update(layer for layer in layers if not _silent(wiring, probe, masks, [layer]))
            if not _silent(wiring, probe, masks, sorted({*layers} - guilty)):
                guilty.update(layers)
    if guilty:
        warnings.warn(
            f"masked units were seen to reach the output past what was found of {', '.join(sorted(guilty))}: these "
            "layers freeze whole once a task has learned them. Is there a nan_to_num, an argmax or a table lookup "
            "between layers?",
            stacklevel=3,
        )
    wiring = _spared(wiring, shared, "its weight or bias has another name too")
    return _spared(wiring, guilty, "masked units reach the output on a path that was not found")


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


def _silent(wiring: Wiring, probe: Probe, masks: dict[str, Tensor], layers: Iterable[str]) -> bool:
    """Whether the entries that are not live may be anything."""
    values = {name: mask.float() for name, mask in {**masks, **wiring.echoed(masks)}.items()}
    before, _ = probe.run(values)
    tensors = dict(probe.model.named_parameters())
    names = [f"{layer}.{leaf}".lstrip(".") for layer in layers for leaf in ("weight", "bias")]
    kept = {name: tensors[name].clone() for name in names if name in tensors}
    pool = torch.randn(POOL, generator=probe.draw)
    for name, was in kept.items():
        live = wiring.ends(name, was.shape, masks, True)
        noise = pool.repeat(-(-was.numel() // POOL))[: was.numel()].view(was.shape).to(was.dtype)
        tensors[name].copy_(torch.where(live, tensors[name], noise * tensors[name].std(correction=0).clamp(min=0.1)))
    after, _ = probe.run(values)
    for name, was in reversed(kept.items()):
        tensors[name].copy_(was)
    return torch.equal(before, after)
