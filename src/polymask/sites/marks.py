"""What is noted on every module that we change, and the keys under which its tensors are saved and loaded."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from polymask.parts.gate import hold
from polymask.sites.slots import FeatureSite, WeightSite

MARK = "_polymask"


@dataclass
class Latch:
    """Whether a task is open on a model: then loading a state leaves alone what finished tasks read."""

    shut: bool = False


@dataclass
class Trace:
    """Kept on every module we change, so that a copy of the module carries it along.

    Args:
        cls: the module's class.
        parameters: the names of its parameters, in order.
        buffers: the names of its buffers, in order.
        grad: whether each parameter required a gradient.
        tied: parameter name -> the tensor's first full name in the model; equal names are one tensor.
        frozen: the names of its tensors that never learn again.
        latch: whether a task is open on the model; shared by all its modules.
    """

    cls: type[nn.Module]
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    grad: dict[str, bool]
    tied: dict[str, str] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    latch: Latch = field(default_factory=lambda: Latch())

    def __deepcopy__(self, memo: dict[int, Any]) -> Trace:
        return replace(self, frozen=set(self.frozen), latch=copy.deepcopy(self.latch, memo))

    def __reduce__(self) -> str:
        raise no_pickle(self.cls)


def is_marked(module: nn.Module) -> bool:
    """Whether a module has been changed by ``attach``."""
    return MARK in module.__dict__


def mark(module: nn.Module) -> Trace:
    """The module's trace, made and its keys hooked at the first call."""
    if not is_marked(module):
        trace = Trace(
            type(module),
            tuple(name for name, p in module._parameters.items() if p is not None),
            tuple(name for name, b in module._buffers.items() if b is not None),
            {name: p.requires_grad for name, p in module._parameters.items() if p is not None},
        )
        module.__dict__[MARK] = trace
        module.register_state_dict_post_hook(own_keys)
        module.register_load_state_dict_pre_hook(from_own_keys)
    found: Trace = module.__dict__[MARK]
    return found


def held(module: nn.Module, leaf: str) -> Tensor:
    """The base behind a masked weight: ``hold(kept, w, gate)``."""
    w, site = parts_of(module, leaf)
    return w if site.gate is None or site.kept is None else hold(site.kept, w, site.gate)


def parts_of(module: nn.Module, leaf: str) -> tuple[Tensor, WeightSite]:
    """A masked weight as it trains, and its site."""
    stack = module.get_submodule("parametrizations").get_submodule(leaf)
    site = stack.get_submodule("0")
    assert isinstance(site, WeightSite)
    w: Tensor = stack.original  # type: ignore[assignment]
    return w, site


def own_keys(module: nn.Module, state: dict[str, Any], prefix: str, _meta: Any) -> None:
    """Rename what ``state_dict`` collected to the module's own keys, in their own order, with the held base."""
    trace: Trace = module.__dict__[MARK]
    collected = {key: state.pop(key) for key in [key for key in state if key.startswith(prefix)]}
    for leaf in (*trace.parameters, *trace.buffers):
        if parametrize.is_parametrized(module, leaf):
            collected.pop(f"{prefix}parametrizations.{leaf}.original")
            with torch.no_grad():
                state[prefix + leaf] = held(module, leaf).detach()
            _move(collected, f"{prefix}parametrizations.{leaf}.0.source.", state, f"{prefix}{leaf}.")
        elif prefix + leaf in collected:
            state[prefix + leaf] = collected.pop(prefix + leaf)
    _move(collected, f"{prefix}units.source.", state, prefix)
    state.update(collected)


def from_own_keys(module: nn.Module, state: dict[str, Any], prefix: str, *_rest: Any) -> None:
    """Rename the module's own keys to where the tensors stand now, and restore what is held.

    While a task is open, what finished tasks read stays: an average of the weights, loaded back, would round it.
    """
    trace: Trace = module.__dict__[MARK]
    if trace.latch.shut:
        _keep_frozen(module, trace, state, prefix)
    for leaf in trace.parameters:
        if parametrize.is_parametrized(module, leaf) and prefix + leaf in state:
            w, site = parts_of(module, leaf)
            value = state.pop(prefix + leaf)
            state[f"{prefix}parametrizations.{leaf}.original"] = value
            if trace.latch.shut and (site.gate is None or site.gate.dtype == torch.bool):
                _keep_held(state, f"{prefix}parametrizations.{leaf}.original", w, site)
            elif site.kept is not None and site.gate is not None and site.kept.shape == value.shape:
                # Where the gate is open, ``kept`` is what an abandoned task goes back to.
                learns = site.gate if site.gate.dtype == torch.bool else torch.zeros_like(site.gate, dtype=torch.bool)
                site.kept.copy_(torch.where(learns, site.kept, value.to(site.kept)))
            _take(state, f"{prefix}{leaf}.", f"{prefix}parametrizations.{leaf}.0.source.", site.source)
    units = module._modules.get("units")
    if isinstance(units, FeatureSite):
        _take(state, prefix, f"{prefix}units.source.", units.source)


def _move(collected: dict[str, Any], old: str, state: dict[str, Any], new: str) -> None:
    for key in [key for key in collected if key.startswith(old)]:
        state[new + key.removeprefix(old)] = collected.pop(key)


def _take(state: dict[str, Any], old: str, new: str, source: nn.Module | None) -> None:
    for own in source.state_dict() if source is not None else ():
        if old + own in state:
            state[new + own] = state.pop(old + own)


def _keep_frozen(module: nn.Module, trace: Trace, state: dict[str, Any], prefix: str) -> None:
    for leaf in trace.frozen:
        now = module._buffers.get(leaf)
        if now is not None and prefix + leaf in state:
            state[prefix + leaf] = now.detach().clone()


def _keep_held(state: dict[str, Any], key: str, w: Tensor, site: WeightSite) -> None:
    """Of a weight let only the entries in that learn; ``kept`` is read for all others, and stays."""
    if not isinstance(w, nn.Parameter):
        state[key] = w.detach().clone()
    elif site.kept is not None and site.gate is not None and site.kept.shape == state[key].shape:
        state[key] = torch.where(site.gate, state[key].to(site.kept), site.kept)


def no_pickle(cls: type[nn.Module]) -> RuntimeError:
    """What is raised where an attached module is pickled."""
    return RuntimeError(
        f"expected a plain model to pickle, found {cls.__name__} with masks attached: pickle bake(model) "
        "(the active task alone) or detach(model) (the base), or save the records with polymask.Bank"
    )
