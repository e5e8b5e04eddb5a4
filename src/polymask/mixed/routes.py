"""Whether a network sends samples where their values say: seen from its operations, so that no value must be tried."""

from __future__ import annotations

import enum
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from polymask.calling import leaves_of


class Mark(enum.IntFlag):
    """What is known of a tensor.

    It depends on the batch; by numbers alone; by numbers that were made of fractions, as an order is of scores; values
    chose where samples lie in it.
    """

    BATCH = 1
    NUMBER = 2
    CHOICE = 4
    ROUTED = 8


IN_PLACE = ("where", "masked_fill", "copy", "fill", "cat", "stack")
"""What leaves every value at its place, or beside others, and is not marked as pointwise by torch."""
TABLE = ("embedding", "index", "index_select", "gather", "take")
"""A row of a constant for a number; of choices it may be a row of a permutation."""
ATTENTION = ("_scaled_dot_product", "_fused_sdp_choice", "_efficient_attention", "_flash_attention", "_cudnn_attention")
"""Here numbers are a mask on what samples read."""


class Routes(TorchDispatchMode):
    """Follow a batch through a network: what depends on it, and where its values choose positions.

    They do where numbers that depend on the batch meet something else that does in an operation that is not pointwise:
    an index, a one-hot product, a packing by lengths. Marks are of memory, so views share them.

    Args:
        x: the batch; its tensors are what is followed.
        owned: tensor -> the layer that it is of; reading one elsewhere than inside the layer is noted in ``elsewhere``.
    """

    supports_higher_order_operators = True

    def __init__(self, x: Any, owned: Sequence[tuple[Tensor, str]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._marks: weakref.WeakKeyDictionary[Any, Mark] = weakref.WeakKeyDictionary()
        self._owned: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
        self._inside: list[str] = []
        self.elsewhere: set[str] = set()
        for t in leaves_of(x):
            self._add(t, Mark.BATCH if t.is_floating_point() else Mark.BATCH | Mark.NUMBER)
        for t, path in owned:
            if (memory := _memory(t)) is not None:
                self._owned[memory] = path

    def of(self, t: Tensor) -> Mark:
        """What is known of a tensor."""
        memory = _memory(t)
        return Mark(0) if memory is None else self._marks.get(memory, Mark(0))

    @contextmanager
    def inside(self, path: str) -> Iterator[None]:
        """While a layer itself is called."""
        self._inside.append(path)
        try:
            yield
        finally:
            self._inside.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and mark what it made and wrote."""
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        marks = [self.of(t) for t in given]
        for t in given:
            memory = _memory(t)
            path = None if memory is None else self._owned.get(memory)
            if path is not None and path not in self._inside:
                self.elsewhere.add(path)
        out = func(*args, **kwargs)
        if mark := _after(func, marks):
            made = Mark.NUMBER if mark & Mark.NUMBER else Mark.NUMBER | Mark.CHOICE
            for t in (*(t for t in tree_leaves(out) if isinstance(t, Tensor)), *_written(func, args, kwargs)):
                self._add(t, mark if t.is_floating_point() else mark | made)
        return out

    def _add(self, t: Tensor, mark: Mark) -> None:
        if (memory := _memory(t)) is not None:
            self._marks[memory] = self._marks.get(memory, Mark(0)) | mark


def _memory(t: Tensor) -> Any:
    """What a tensor and its views share; None where it has no memory of its own."""
    return t.untyped_storage() if t.layout == torch.strided else None


def _after(func: Any, given: list[Mark]) -> Mark:
    """The mark of what an operation makes from tensors of these marks."""
    live = [mark for mark in given if mark]
    if not live:
        return Mark(0)
    known = isinstance(func, torch._ops.OpOverload)
    name = func._schema.name.partition("::")[2].rstrip("_") if known else ""
    beside = known and (torch.Tag.pointwise in func.tags or name in IN_PLACE)
    numbers = [mark for mark in live if mark & Mark.NUMBER]
    chosen = numbers and len(live) > 1 and not beside and not name.startswith(ATTENTION)
    routed = chosen or not known or any(one & Mark.ROUTED for one in live)
    mark = Mark.BATCH | Mark.ROUTED if routed else Mark.BATCH
    if len(numbers) < len(live):
        return mark
    choice = Mark.CHOICE if any(one & Mark.CHOICE for one in live) else Mark(0)
    # An embedding of numbers is not a number: a weight that is no number has a part in it.
    still = beside or len(given) == len(live) or (choice and name in TABLE)
    return mark | Mark.NUMBER | choice if still else mark


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The arguments that an operation writes to."""
    if not isinstance(func, torch._ops.OpOverload):
        return []
    wanted = func._schema.arguments
    given = {**dict(zip((one.name for one in wanted), args, strict=False)), **kwargs}
    found = [given.get(one.name) for one in wanted if one.alias_info is not None and one.alias_info.is_write]
    return [t for t in tree_leaves(found) if isinstance(t, Tensor)]


class Readings(TorchDispatchMode):
    """Note every number that Python reads from a tensor.

    Args:
        found: where they are noted.
    """

    supports_higher_order_operators = True

    def __init__(self, found: list[object]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and note its result where that is no tensor."""
        out = func(*args, **(kwargs or {}))
        if isinstance(out, bool | int | float | complex):
            self.found.append(out)
        return out


LEAVING = (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.__dlpack__)


class Lists(TorchFunctionMode):
    """Note what leaves torch whole: lists and arrays, which no operation makes.

    Args:
        found: where they are noted.
    """

    def __init__(self, found: list[object]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, and note what it copied out."""
        if func in LEAVING:
            self.found.append(args[0].detach().cpu().tolist())
        return func(*args, **(kwargs or {}))


@contextmanager
def readings(found: list[object]) -> Iterator[None]:
    """Note what Python reads of tensors meanwhile: what a network's own branches and loops can depend on."""
    with Readings(found), Lists(found):
        yield
