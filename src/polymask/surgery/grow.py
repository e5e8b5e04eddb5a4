"""Which layers of a network can have more units: asked of its wiring, and tried on copies."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from polymask.calling import REFUSALS, as_read, call, logits_of, two_rows
from polymask.copies.kept import twin
from polymask.parts.recent import Recent
from polymask.sites.roles import Plan
from polymask.sites.trace import Place, places
from polymask.surgery.axes import Axes, Steps, widen
from polymask.wiring import Wiring, ask
from polymask.wiring.cache import key_of
from polymask.wiring.paint import PaintedCopy

NOWHERE = "none of its units was seen to feed a column of its own"

TRIALS = 8
"""Draws of parameters and input under which a network that has grown must answer as before."""


LOUD = 100.0
"""By how much new units speak louder than others in every other trial."""


def growable(model: nn.Module, example: Any, planned: Plan, growth: int = 1) -> Axes:
    """Find where a network can grow.

    A layer can have more units where every unit feeds columns of its own in a linear or convolutional layer or in a
    BatchNorm, and these columns are the last ones there, unit after unit: hidden layers, also through a flatten, the
    last part of a concatenation, and all layers together that a residual sum adds up. Each group is tried on a copy:
    with the new columns at 0 the widened network must answer as it did. What fails keeps its width.

    Args:
        model: a plain network; it stays as it is.
        example: an input that it accepts.
        planned: its roles and its head, which gains no rows. Only masked and private tensors can grow: of others a task
            cannot read a part.
        growth: by how many units a copy is widened.
    """
    # In one precision, whatever the network's own.
    plain = twin(model).float()
    example = as_read(plain, example)
    kinds = tuple((name, role.kind) for name, role in planned.roles.items())
    build = key_of(plain, example, planned.head, ())
    key = None if build is None else (build, kinds, growth)
    network, known = PaintedCopy(plain, example, later=planned.later), _GROWN.get(key)
    if known is not None and not _tried(network, known.steps, growth):
        return known
    found = _grown(plain, example, network, planned, growth)
    _GROWN.keep(key, found)
    return found


_GROWN: Recent[Axes] = Recent()
"""Where the last few builds of networks were seen to grow; each network of one is tried once more."""


def _grown(plain: nn.Module, example: Any, network: PaintedCopy, planned: Plan, growth: int) -> Axes:
    """Where a network can grow: group after group is tried, and all of them together."""
    where = places(plain)
    masked = [name for name, role in planned.roles.items() if role.kind == "masked"]
    fixed = [name for name, role in planned.roles.items() if role.kind not in ("masked", "private")]
    wiring = ask(plain, example, planned.head, masked, planned.later).through_echoes()
    found: dict[tuple[str, ...], Steps] = {}
    left: dict[str, str] = {}
    for sites in _together(wiring):
        layers = tuple(layer for layer, site in wiring.rows.items() if site in sites)
        steps, why = _steps(network.modules, wiring, sites, layers)
        why = why or _unfit(where, steps, fixed) or _tried(network, steps, growth)
        if why:
            left.update(dict.fromkeys(layers or sites, why))
        else:
            found[layers] = steps
    total = _sum(found.values())
    if why := _tried(network, total, growth):
        left.update({layer: why for layers in found for layer in layers})
        found, total = {}, {}
    grown = {layer for layers in found for layer in layers}
    for layer in [name.rpartition(".")[0] for name in masked if where[name][0].tensor().ndim > 1]:
        if layer not in grown:
            left.setdefault(layer, wiring.notes.get(layer, NOWHERE))
    built = {name: tuple(where[name][0].tensor().shape) for name in total}
    bare = [f"{layer}.weight".lstrip(".") for layer, site in wiring.rows.items() if layer == site]
    return Axes(tuple(found), total, built, left, tuple(name for name in bare if name in masked))


def _together(wiring: Wiring) -> list[set[str]]:
    """The sites in groups that grow as one: those that feed the same columns."""
    group = {site: {site} for site in wiring.sites}
    for feeds in wiring.feeds.values():
        for i, one in enumerate(feeds):
            for other in feeds[:i]:
                if ((one.units >= 0) & (other.units >= 0)).any() and group[one.site] is not group[other.site]:
                    group[one.site] |= group[other.site]
                    group.update(dict.fromkeys(group[other.site], group[one.site]))
    return list({id(sites): sites for sites in group.values()}.values())


def _steps(
    modules: Mapping[str, nn.Module], wiring: Wiring, sites: Collection[str], layers: Collection[str]
) -> tuple[Steps, str]:
    """What a group's tensors gain for each unit, or why it cannot grow."""
    sizes = {wiring.sizes[site] for site in sites}
    if noted := [layer for layer in layers if layer in wiring.notes]:
        return {}, wiring.notes[noted[0]]
    if len(sizes) > 1 or min(sizes) < 2:
        return {}, "it has a single unit" if min(sizes) < 2 else "it is added to a layer of another width"
    if {wiring.rows[layer] for layer in layers} != set(sites):
        return {}, "its rows were not found"
    rows = dict.fromkeys((*layers, *(wiring.rows[layer] for layer in layers)), (1, 0))
    columns, why = _columns(wiring, sites, min(sizes))
    total = _sum([rows, *columns])
    return _tensors(modules, total), why or next(
        filter(None, (_odd(wiring, path, modules[path]) for path in total)), ""
    )


