"""What a module was before we touched it, and how it becomes that again: places, marks, keys, the way back."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from polymask.sites.marks import MARK, Latch, Trace, from_own_keys, is_marked, mark, no_pickle, own_keys
from polymask.sites.slots import FeatureSite, WeightSite


@dataclass(frozen=True)
class Place:
    """One spot where a tensor of the model stands: a module and the name in it."""

    module: nn.Module
    leaf: str

    @property
    def trains(self) -> bool:
        """Whether a parameter stands here, as against a buffer."""
        return isinstance(self.tensor(), nn.Parameter)

    @property
    def is_there(self) -> bool:
        """Whether a tensor still stands here: a user may take a buffer out."""
        holder, leaf = self._holder()
        return holder._parameters.get(leaf) is not None or holder._buffers.get(leaf) is not None

    def tensor(self) -> Tensor:
        """The live tensor; under a site the one that the site reads from."""
        found: Tensor = getattr(*self._holder())
        return found

    def replace(self, value: Tensor) -> None:
        """Put another tensor of the same kind here."""
        holder, leaf = self._holder()
        if isinstance(value, nn.Parameter):
            holder._parameters[leaf] = value
        else:
            holder._buffers[leaf] = value
        _resize(self.module, self.leaf, value)

    def freeze(self, value: Tensor) -> None:
        """Turn the parameter that stands here into a buffer."""
        holder, leaf = self._holder()
        mark(self.module).frozen.add(self.leaf)
        if leaf in holder._parameters:
            del holder._parameters[leaf]
            holder.register_buffer(leaf, value.detach())

    def seal(self) -> None:
        """Keep the norm that stands here in evaluation mode, if nothing but it follows."""
        if can_seal(self.module):
            _seal(self.module)

    def parametrize(self, site: WeightSite) -> None:
        """Let every read of the tensor pass through the site."""
        parametrize.register_parametrization(self.module, self.leaf, site, unsafe=True)
        # The class was made by torch for this one module, so changing it reaches no other.
        type(self.module).__getstate__ = _refuse_pickle  # type: ignore[method-assign]
        type(self.module).__deepcopy__ = _copy  # type: ignore[attr-defined]
        type(self.module).register_parameter = _refuse_assignment  # type: ignore[method-assign, assignment]

    def mark(self, tied: str, latch: Latch) -> None:
        """Note what the module was."""
        trace = mark(self.module)
        trace.tied[self.leaf], trace.latch = tied, latch

    def _holder(self) -> tuple[nn.Module, str]:
        if parametrize.is_parametrized(self.module, self.leaf):
            parametrizations = self.module.get_submodule("parametrizations")
            return parametrizations.get_submodule(self.leaf), "original"
        return self.module, self.leaf


def places(model: nn.Module) -> dict[str, list[Place]]:
    """Every parameter and buffer of a model under its first name, with all places where it stands."""
    first: dict[int, str] = {}
    where: dict[str, list[Place]] = {}
    for path, module in model.named_modules():
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                name = first.setdefault(id(tensor), f"{path}.{leaf}" if path else leaf)
                where.setdefault(name, []).append(Place(module, leaf))
    return where


def add_units(module: nn.Module, axis: int) -> FeatureSite:
    """Mask the units of a layer's output; the site stands in the layer as its submodule ``units``."""
    mark(module)
    site = FeatureSite(axis)
    module.add_module("units", site)
    module.register_forward_hook(_mask_units)
    return site


Reader = Callable[[nn.Module, str], Tensor]


def effective(module: nn.Module, leaf: str) -> Tensor:
    """A masked weight as the active task reads it."""
    w: Tensor = getattr(module, leaf)
    units = module._modules.get("units")
    return units.rows(w) if isinstance(units, FeatureSite) else w


