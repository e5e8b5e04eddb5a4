"""One draw of a network under one pattern of masks: what it answers, and whether what is not live may be anything."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor

from polymask.wiring.inputs import REFUSED
from polymask.wiring.paint import PaintedCopy, axis_of, nonzero_number_columns
from polymask.wiring.table import Wiring

POOL = 1 << 16


class Case:
    """One draw of a network with one pattern of masks.

    Args:
        wiring: what is said of it.
        network: its painted copy; its weights change, and change back.
        masks: the pattern.
        layers: those that are cross-checked.
    """

    def __init__(self, wiring: Wiring, network: PaintedCopy, masks: dict[str, Tensor], layers: Iterable[str]) -> None:
        self.wiring, self.network, self.masks, self.layers = wiring, network, masks, sorted(layers)
        self.values = {name: mask.float() for name, mask in {**masks, **wiring.echo_masks(masks)}.items()}
        self.look = {layer: axis_of(network.modules[layer]) for layer in self.layers if layer in wiring.feeds}
        self.inputs: list[Any] = []
        self.known: set[int] = set()
        self._answers: list[tuple[Tensor, dict[str, Tensor]]] = []

    def run_known(self) -> None:
        """Answer to all inputs under which paint was followed."""
        for x in self.network.followed_inputs:
            self.known.add(len(self.inputs))
            self.inputs.append(x)
            self._answers.append(self._run(x))

    def run_others(self, count: int) -> bool:
        """Answer to some other inputs; whether the network took any."""
        for x, answer in filter(None, [self.network.inputs.next_accepted(self._run) for _ in range(count)]):
            self.inputs.append(x)
            self._answers.append(answer)
        return len(self.inputs) > len(self.known)

    def leaks(self) -> dict[str, set[int]]:
        """Layer -> the inputs under which something passes its masks."""
        found = {layer: self._arriving(layer) for layer in self.look}
        if changed := self._changed(self.layers, range(len(self.inputs))):
            alone = {layer: self._changed([layer], changed) for layer in self.layers}
            rest = [layer for layer in self.layers if not alone[layer]]
            together = self._changed(rest, changed)
            for layer in self.layers:
                found[layer] = found.get(layer, set()) | (alone[layer] or together)
        return {layer: places for layer, places in found.items() if places}

    def _run(self, x: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return self.network.run(self.values, self.look, nonzero_number_columns, x=x)

    def _arriving(self, layer: str) -> set[int]:
        """The inputs under which something arrives at a column of a layer that should be zero."""
        dead = ~self.wiring.per_column(layer, self.masks, True).bool()
        seen = [arrived.get(layer) for _, arrived in self._answers]
        return {
            place for place, at in enumerate(seen) if at is not None and (at.shape != dead.shape or (at & dead).any())
        }

    def _changed(self, layers: Collection[str], places: Iterable[int]) -> set[int]:
        """The inputs whose logits change when the entries of these layers that are not live are drawn anew."""
        tensors = dict(self.network.model.named_parameters())
        names = [f"{layer}.{leaf}".lstrip(".") for layer in layers for leaf in ("weight", "bias")]
        kept = {name: tensors[name].data for name in names if name in tensors}
        largest = max((was.numel() for was in kept.values()), default=0)
        pool = torch.randn(min(largest, POOL), generator=self.network.draw)
        for name, was in kept.items():
            live = self.wiring.per_entry(name, was.shape, self.masks, True)
            noise = pool if was.numel() <= POOL else pool.repeat(-(-was.numel() // POOL))
            noise = noise[: was.numel()].view(was.shape).to(was.dtype)
            tensors[name].data = torch.where(live, was, noise * was.std(correction=0).clamp(min=0.1))
        found = {place for place in places if not self._same(place)}
        for name, was in kept.items():
            tensors[name].data = was
        return found

    def _same(self, place: int) -> bool:
        before, _ = self._answers[place]
        try:
            after, _ = self.network.run(self.values, x=self.inputs[place])
        except REFUSED:
            return False
        return before.shape == after.shape and bool(((before == after) | (before.isnan() & after.isnan())).all())
