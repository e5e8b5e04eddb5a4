"""What a forward does, noted: which operations ran, what numbers were compared with, and where they were looked up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

COMPARED = frozenset(
    {"eq", "ne", "lt", "le", "gt", "ge", "less", "less_equal", "greater", "greater_equal", "not_equal", "isin"}
)
PRODUCTS = {"linear": 1, "conv1d": 1, "conv2d": 1, "conv3d": 1, "matmul": 1, "mm": 1, "bmm": 1, "addmm": 2}
"""Operations that multiply by a matrix, and which of their arguments that is."""
FARTHEST = 1e6
"""Beyond this a number that something is compared with is no threshold of an input."""


class OperationLog(TorchFunctionMode):
    """What a network does between its input and its answer, operation by operation.

    >>> ids = torch.arange(4)
    >>> with OperationLog() as log:
    ...     _ = (ids > 150).any()
    >>> log.operations, log.thresholds, log.compared(ids)
    (['gt', 'any'], {150.0}, {150.0})
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []
        self.thresholds: set[float] = set()
        self.tables: list[tuple[int, Tensor]] = []
        self.work = 0.0
        self._compared: list[tuple[Tensor, list[float]]] = []

    def compared(self, leaf: Tensor) -> set[float]:
        """With what a tensor itself was compared."""
        return {number for t, numbers in self._compared if same_numbers(t, leaf) for number in numbers}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation, and note it."""
        y = func(*args, **(kwargs or {}))
        name = str(getattr(func, "__name__", func)).strip("_")
        if name != "get":
            every = (*args, *(kwargs or {}).values())
            self.operations.append(name)
            self.work += _work(name, every, y) if isinstance(y, Tensor) else 0.0
            self._compare(name, every)
            self.tables += [(size, index.detach().clone()) for size, index in _lookups(name, every)]
        return y

    def _compare(self, name: str, args: tuple[Any, ...]) -> None:
        if name in COMPARED:
            numbers = _numbers(args[1:])
            self.thresholds.update(numbers)
            if isinstance(args[0], Tensor) and not args[0].is_floating_point():
                self._compared.append((args[0].detach().clone(), numbers))


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers, whatever their shapes."""
    return a.numel() == b.numel() and bool((a.flatten() == b.flatten()).all())


def _numbers(args: Iterable[Any]) -> list[float]:
    """The numbers among some arguments, and those of short tensors."""
    found = [float(a) for a in args if isinstance(a, (int, float))]
    for a in args:
        found += a.flatten().tolist() if isinstance(a, Tensor) and a.numel() <= SHORT and not a.is_complex() else []
    return [float(number) for number in found if abs(number) < FARTHEST]


SHORT = 8


def _lookups(name: str, args: tuple[Any, ...]) -> list[tuple[int, Tensor]]:
    """The sizes of the tables that an operation looks something up in, and at which places."""
    if name in ("embedding", "embedding_bag"):
        found = [(args[1].shape[0], args[0])]
    elif name == "getitem":
        places = args[1] if isinstance(args[1], tuple) else (args[1],)
        found = [(args[0].shape[axis] if axis < args[0].ndim else 1, index) for axis, index in enumerate(places)]
    elif name in ("index_select", "gather", "scatter", "take_along_dim"):
        index = next((a for a in args[1:] if isinstance(a, Tensor)), None)
        axis = next((a for a in args[1:] if isinstance(a, int)), 0)
        found = [(args[0].shape[axis], index)]
    elif name == "one_hot":
        found = [(next((a for a in args[1:] if isinstance(a, int)), -1), args[0])]
    else:
        found = []
    return [(int(size), index) for size, index in found if isinstance(index, Tensor) and index.dtype in INTEGERS]


INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


def _work(name: str, args: tuple[Any, ...], y: Tensor) -> float:
    """About how long it took, in numbers made one by one; of products, sixteen terms count as one."""
    terms = 0
    if name in PRODUCTS and isinstance(args[PRODUCTS[name]], Tensor):
        matrix = args[PRODUCTS[name]]
        transposed = name in ("matmul", "mm", "bmm", "addmm") and matrix.ndim > 1
        terms = matrix.shape[-2] if transposed else matrix[:1].numel()
    return y.numel() * (1 + terms / 16)


def constants_of(model: nn.Module) -> set[int | float | str]:
    """The constants in what a network's own code runs, its own numbers, and the keys under which it keeps modules.

    What Python compares shows in no operation: ``if domain == 7``, ``experts[name]``.

    Args:
        model: a network.

    >>> class Net(nn.Module):
    ...     def forward(self, x, domain):
    ...         return x * 3 if domain == 70 else x
    >>> sorted(constants_of(Net()))
    [3, 70]
    """
    found: set[int | float | str] = set()
    seen: set[CodeType] = set()
    for module in model.modules():
        kind, own = type(module), vars(module)
        if not kind.__module__.startswith("torch."):
            _collect_constants([getattr(kind, "forward", None), *own.values()], kind, seen, found)
            found.update(value for value in own.values() if type(value) in (int, float))
        if isinstance(module, nn.ModuleDict | nn.ParameterDict):
            found.update(module.keys())
    return {value for value in found if isinstance(value, str) or abs(value) < FARTHEST}


def _collect_constants(values: Iterable[Any], kind: type, seen: set[CodeType], found: set[int | float | str]) -> None:
    """Note the constants of functions and of those that they call by name, of their class or of their file."""
    for value in values:
        code = getattr(value, "__code__", value)
        if not isinstance(code, CodeType) or code in seen:
            continue
        seen.add(code)
        words = {getattr(value, "__doc__", None)}
        found.update(c for c in _flat(code.co_consts) if type(c) in (int, float, str) and c not in words)
        globally = getattr(value, "__globals__", {})
        named = [vars(kind).get(name, globally.get(name)) for name in code.co_names]
        inner = [f for f in named if isinstance(f, FunctionType) and not f.__module__.startswith("torch")]
        _collect_constants([*code.co_consts, *inner], kind, seen, found)


def _flat(constants: Iterable[Any]) -> Iterable[Any]:
    for constant in constants:
        yield from _flat(constant) if isinstance(constant, (tuple, frozenset)) else (constant,)
