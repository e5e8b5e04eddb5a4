"""One answer: masking a layer's rows must be masking its output, and a baked copy must answer as the masked one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from polymask.calling import REFUSALS, call, draw_fractions, logits_of, run_as_accepted
from polymask.parts.recent import Recent
from polymask.parts.seeds import generator
from polymask.sites.raw import copy_with_views
from polymask.sites.roles import Plan
from polymask.sites.slots import fill
from polymask.sites.table import Sites, attach, bake
from polymask.task import TaskRecord
from polymask.wiring import Wiring
from polymask.wiring.cache import key_of
from polymask.wiring.disturb import Disturbance

DENSITIES = (0.8, 0.5)
"""How many units, and entries of a weight, are open in each pattern of masks."""
UNLIKE = "masking its rows is not masking its output: it does more than the product, or its weight is read elsewhere"
POOL = 65_521
"""Entries from which on a drawn mask repeats itself: a prime, so that it does not row by row."""
Masks = dict[str, Tensor]
_AGREED: Recent[bool] = Recent()
"""Builds of networks on which all of a method's sites agreed, with these roles and units."""


def same(a: Tensor, b: Tensor, real: bool) -> bool:
    """Whether two answers agree: to the bit under masks that select, within rounding under those that multiply.

    >>> same(torch.tensor([1.0]), torch.tensor([1.0 + 1e-6]), True), same(torch.ones(1), torch.ones(1) + 1e-6, False)
    (True, False)
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not real:
        return torch.equal(a, b) or (a.is_floating_point() and torch.allclose(a, b, 0.0, 0.0, equal_nan=True))
    size = float(b.abs().nan_to_num().amax()) if b.numel() else 0.0
    # In half precision a product and a sum in another order differ by more.
    eps = torch.finfo(a.dtype).eps if a.is_floating_point() else 0.0
    return torch.allclose(a, b, rtol=max(1e-5, 8 * eps), atol=max(1e-6, eps) * max(1.0, size), equal_nan=True)


@torch.no_grad()
def answer(model: nn.Module, x: Any) -> Tensor:
    """A model's logits in evaluation mode, computed in the one way that two models have in common."""
    with torch.random.fork_rng(), rounding_alike(model):
        return logits_of(call(model.eval(), x)).clone()


