"""Take out of a plain network the units that a task's masks shut: a smaller network with the same answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polymask.calling import REFUSALS, as_read, call, logits_of
from polymask.copies.kept import refresh_caches, twin
from polymask.probe import rounding
from polymask.sites.slots import has_rows
from polymask.sites.trace import places
from polymask.surgery.dead import Flags, Removal, dead_units, removable
from polymask.wiring import Wiring
from polymask.wiring.paint import PaintedCopy

DRAWS, TRIALS = 8, 3
"""Inputs under which a smaller network must answer as the whole one; draws of parameters under which it must, too."""


@dataclass(frozen=True)
class Pruned:
    """A smaller network, and what became of the dead units.

    Args:
        network: plain, in evaluation mode.
        dead: how many units the masks shut.
        gone: how many of them were taken out.
        units: how many there were.
        left: site -> why its dead units stay, where that is not for what they are added to.
    """

    network: nn.Module
    dead: int
    gone: int
    units: int
    left: Mapping[str, str] = field(default_factory=dict)


def prune(plain: nn.Module, example: Any, wiring: Wiring, masks: Mapping[str, Tensor]) -> Pruned:
    """Take out the units that are dead under masks: their rows, and the columns that read them.

    What the wiring does not tell stays: units that mix, or whose zero does not arrive as a zero. The smaller network is
    tried in double precision on inputs like the example and unlike it, and must answer as the whole one, within
    rounding; layers whose units fail that stay as wide as they are.

    Args:
        plain: the network of a task, its masks multiplied in; it stays as it is.
        example: an input that it accepts.
        wiring: which unit feeds which column.
        masks: site -> the task's mask, bool or real; a gate that is not exactly 0 stays, as the factor that it is.

    >>> from polymask.wiring import ask
    >>> net, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(5, 4)
    >>> wiring, mask = ask(net, x, "2", ["0.weight"]), torch.tensor([True, False, True])
    >>> _ = net[0].weight.data.mul_(mask[:, None]), net[0].bias.data.mul_(mask)
    >>> small = prune(net, x, wiring, {"0": mask})
    >>> small.network[0], small.gone, torch.allclose(small.network(x), net(x))
    (Linear(in_features=4, out_features=2, bias=True), 1, True)
    """
    modules, dead = dict(plain.named_modules()), dead_units(wiring, masks)
    shut = sum(int(gone.sum()) for gone in dead.values())
    found = removable(wiring, modules, dead)
    left = {**found.left, **_tied(plain, found, wiring)}
    found = removable(wiring, modules, _without(dead, left))
    if found.count(wiring.sizes):
        trial = _Trial(plain, example, wiring, masks)
        if trial.differs(found):
            for group in _groups(wiring):
                alone = removable(wiring, modules, _without(dead, {*dead} - group | {*left}))
                if alone.count(wiring.sizes) and (why := trial.differs(alone)):
                    left |= {site: why for site in group if dead[site].any()}
            found = removable(wiring, modules, _without(dead, left))
            if why := trial.differs(found):
                left |= {site: why for site, gone in dead.items() if gone.any()}
                found = Removal()
    gone = found.count(wiring.sizes)
    return Pruned(_cut(plain, wiring, found).eval(), shut, gone, sum(wiring.sizes.values()), left)


def _without(dead: Flags, sites: Mapping[str, str] | set[str]) -> Flags:
    return {site: torch.zeros_like(gone) if site in sites else gone for site, gone in dead.items()}


def _groups(wiring: Wiring) -> list[set[str]]:
    """The sites in groups whose units go together, or one after the other through what reads them."""
    group = {site: {site} for site in (*wiring.sites, *wiring.echoes)}
    for reader, feeds in wiring.feeds.items():
        grouped = wiring.groups.get(reader, 1) > 1
        tied = (
            [reader] if reader in wiring.echoes else [wiring.rows[reader]] if grouped and reader in wiring.rows else []
        )
        together = [*tied, *(feed.site for feed in feeds if (feed.units >= 0).any())]
        whole: set[str] = set().union(*(group[source] for source in together))
        group.update(dict.fromkeys(whole, whole))
    found = {id(sources): sources & {*wiring.sites} for sources in group.values()}
    return [sites for sites in found.values() if sites]


def _tied(plain: nn.Module, found: Removal, wiring: Wiring) -> dict[str, str]:
    """The sites that a tensor with another place in the network has to do with."""
    where, left = places(plain), {}
    shared = {name for name, spots in where.items() if len(spots) > 1}
    twice = {id(spot.module) for name in shared for spot in where[name]}
    odd = {path for path, module in plain.named_modules() if id(module) in twice}
    for site in found.units:
        readers = {reader for reader, feeds in wiring.feeds.items() if any(feed.site == site for feed in feeds)}
        layers = {layer for layer, source in wiring.rows.items() if source == site}
        if other := sorted(odd & {site, *layers, *readers}):
            left[site] = f"a tensor of {other[0]!r} is tied to another module"
    return left


def _cut(plain: nn.Module, wiring: Wiring, removal: Removal) -> nn.Module:
    """A copy without these rows and columns."""
    small = twin(plain)
    rows = dict(removal.units) | {
        layer: removal.units[site] for layer, site in wiring.rows.items() if site in removal.units
    }
    with refresh_caches(small):
        for name, spots in places(small).items():
            path, tensor = name.rpartition(".")[0], spots[0].tensor()
            grouped = wiring.groups.get(path, 1) > 1
            value = _kept(tensor, 0, rows.get(path))
            if path not in wiring.echoes and not grouped:
                value = _kept(value, 1, removal.columns.get(path))
            if value is not tensor:
                if grouped:
                    spots[0].module.__dict__["groups"] = len(value)
                spots[0].replace(nn.Parameter(value, tensor.requires_grad) if spots[0].trains else value)
    return small


def _kept(tensor: Tensor, axis: int, gone: Tensor | None) -> Tensor:
    """What is left of a tensor along an axis; the tensor itself, if nothing goes."""
    if gone is None or not gone.any() or tensor.ndim <= axis:
        return tensor
    return tensor.detach().index_select(axis, (~gone).nonzero().flatten().to(tensor.device)).contiguous()


class _Trial:
    """What a smaller network must answer like the whole one under: the network itself, and draws of its parameters.

    Where units rest by accident, or a maximum happens to pass them over, only other parameters show that they count.

    Args:
        plain: the network.
        example: an input that it accepts.
        wiring: which unit feeds which column.
        masks: site -> the task's mask.
    """

    def __init__(self, plain: nn.Module, example: Any, wiring: Wiring, masks: Mapping[str, Tensor]) -> None:
        self.plain, self.wiring = plain, wiring
        self.masks = {**masks, **wiring.echo_masks({site: masks[site] for site in wiring.sites if site in masks})}
        self.drawn = PaintedCopy(plain, example)
        self.inputs = [example, *self.drawn.followed_inputs, *_drawn(self.drawn, DRAWS)]
        # A network may insist on its own precision.
        self.double = any(_answer(twin(plain).double(), x) is not None for x in self.inputs)

    def differs(self, removal: Removal) -> str:
        """Why the network without these units does not answer as it did; "" if it does."""
        why = self._differs(self.plain, removal, self.inputs)
        for _ in range(TRIALS):
            self.drawn.redraw()
            model = twin(self.drawn.model)
            _shut(model, self.wiring, self.masks)
            why = why or self._differs(model, removal, [*_drawn(self.drawn, 2)])
        return why

    def _differs(self, model: nn.Module, removal: Removal, inputs: Iterable[Any]) -> str:
        whole = twin(model).double() if self.double else twin(model)
        small, asked = _cut(whole, self.wiring, removal), False
        for x in inputs:
            before = _answer(whole, x)
            if before is None:
                continue
            after, asked = _answer(small, x), True
            if after is None:
                return "the network does not run with fewer of its units"
            if after.shape != before.shape or not (after - before).abs().max() <= rounding(before, ""):
                return "the network answers otherwise without them"
        return "" if asked else "the network refuses every input that was drawn like the example"


@torch.no_grad()
def _shut(model: nn.Module, wiring: Wiring, masks: Mapping[str, Tensor]) -> None:
    """Multiply masks into the rows that they shut, in place."""
    paths = {layer: masks[site] for layer, site in wiring.rows.items() if site in masks} | dict(masks)
    for path, mask in paths.items():
        for tensor in model.get_submodule(path).parameters(recurse=False):
            if has_rows(tensor, len(mask)):
                tensor.mul_(mask.to(tensor).view(-1, *[1] * (tensor.ndim - 1)))


@torch.no_grad()
def _answer(model: nn.Module, x: Any) -> Tensor | None:
    """The logits of an input; None if it is refused, or answered by what is no number."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            logits = logits_of(call(model, as_read(model, x)))
    except REFUSALS:
        return None
    return logits if logits.isfinite().all() else None


def _drawn(network: PaintedCopy, count: int) -> Iterator[Any]:
    """Inputs like the example and unlike it, that the network accepts.

    Yields:
        One after the other.
    """
    for scale in (1.0, 10.0, 0.1):
        yield network.inputs.base(scale)
    for _ in range(count):
        if found := network.inputs.next_accepted(lambda x: logits_of(call(network.model, x))):
            yield found[0]
