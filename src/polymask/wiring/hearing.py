"""Overheard in a forward: which operations ran, what numbers were compared with, and where they were looked up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

COMPARED = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "less", "greater", "bucketize"})
LOOKED_UP = frozenset({"embedding", "index", "index_select", "gather", "scatter", "scatter_", "_embedding_bag"})
FARTHEST = 1e6
"""Beyond this a number that something is compared with is no threshold of an input."""


class Overheard(TorchDispatchMode):
    """What a network does between its input and its answer, operation by operation.

    >>> ids = torch.arange(4)
    >>> with Overheard() as heard:
    ...     _ = (ids > 150).any()
    >>> heard.operations[-1], heard.thresholds, heard.compared(ids)
    ('any', {150.0}, {150.0})
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []
        self.thresholds: set[float] = set()
        self.tables: list[tuple[int, Tensor]] = []
        self.made = 0
        self._compared: list[tuple[Tensor, list[float]]] = []

    def compared(self, leaf: Tensor) -> set[float]:
        """With what a tensor itself was compared."""
        return {number for t, numbers in self._compared if _same(t, leaf) for number in numbers}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation, and note it."""
        y = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.operations.append(name)
        self.made += y.numel() if isinstance(y, Tensor) else 0
        if name in COMPARED:
            numbers = _numbers(args[1:])
            self.thresholds.update(numbers)
            if isinstance(args[0], Tensor) and not args[0].is_floating_point():
                self._compared.append((args[0].detach().clone(), numbers))
        if name in LOOKED_UP:
            self._note(name, args)
        return y

    def _note(self, name: str, args: tuple[Any, ...]) -> None:
        table, *rest = args
        found = rest[0] if isinstance(rest[0], (list, tuple)) else [part for part in rest if isinstance(part, Tensor)]
        axis = rest[0] if isinstance(rest[0], int) else 0
        for place, index in enumerate(found):
            if isinstance(index, Tensor) and not index.is_floating_point() and index.dtype != torch.bool:
                size = table.shape[place if name == "index" else axis] if table.ndim else 1
                self.tables.append((int(size), index.detach().clone()))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.numel() == b.numel() and bool((a.flatten() == b.flatten()).all())


def _numbers(args: Iterable[Any]) -> list[float]:
    """The single numbers among some arguments."""
    single = [float(a) for a in args if isinstance(a, (int, float)) or (isinstance(a, Tensor) and a.numel() == 1)]
    return [a for a in single if abs(a) < FARTHEST]


def spoken(model: nn.Module) -> set[int | float | str]:
    """The constants in what a network's own code runs, its own numbers, and the keys under which it keeps modules.

    What Python compares shows in no operation: ``if domain == 7``, ``experts[name]``.

    Args:
        model: a network.

    >>> class Net(nn.Module):
    ...     def forward(self, x, domain):
    ...         return x * 3 if domain == 70 else x
    >>> sorted(spoken(Net()))
    [3, 70]
    """
    found: set[int | float | str] = set()
    seen: set[CodeType] = set()
    for module in model.modules():
        kind, own = type(module), vars(module)
        if not kind.__module__.startswith("torch."):
            _say([getattr(kind, "forward", None), *own.values()], kind, seen, found)
            found.update(value for value in own.values() if type(value) in (int, float))
        if isinstance(module, nn.ModuleDict | nn.ParameterDict):
            found.update(module.keys())
    return {value for value in found if isinstance(value, str) or abs(value) < FARTHEST}


def _say(values: Iterable[Any], kind: type, seen: set[CodeType], found: set[int | float | str]) -> None:
    """Note the constants of functions and of those that they call by name, of their class or of their file."""
    for value in values:
        code = getattr(value, "__code__", value)
        if not isinstance(code, CodeType) or code in seen:
            continue
        seen.add(code)
        words = {getattr(value, "__doc__", None)}
        found.update(c for c in code.co_consts if type(c) in (int, float, str) and c not in words)
        globally = getattr(value, "__globals__", {})
        named = [vars(kind).get(name, globally.get(name)) for name in code.co_names]
        inner = [f for f in named if isinstance(f, FunctionType) and not f.__module__.startswith("torch")]
        _say([*code.co_consts, *inner], kind, seen, found)
