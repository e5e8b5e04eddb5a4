"""A task's network made smaller: the units that its masks shut taken out; sizes and times before and after."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import nn

from polymask.calling import as_read, call
from polymask.parts.pack import unpack
from polymask.probe import run_probe
from polymask.sites.table import BASE, Sites
from polymask.surgery import prune
from polymask.task import TaskRecord

ROUNDS, SECONDS = 25, 3.0
"""How often both networks are run in turn for their times, and after how long no more."""


@dataclass(frozen=True)
class Smaller:
    """What pruning did.

    Args:
        network: plain, in evaluation mode.
        about: as JSON: units, parameters and milliseconds, before and after.
        lines: the same in words.
    """

    network: nn.Module
    about: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()


def smaller(plain: nn.Module, sites: Sites, record: TaskRecord, batch: Any) -> Smaller:
    """Take out the units that a task's masks shut.

    Args:
        plain: the task's network.
        sites: the attached network.
        record: the task.
        batch: an input of the network, which is timed with it too.

    Raises:
        ValueError: if the task has no masks on units.
    """
    masks = {name: unpack(record.masks[name]) for name in sites.wiring.sites if name in record.masks}
    if not masks:
        if any(packed.codec == "block" for packed in record.masks.values()):
            return _already(plain, sites)
        raise ValueError(
            f"expected masks on units to take out, found task {record.meta.task!r} of {record.meta.method}, which "
            f"masks {'single weights' if record.masks else 'nothing'}: its network keeps its shape, leave --prune out"
        )
    found = prune(plain, batch, sites.wiring, masks)
    before, after = times(plain, found.network, as_read(plain, batch))
    sizes, rows = (count(plain), count(found.network)), len(run_probe(plain, as_read(plain, batch)))
    lines = [
        f"units: {found.gone} of {found.units} taken out ({found.dead} are shut)",
        f"parameters: {sizes[0]:,} -> {sizes[1]:,} ({sizes[1] / max(sizes[0], 1):.2f})",
        f"time: {before:.3g} -> {after:.3g} ms a batch of {rows} (torch, {torch.get_num_threads()} thread(s), median)",
        *(f"left as wide as it is: {site!r}, {why}" for site, why in found.left.items()),
    ]
    units = {"units": found.units, "shut": found.dead, "taken_out": found.gone, "left": dict(found.left)}
    about = {**units, "parameters": list(sizes), "milliseconds": [round(before, 4), round(after, 4)], "rows": rows}
    return Smaller(found.network, about, tuple(lines))


def _already(plain: nn.Module, sites: Sites) -> Smaller:
    """A task that reads the leading block of every weight is baked as narrow as it was learned."""
    shared = {name for name, _ in plain.named_parameters()} & {*sites.names(*BASE)}
    whole = sum(sites.base(name).numel() for name in shared)
    own = sum(plain.get_parameter(name).numel() for name in shared)
    line = (
        f"shared parameters: {whole:,} -> {own:,} ({own / max(whole, 1):.2f}): the task is as narrow as it was "
        "learned, with no unit to take out"
    )
    return Smaller(plain, {"shared_parameters": [whole, own]}, (line,))


def count(network: nn.Module) -> int:
    """How many parameters a network has.

    >>> count(nn.Linear(2, 3))
    9
    """
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def times(before: nn.Module, after: nn.Module, batch: Any) -> tuple[float, float]:
    """Milliseconds of a forward of two networks, medians of runs that take turns."""
    found: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + SECONDS
    for turn in range(-1, ROUNDS):
        for each, network in zip(found, (before, after), strict=True):
            start = time.perf_counter()
            call(network, batch)
            if turn >= 0 or time.perf_counter() > end:
                each.append(1e3 * (time.perf_counter() - start))
        if time.perf_counter() > end:
            break
    return median(found[0]), median(found[1])
