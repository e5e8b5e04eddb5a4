"""Doubt a wiring: mask at random, overwrite all that should then not matter, and see whether the network answers so."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from polymask.wiring.probe import Probe
from polymask.wiring.table import Wiring

PATTERNS = 4
"""Random masks, half of the units open: what a hidden path lets through shows in one of them all but surely."""


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
    guilty: set[str] = set()
    for _ in range(PATTERNS):
        probe.redraw()
        masks = {s: torch.rand(n, generator=probe.draw) < 0.5 for s, n in wiring.sizes.items()}
        layers = sorted({*wiring.rows, *(reader for reader in wiring.feeds if reader not in wiring.echoes)} - guilty)
        if not _silent(wiring, probe, masks, layers):
            guilty.update(layer for layer in layers if not _silent(wiring, probe, masks, [layer]))
    if not guilty:
        return wiring
    warnings.warn(
        f"masked units were seen to reach the output past what was found of {', '.join(sorted(guilty))}: these layers "
        "freeze whole once a task has learned them. Is there a nan_to_num, an argmax or a table lookup between layers?",
        stacklevel=2,
    )
    return replace(
        wiring,
        rows={layer: site for layer, site in wiring.rows.items() if layer not in guilty},
        free={reader: free | torch.tensor(reader in guilty) for reader, free in wiring.free.items()},
        notes={**wiring.notes, **dict.fromkeys(guilty, "masked units reach the output on a path that was not found")},
    )


def _silent(wiring: Wiring, probe: Probe, masks: dict[str, Tensor], layers: list[str]) -> bool:
    """Whether the entries that are not live may be anything."""
    values = {name: mask.float() for name, mask in {**masks, **wiring.echoed(masks)}.items()}
    before, _ = probe.run(values)
    tensors = dict(probe.model.named_parameters())
    names = [f"{layer}.{leaf}".lstrip(".") for layer in layers for leaf in ("weight", "bias")]
    kept = {name: tensors[name].clone() for name in names if name in tensors}
    for name, was in kept.items():
        live = wiring.ends(name, was.shape, masks, True)
        noise = torch.randn(was.shape, generator=probe.draw).to(was.dtype)
        tensors[name].copy_(torch.where(live, was, noise))
    after, _ = probe.run(values)
    for name, was in kept.items():
        tensors[name].copy_(was)
    return torch.equal(before, after)
