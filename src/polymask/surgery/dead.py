"""Which units of a network can go: those that a mask shuts, and that nothing still in use is added to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from polymask.wiring import Wiring
from polymask.wiring.table import ANY

Flags = dict[str, Tensor]


@dataclass(frozen=True)
class Removal:
    """What goes.

    Args:
        units: site, or norm that is masked again -> which of its units, bool.
        columns: reader -> which of its columns, bool.
        left: site -> why none of its dead units goes.
    """

    units: Mapping[str, Tensor] = field(default_factory=dict)
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)

    def count(self, sites: Collection[str]) -> int:
        """How many units of these sites go."""
        return sum(int(gone.sum()) for site, gone in self.units.items() if site in sites)


def dead_units(wiring: Wiring, masks: Mapping[str, Tensor]) -> Flags:
    """Which units a task's masks shut: exactly 0, for a gate that is a small number is in use. All else is in use.

    Args:
        wiring: of the network.
        masks: site -> mask, bool or real; a site without one is in use.

    >>> dead_units(Wiring({"a": -1}, {"a": 2}), {"a": torch.tensor([0.0, 1e-6])})
    {'a': tensor([ True, False])}
    """
    sizes = wiring.sizes.items()
    return {site: masks[site] == 0 if site in masks else torch.zeros(n, dtype=torch.bool) for site, n in sizes}


def removable(wiring: Wiring, modules: Mapping[str, nn.Module], dead: Mapping[str, Tensor]) -> Removal:
    """The largest set of dead units that can go together.

    A unit goes if every column that it feeds goes; a column goes if all that feed it go. So of a residual sum a unit
    goes where it is dead in all summands. With a channel of a norm that is masked again goes the one behind it, and
    with a column of a depthwise convolution its row. That is a fixed point: starting from all dead units, what would
    leave something halved comes back until nothing does. One unit of every layer stays.

    Args:
        wiring: of the network.
        modules: of the network, by name.
        dead: site -> which of its units are dead.
    """
    left = {site: why for site, gone in dead.items() if gone.any() and (why := _unfit(wiring, modules, site))}
    units: Flags = {site: torch.zeros_like(gone) if site in left else gone.clone() for site, gone in dead.items()}
    units |= {echo: torch.ones(len(wiring.free[echo]), dtype=torch.bool) for echo in wiring.echoes}
    before = -1
    while (now := sum(int(gone.sum()) for gone in units.values())) != before:
        before = now
        columns = {reader: _columns(wiring, modules, reader, units) for reader in wiring.feeds}
        for source, gone in units.items():
            gone &= _unread(wiring, source, columns)
            if gone.all():
                gone[0] = False
    return Removal(units, columns, left)


def _unfit(wiring: Wiring, modules: Mapping[str, nn.Module], site: str) -> str:
    """Why a site's units cannot be taken out, whatever is masked; "" if they can."""
    layers = [layer for layer, source in wiring.rows.items() if source == site]
    if not layers:
        return "its rows were not found"
    for path in {site, *layers}:
        if wiring.groups.get(path, 1) > 1 and not _is_depthwise(modules[path]):
            return f"{path!r} is a grouped convolution"
        own = [
            leaf for leaf, t in (*modules[path]._parameters.items(), *modules[path]._buffers.items()) if t is not None
        ]
        if other := sorted({*own} - _KNOWN):
            return f"{path!r} has a tensor {other[0]!r} of its own"
    return ""


_KNOWN = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
"""The tensors of layers and norms that have a row for every unit, or none at all."""


def _columns(wiring: Wiring, modules: Mapping[str, nn.Module], reader: str, units: Mapping[str, Tensor]) -> Tensor:
    """The columns of a reader that go: fed by something, and by nothing that stays."""
    goes, fed = ~wiring.free[reader].bool(), torch.zeros(len(wiring.free[reader]), dtype=torch.bool)
    for feed in wiring.feeds[reader]:
        own = feed.units >= 0
        fed |= own
        goes &= torch.where(own, units[feed.site][feed.units.clamp(min=0)], feed.units != ANY)
    goes &= fed
    if reader in wiring.echoes:
        # One that normalises across its channels would answer otherwise with fewer of them.
        return goes & units[reader] & isinstance(modules[reader], nn.modules.batchnorm._NormBase)
    if wiring.groups.get(reader, 1) > 1:
        rows = units.get(wiring.rows.get(reader, ""))
        return goes & rows if rows is not None and _is_depthwise(modules[reader]) else torch.zeros_like(goes)
    return goes


def _unread(wiring: Wiring, source: str, columns: Mapping[str, Tensor]) -> Tensor:
    """The units of a site or norm all of whose columns go; one of which no column is known is read somewhere."""
    size = wiring.sizes.get(source, len(wiring.free.get(source, ())))
    stay, go = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
    # Where units arrive mixed, it is mostly after a layer that reads each of them; if there is none, a trial tells.
    for reader, feeds in wiring.feeds.items():
        for feed in feeds:
            if feed.site == source:
                own = feed.units >= 0
                stay[feed.units[own & ~columns[reader]]] = True
                go[feed.units[own & columns[reader]]] = True
    if source in wiring.echoes:
        go &= columns[source]
    for layer, site in wiring.rows.items():
        if site == source and wiring.groups.get(layer, 1) > 1:
            own = columns.get(layer, stay)
            go &= own if own.shape == go.shape else torch.zeros_like(go)
    return go & ~stay


def _is_depthwise(module: nn.Module) -> bool:
    """Whether every channel of a convolution is computed from the same channel of its input alone."""
    one = isinstance(module, nn.modules.conv._ConvNd) and module.groups == module.in_channels == module.out_channels
    return bool(one)