@torch.no_grad()
def strip(model: nn.Module, read: Reader) -> nn.Module:
    """Give every marked module its class, parameters, buffers and ties back, with values from ``read``; in place."""
    made: dict[str, nn.Parameter] = {}
    for module in [module for module in model.modules() if is_marked(module)]:
        trace: Trace = module.__dict__.pop(MARK)
        values = {leaf: _value(module, leaf, read) for leaf in trace.parameters}
        _unhook(module)
        if module.__dict__.pop("train", None) is not None:
            module.training = model.training
        module.__class__ = trace.cls
        for leaf in ("parametrizations", "units"):
            module._modules.pop(leaf, None)
        absent = {leaf: None for leaf, p in module._parameters.items() if p is None}
        buffers = {leaf: b for leaf, b in module._buffers.items() if b is None or leaf in trace.buffers}
        module._buffers.clear()
        module._buffers.update(buffers)
        module._parameters.clear()
        for leaf, value in values.items():
            name = trace.tied.get(leaf)
            parameter = value if isinstance(value, nn.Parameter) else nn.Parameter(value.clone())
            parameter.requires_grad_(trace.grad[leaf])
            module._parameters[leaf] = made.setdefault(name, parameter) if name else parameter
            _resize(module, leaf, value)
        module._parameters.update(absent)
    return model


def _value(module: nn.Module, leaf: str, read: Reader) -> Tensor:
    if parametrize.is_parametrized(module, leaf):
        return read(module, leaf)
    found: Tensor = getattr(module, leaf)
    units = module._modules.get("units")
    if isinstance(units, FeatureSite) and read is effective:
        return units.rows(found)
    return found


def _resize(module: nn.Module, leaf: str, value: Tensor) -> None:
    """Let a module's own account of its size follow its tensor."""
    if leaf == "weight" and isinstance(module, nn.Linear):
        module.out_features, module.in_features = value.shape
    elif leaf == "weight" and isinstance(module, nn.modules.conv._ConvNd):
        outer, inner = value.shape[0], value.shape[1] * module.groups
        module.out_channels, module.in_channels = (inner, outer) if module.transposed else (outer, inner)
    elif leaf == "running_mean":
        module.num_features = value.shape[0]  # type: ignore[assignment]


def _mask_units(module: nn.Module, args: Any, y: Tensor) -> Tensor:
    masked: Tensor = module.get_submodule("units")(y)
    return masked


def _unhook(module: nn.Module) -> None:
    for hooks, ours in (
        (module._state_dict_hooks, own_keys),
        (module._load_state_dict_pre_hooks, from_own_keys),
        (module._forward_hooks, _mask_units),
    ):
        for key, hook in list(hooks.items()):
            if hook is ours or getattr(hook, "hook", None) is ours:
                del hooks[key]


def _refuse_pickle(module: nn.Module) -> Mapping[str, Any]:
    raise no_pickle(mark(module).cls)


def _refuse_assignment(module: nn.Module, name: str, param: Any) -> None:
    # A pruning puts ``weight_orig`` in the place of ``weight``.
    if any(parametrize.is_parametrized(module, leaf) for leaf in (name, name.removesuffix("_orig"))):
        raise ValueError(
            f"expected {name.removesuffix('_orig')!r} of {mark(module).cls.__name__} to be left to its site, found a "
            "parameter assigned to it or a pruning: detach(model) first, or load a state dict while a task is open"
        )
    nn.Module.register_parameter(module, name, param)


def _copy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    memo[id(module)] = new = module.__new__(type(module))
    # An RNN caches the weights that it read last, under a site results that torch refuses to copy, and knows by
    # references when to read anew: the copy always has to, also where it shares a weight with what it was made of.
    state = {name: [] if name == "_flat_weights" else value for name, value in module.__dict__.items()}
    if "_flat_weight_refs" in state:
        state["_flat_weight_refs"] = [weakref.ref(torch.empty(0)) for _ in state["_flat_weight_refs"]]
    new.__dict__ = copy.deepcopy(state, memo)
    return new


def can_seal(module: nn.Module) -> bool:
    """Whether a norm may be kept in evaluation mode: it has no other work, as torch's own, or no module of the user's.

    >>> can_seal(nn.BatchNorm1d(2)), can_seal(nn.Sequential(nn.BatchNorm1d(2)))
    (True, False)
    """
    own = {"units", "parametrizations"} if is_marked(module) else set()
    return isinstance(module, nn.modules.batchnorm._NormBase) or not set(module._modules) - own


def _seal(module: nn.Module) -> None:
    """Keep a norm whose statistics are frozen in evaluation mode, or they would go on moving."""
    mark(module)
    module.train = MethodType(_stay_frozen, module)  # type: ignore[method-assign]
    module.training = False


def _stay_frozen(module: nn.Module, mode: bool = True) -> nn.Module:
    # What stands in it follows the mode, and what its class does besides is done.
    type(module).train(module, mode)
    module.training = False
    return module