def _columns(wiring: Wiring, sites: Collection[str], size: int) -> tuple[list[Steps], str]:
    """What the readers of a group gain for each unit: columns, or rows of a norm."""
    found: list[Steps] = []
    for reader, feeds in wiring.feeds.items():
        mine = torch.stack([feed.units for feed in feeds if feed.site in sites] or [torch.full((1,), -1)])
        units = mine.amax(0)
        if not (units >= 0).any():
            continue  # where they arrive mixed, after another layer; the trial finds out if there is none
        width = _last(units, size)
        if not width or ((mine >= 0) & (mine != units)).any():
            return [], f"its columns in {reader!r} are not the last ones, unit after unit"
        found.append({reader: (width, 0) if reader in wiring.echoes else (0, width)})
    alone = all(reader in wiring.echoes for part in found for reader in part)
    return found, NOWHERE if alone else ""


def _odd(wiring: Wiring, path: str, module: nn.Module) -> str:
    if getattr(module, "groups", 1) > 1:
        return f"{path!r} is a grouped convolution"
    is_layer = path in wiring.rows or (path in wiring.feeds and path not in wiring.echoes)
    batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
    return "" if is_layer or batch_norm else f"{path!r} normalises across units"


def _last(units: Tensor, size: int) -> int:
    """How many columns each unit feeds, if these are the last ones, unit after unit; else 0."""
    count = int((units >= 0).sum())
    width, rest = divmod(count, size)
    expected = torch.arange(size).repeat_interleave(width)
    return width if not rest and torch.equal(units[len(units) - count :], expected) else 0


def _sum(parts: Iterable[Steps]) -> Steps:
    total: Steps = {}
    for part in parts:
        for name, (row, column) in part.items():
            rows, columns = total.get(name, (0, 0))
            total[name] = (rows + row, columns + column)
    return total


def _tensors(modules: Mapping[str, nn.Module], total: Steps) -> Steps:
    """From what modules gain to what their tensors gain."""
    found: Steps = {}
    for path, (row, column) in total.items():
        module = modules[path]
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and tensor.ndim:
                steps = (row, column if tensor.ndim > 1 else 0)
                found.update({f"{path}.{leaf}".lstrip("."): steps} if any(steps) else {})
    return found


def _unfit(where: Mapping[str, list[Place]], steps: Steps, fixed: Collection[str]) -> str:
    for name in steps:
        if len(where.get(name, ())) != 1:
            return f"{name!r} is tied to another module"
        if name in fixed:
            return f"{name!r} is frozen as it is"
    return ""


@torch.no_grad()
def _tried(network: PaintedCopy, steps: Mapping[str, tuple[int, int]], growth: int) -> str:
    """Why copies that have grown do not answer as they did; several, since of one draw all units may happen to rest."""
    for trial in range(TRIALS):
        network.redraw()
        other = network.inputs.next_accepted(lambda x: logits_of(call(network.model, x)))
        wide = _wider(network.model, steps, growth, trial)
        for x in (*network.followed_inputs, *([other[0]] if other and other[1].isfinite().all() else [])):
            if why := _differs(network.model, wide, as_read(network.model, x)):
                return why
        if not trial and (why := _fails_in_training(network.model, wide, network.followed_inputs[0])):
            return why
    return ""


def _wider(model: nn.Module, steps: Mapping[str, tuple[int, int]], growth: int, trial: int) -> nn.Module:
    """A copy that has grown, its new columns at 0; what its new units answer is large every other time.

    A small one shows too rarely where a maximum, or a sum over units, mixes them into the others.
    """
    wide = twin(model)
    where = places(wide)
    axes = Axes((), steps, {name: tuple(where[name][0].tensor().shape) for name in steps})
    widen(wide, axes, growth, ("trial", trial))
    for name, (row, column) in steps.items():
        tensor = where[name][0].tensor()
        if row and tensor.ndim > 1 and trial % 2:
            tensor[axes.built[name][0] :] *= LOUD
        if column:
            tensor[:, axes.built[name][1] :] = 0.0
    return wide


def _fails_in_training(model: nn.Module, wide: nn.Module, x: Any) -> str:
    """Why a copy that has grown cannot be trained although the network can: it may call more layers in training.

    The copy is left in training mode, with what that changes.
    """
    x = as_read(model, two_rows(x))
    with torch.random.fork_rng(), suppress(*REFUSALS):
        call(twin(model).train(), x)
        try:
            call(wide.train(), x)
        except REFUSALS as error:
            return f"in training the network does not accept it wider ({str(error).splitlines()[0]})"
    return ""


def _differs(model: nn.Module, wide: nn.Module, x: Any) -> str:
    """Why a copy that has grown does not answer an input as the network does; "" if it does."""
    before = logits_of(call(model, x))
    try:
        after = logits_of(call(wide, x))
    except REFUSALS as error:
        return f"the network does not accept it wider ({str(error).splitlines()[0]})"
    if not before.isfinite().all():
        return "the network's own answers are not finite"
    scale = float(before.abs().max())
    same = before.shape == after.shape and torch.allclose(after, before, rtol=1e-3, atol=1e-4 * scale)
    return "" if same else "its units mix on the way to the output"