@contextmanager
def rounding_alike(model: nn.Module) -> Iterator[None]:
    """For a while, switch off what makes torch round the same product differently, and put it and the modes back.

    Hooks switch its fused transformer layers off; and it folds a batch otherwise where a weight requires a gradient,
    which a computed one does not.
    """
    modes = [(module, module.training) for module in model.modules()]
    grads = [(p, p.requires_grad) for p in model.parameters()]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for p, _ in grads:
            p.requires_grad_(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in modes:
            module.training = mode
        for p, grad in grads:
            p.requires_grad_(grad)


def is_real(record: TaskRecord) -> bool:
    """Whether a record's masks on units multiply: baked before the sum, masked after it."""
    return any(packed.codec in ("real", "soft") for packed in record.masks.values())


@dataclass(frozen=True)
class Trial:
    """An attached copy of a network, on which drawn masks are tried.

    Args:
        sites: the copy's.
        asked: what it is asked.
        real: whether masks on units multiply.
    """

    sites: Sites
    asked: Sequence[Any]
    real: bool

    def agrees(self, units: Collection[str], weights: Collection[str]) -> bool:
        """Whether masks on some units and weights, the others being open, leave a baked copy with the same answer."""
        return self._once(units, weights, 0) and not (units and not self._once(units, [], 1))

    @torch.no_grad()
    def _once(self, units: Collection[str], weights: Collection[str], turn: int) -> bool:
        for name, site in self.sites.weights.items():
            shape, device = self.sites.tensor(name).shape, self.sites.tensor(name).device
            fill(site, "mask", _mask(name, shape, turn).to(device) if name in weights else None)
        device = next(self.sites.model.parameters(), torch.zeros(())).device
        for name, mask in self._on_units(units, turn).items():
            fill(self.sites.units[name], "mask", mask.to(device))
        baked = bake(self.sites.model)
        return all(self._alike(baked, x) for x in self.asked)

    def _alike(self, baked: nn.Module, x: Any) -> bool:
        masked, plain = answer(self.sites.model, x), answer(baked, x)
        # What answers itself differently cannot be compared.
        return same(masked, plain, self.real) or not same(masked, answer(self.sites.model, x), self.real)

    def _on_units(self, units: Collection[str], turn: int) -> Masks:
        wiring, found = self.sites.wiring, {}
        for name in self.sites.units:
            if name in wiring.echoes and name not in wiring.sites:
                continue
            size = torch.Size([wiring.sizes[name] if name in wiring.sizes else _rows(self.sites.model, name)])
            mask = _mask(name, size, turn) if name in units else torch.ones(size, dtype=torch.bool)
            gains = torch.rand(size, generator=generator("gains", name, turn)) if name in units else torch.ones(size)
            found[name] = mask * gains if self.real else mask
        return {**found, **wiring.echo_masks({name: found[name] for name in wiring.sites})}


def _rows(model: nn.Module, path: str) -> int:
    return len(next(iter((*model.get_submodule(path).parameters(), *model.get_submodule(path).buffers()))))


def _mask(name: str, shape: torch.Size, turn: int) -> Tensor:
    """A drawn mask, of which one entry at least is open and one is shut where there are two."""
    draw = generator("agreement", name, turn)
    count = shape.numel()
    flat = (torch.rand(min(count, POOL), generator=draw) < DENSITIES[turn]).repeat(-(-count // POOL))[:count]
    if count > 1:
        flat[turn % count], flat[(turn + 1) % count] = True, False
    return flat.view(shape)


def make_trial(
    model: nn.Module, example: Any, planned: Plan, units: Mapping[str, int], wiring: Wiring, real: bool
) -> Trial:
    """A copy of a network with sites, its parameters and its input drawn anew so that no zero hides a difference.

    Where the network does not take such an input, or answers nothing finite, it is asked more gently.
    """
    for moved, fresh in ((True, True), (True, False), (False, False)):
        clone, draw = copy_with_views(model), generator("agreement")
        if moved:
            Disturbance(clone, draw, planned.later).redraw()

        def asked(x: Any, clone: nn.Module = clone, fresh: bool = fresh, draw: torch.Generator = draw) -> Any:
            x = draw_fractions(x, draw) if fresh else x
            found = answer(clone, x)
            if fresh and not torch.isfinite(found).any():
                raise ValueError("expected finite logits, found none")
            return x

        try:
            x = run_as_accepted(example, asked)
        except ValueError:
            continue
        break
    return Trial(
        attach(clone, planned.roles, units, wiring), [x, *(y for y in planned.others if _taken(clone, y))], real
    )


def _taken(model: nn.Module, x: Any) -> bool:
    try:
        answer(model, x)
    except REFUSALS:
        return False
    return True


def units_that_agree(
    model: nn.Module, example: Any, planned: Plan, units: Mapping[str, int], wiring: Wiring, real: bool = False
) -> tuple[dict[str, int], Wiring]:
    """The units that may be masked: those of layers where masking the rows is masking the output.

    All are tried at once on a copy, and halved only where the copy baked does not answer as the copy masked.

    Args:
        model: a plain network; it stays as it is.
        example: an input that it accepts.
        planned: its roles.
        units: module -> axis, of those that a method would mask beside the sites of its wiring.
        wiring: the sites on units, and what they feed.
        real: whether masks on units stay real numbers, which multiply.

    Returns:
        Module -> axis of all that are masked; and their wiring.

    Raises:
        ValueError: if a masked weight is read in another way than a plain network's, or no unit is left.
    """
    every = {**units, **wiring.sites, **wiring.echoes}
    kinds = tuple((name, role.kind) for name, role in planned.roles.items())
    build = key_of(model, example, planned.head, ())
    key = None if build is None else (build, kinds, tuple(every.items()), tuple(wiring.rows.items()), real)
    if _AGREED.get(key):
        return every, wiring
    trial = make_trial(model, example, planned, every, wiring, real)
    names, weights = [*units, *wiring.sites], list(trial.sites.weights)
    if trial.agrees(names, weights):
        _AGREED.keep(key, True)
        return every, wiring
    guilty = _guilty(lambda some: trial.agrees(some, []), names)
    left = [name for name in names if name not in guilty]
    if names and not left:
        raise ValueError(
            f"expected a layer whose units can be masked, found none: of {', '.join(map(repr, names))}, {UNLIKE}; use "
            "a method that masks weights, or write the layer as a plain one and what it does beside as a module"
        )
    for name in _guilty(lambda some: trial.agrees(left, some), weights)[:1]:
        raise ValueError(
            f"expected a network that reads {name!r} under a mask as a plain one reads what the mask leaves, found "
            "another answer: leave it out of masked=, or let forward read the weight anew in every call"
        )
    wiring = _without(wiring, guilty)
    return {**{path: axis for path, axis in units.items() if path in left}, **wiring.sites, **wiring.echoes}, wiring


def _guilty(agrees: Callable[[list[str]], bool], names: list[str]) -> list[str]:
    """The names that do not agree, found by halving; all, where only together they do not."""
    found = _find_by_halving(agrees, names)
    return found if agrees([name for name in names if name not in found]) else names


def _find_by_halving(agrees: Callable[[list[str]], bool], names: list[str]) -> list[str]:
    if not names or agrees(names):
        return []
    if len(names) == 1:
        return names
    half = len(names) // 2
    return [*_find_by_halving(agrees, names[:half]), *_find_by_halving(agrees, names[half:])]


def _without(wiring: Wiring, guilty: Collection[str]) -> Wiring:
    """The wiring without some sites, and why their layers have none."""
    rows = {layer: site for layer, site in wiring.rows.items() if site in guilty}
    notes = dict.fromkeys([*rows, *(site for site in wiring.sites if site in guilty)], UNLIKE)
    kept = wiring.only([site for site in wiring.sites if site not in guilty])
    return replace(kept, notes={**kept.notes, **notes})
