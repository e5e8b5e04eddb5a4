"""What modules keep beside parameters and buffers: copied, compared, and renewed when tensors under it change."""

from __future__ import annotations

import copy
import random
import types
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

OWN = frozenset(vars(nn.Module()))
"""What torch itself keeps in every module."""

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
CODE = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)
NO_TENSORS = (*PLAIN, *CODE, nn.Module)
EMPTIED = (dict, OrderedDict)
_MISSING = object()
Seen = dict[int, Any]
"""What has been looked into, by its id; held, or the id would be another's."""


def twin(model: nn.Module, shared: Iterable[Tensor] = ()) -> nn.Module:
    """A deep copy of a model, also of one that keeps results of its last call, which torch refuses to copy.

    Args:
        model: any module.
        shared: tensors of it that the copy only reads for a moment, and holds itself instead of a copy.

    Raises:
        ValueError: if a module keeps what nobody can copy; it is named.

    >>> net = nn.Linear(2, 1)
    >>> net.last = net(torch.ones(1, 2))
    >>> torch.equal(twin(net).last, net.last), twin(net).last.requires_grad
    (True, False)
    """
    try:
        return copy.deepcopy(model, {**copy_memo(model), **{id(t): t for t in shared}})
    except (TypeError, RuntimeError, NotImplementedError) as error:
        for path, module in model.named_modules():
            for name, value in kept_by(module).items():
                try:
                    copy.deepcopy(value, copy_memo(model))
                except (TypeError, RuntimeError, NotImplementedError) as reason:
                    raise ValueError(
                        f"expected a network that can be copied, found {_named(path, module, name)} "
                        f"({type(value).__name__}) that cannot ({reason}): keep nothing in modules but parameters, "
                        "buffers and settings"
                    ) from error
        raise


def copy_memo(model: nn.Module) -> dict[int, Any]:
    """A memo for ``copy.deepcopy``: of every kept tensor that autograd made, but for views, its value alone.

    And a new one of every empty container that torch keeps in a module (a dozen, of hooks): half of a copy's time.
    """
    seen: Seen = {}
    modules = list(model.modules())
    tensors = [t for m in modules for t in _tensors_in({**kept_by(m), **m._buffers}, seen) if not t.is_leaf]
    memo = {id(v): type(v)() for m in modules for v in vars(m).values() if type(v) in EMPTIED and not v}
    if tensors:
        views = {p.untyped_storage().data_ptr() for p in model.parameters() if p.device.type != "meta"}
        made = [t for t in tensors if t.untyped_storage().data_ptr() not in views]
        memo.update({id(t): t.detach().clone() for t in made})
    return memo


def _tensors_in(value: Any, seen: Seen) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    if isinstance(value, NO_TENSORS) or id(value) in seen:
        return
    seen[id(value)] = value
    if isinstance(value, Mapping):
        parts: Any = value.values()
    elif isinstance(value, (list, tuple, deque, Set)):
        parts = value
    else:
        parts = getattr(value, "__dict__", {}).values()
    for part in list(parts):
        yield from _tensors_in(part, seen)


def kept_by(module: nn.Module) -> dict[str, Any]:
    """A module's own attributes: neither parameters, buffers and submodules nor what torch keeps."""
    return {name: value for name, value in vars(module).items() if name not in OWN}


def differences(one: nn.Module, other: nn.Module) -> list[str]:
    """The attributes that two copies of a network hold differently, each with its module, as a sentence names them."""
    others: dict[str, nn.Module] = dict(other.named_modules())
    seen: Seen = {id(module): module for module in one.modules()}
    found = []
    for path, module in one.named_modules():
        kept, theirs = kept_by(module), kept_by(others[path]) if path in others else {}
        names = [n for n in {**kept, **theirs} if not holds_same(kept.get(n, _MISSING), theirs.get(n, _MISSING), seen)]
        found += [_named(path, module, name) for name in names]
    return found


def _named(path: str, module: nn.Module, name: str) -> str:
    where = f"the module {path!r}" if path else "the network itself"
    return f"attribute {name!r} of {where} ({type(module).__name__})"


def holds_same(a: Any, b: Any, seen: Seen | None = None) -> bool:
    """Whether two copies of anything hold the same: tensors to the bit, off the CPU within rounding.

    What can be neither compared nor looked into counts as the same.

    >>> holds_same({"n": [1, torch.ones(2)]}, {"n": [1, torch.ones(2)]}), holds_same({"n": 1}, {"n": 2})
    (True, False)
    """
    seen = {} if seen is None else seen
    if a is b or isinstance(a, CODE) or id(a) in seen:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return same_tensor(a, b)
    if isinstance(a, PLAIN):
        return bool(a == b or (a != a and b != b))  # NaN is like NaN
    seen[id(a)] = a
    return _alike_inside(a, b, seen)


def _alike_inside(a: Any, b: Any, seen: Seen) -> bool:
    if isinstance(a, np.ndarray):
        return bool(a.shape == b.shape and a.dtype == b.dtype and repr(a.tolist()) == repr(b.tolist()))
    if isinstance(a, Mapping):
        return holds_same(list(a.keys()), list(b.keys()), seen) and holds_same(list(a.values()), list(b.values()), seen)
    if isinstance(a, (list, tuple, deque)):
        return len(a) == len(b) and all(holds_same(x, y, seen) for x, y in zip(a, b, strict=True))
    if isinstance(a, Set):
        one, other = sorted(map(repr, a)), sorted(map(repr, b))
        return len(a) == len(b) and (one == other or any(" at 0x" in word for word in one))
    parts = _state_of(a)
    if parts is not None:
        return holds_same(parts, _state_of(b), seen)
    words = repr(a)
    return " at 0x" in words or words == repr(b)


def _state_of(value: Any) -> Any:
    """What an object holds, if one can tell."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.random.RandomState):
        return value.get_state(legacy=False)
    slots = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())]
    inside = {name: getattr(value, name, None) for name in slots} | getattr(value, "__dict__", {})
    return inside or None


def is_equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same to the bit, NaN where the other has NaN.

    >>> is_equal(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]))
    True
    """
    if a.shape != b.shape or a.dtype != b.dtype or a.layout != b.layout:
        return False
    if a.layout != torch.strided:
        return is_equal(a.to_dense(), b.to_dense())
    return torch.equal(a, b) or (a.is_floating_point() and bool(((a == b) | (a.isnan() & b.isnan())).all()))


def same_tensor(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same to the bit; off the CPU, where sums have no fixed order, within rounding."""
    if is_equal(a, b) or a.device.type == "cpu" or not a.is_floating_point() or a.shape != b.shape:
        return is_equal(a, b)
    largest = float(a.detach().abs().nan_to_num(0.0, 0.0, 0.0).amax()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=1e-3, atol=1e-4 * largest, equal_nan=True)


@contextmanager
def refresh_caches(model: nn.Module) -> Iterator[None]:
    """Around a change of tensors: training mode before it, evaluation mode after it, then every mode as it was.

    A module that does something of its own when its mode changes (drops what it has cached, merges a weight) does it
    here; where none does, nothing happens.
    """
    if all(type(m).train is nn.Module.train and type(m).eval is nn.Module.eval for m in model.modules()):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        yield
    finally:
        model.eval()
        if modes[0][1]:
            model.train()
        for module, mode in modes:
            if module.training != mode:
                module.train(mode)
        for module, mode in modes:
            module.training = mode
