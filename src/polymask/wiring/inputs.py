"""Inputs of a network: its example, and the same with other values, flags, lengths and batch sizes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

import torch
from torch import Tensor

from polymask.calling import has_fractions, noise_like
from polymask.wiring.sizes import Sizes, resized
from polymask.wiring.values import Way

REFUSED = (LookupError, RuntimeError, ValueError, ArithmeticError, AssertionError, TypeError, AttributeError)
"""What a network raises when it is given something that it does not take."""
TRIES = 4
"""How often an input is drawn anew where a network refuses one."""
T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """One kind of input.

    Args:
        sizes: axes that measure something else than in the example.
        pins: leaf -> how it is drawn; the others as they come.
        often: how often it is asked for: more often if the network then does something else.
    """

    sizes: Sizes = field(default_factory=dict)
    pins: Mapping[int, Way] = field(default_factory=dict)
    often: int = 1


@dataclass
class InputSpace:
    """All that a network takes, as far as it was tried.

    Args:
        base: the sizes at which it is asked: one row, or those of the example.
        ways: leaf -> how it may be drawn.
        settings: what else may be asked.
        other_modules: inputs under which modules are called that are not called otherwise.
        other_behaviour: inputs under which it did something that it had not done before.
        most: how many numbers an input may hold.
    """

    base: Sizes = field(default_factory=dict)
    ways: dict[int, list[Way]] = field(default_factory=dict)
    settings: list[Setting] = field(default_factory=lambda: [Setting()])
    other_modules: list[Any] = field(default_factory=list)
    other_behaviour: list[Any] = field(default_factory=list)
    most: float = float("inf")


class Inputs:
    """Inputs of a network, drawn like its example and unlike it.

    Args:
        example: an input that the network accepts.
        draw: where random numbers come from.
        space: what it takes.
    """

    def __init__(self, example: Any, draw: torch.Generator, space: InputSpace) -> None:
        self.example, self.draw, self.space = example, draw, space
        self.leaves = list(leaves_in(example))
        self.shapes = {place: tuple(t.shape) for place, t in enumerate(self.leaves) if isinstance(t, Tensor)}
        self._turn = self._turns()

    def make(self, setting: Setting, pinned: bool = False) -> Any:
        """An input; the leaves that a setting leaves open as given, or as they come."""
        leaves = []
        for place, leaf in enumerate(self.leaves):
            way = setting.pins.get(place) or (None if pinned else self._any_way(place))
            if way is not None and way.kind == "beside":
                other = resized(self.leaves[way.low], way.low, setting.sizes)
                leaf, way = torch.ones(other.shape[:2], dtype=way.points[0]), Way("within", 0, 1)
            elif isinstance(leaf, Tensor):
                leaf = resized(leaf, place, setting.sizes)
            if isinstance(leaf, Tensor) and leaf.is_complex() and not pinned:
                leaf = leaf if _rarely(self.draw) else noise_like(leaf.cpu(), self.draw).to(leaf.device)
            leaves.append(leaf if way is None else way.drawn(leaf, self.draw))
        return with_leaves(self.example, iter(leaves))

    def base(self, scale: float) -> Any:
        """The example at its base sizes, fractions drawn anew, all else as given."""
        leaves = []
        for place, leaf in enumerate(self.leaves):
            value = resized(leaf, place, self.space.base) if isinstance(leaf, Tensor) else leaf
            if isinstance(value, Tensor) and has_fractions(value):
                value = noise_like(value.cpu(), self.draw) * scale
            leaves.append(value)
        return with_leaves(self.example, iter(leaves))

    def next_accepted(self, run: Callable[[Any], T]) -> tuple[Any, T] | None:
        """The next kind of input, and what came of it; None if the network refuses all that was tried."""
        setting = next(self._turn)
        for place in range(TRIES):
            x = self.make(self._mixed(setting) if place % 2 else setting)
            try:
                return x, run(x)
            except REFUSED:
                continue
        return None

    def _mixed(self, setting: Setting) -> Setting:
        """Sometimes the sizes of one setting with the values of another."""
        other = self.space.settings[int(torch.randint(len(self.space.settings), (), generator=self.draw))]
        mixed = Setting({**setting.sizes, **other.sizes}, {**other.pins, **setting.pins})
        return mixed if self.cells(mixed.sizes) <= self.space.most else setting

    def cells(self, sizes: Sizes) -> int:
        """How many numbers an input holds."""
        total = 0
        for place, shape in self.shapes.items():
            here = 1
            for axis, now in enumerate(shape):
                here *= sizes.get((place, axis), now)
            total += here
        return max(total, 1)

    def _any_way(self, place: int) -> Way | None:
        ways = self.space.ways.get(place)
        return ways[int(torch.randint(len(ways), (), generator=self.draw))] if ways else None

    def _turns(self) -> Iterator[Setting]:
        """Every setting in its turn, for ever; those asked for more often come first."""
        for turn in count():
            longest = max(setting.often for setting in self.space.settings)
            yield from (setting for setting in self.space.settings if setting.often > turn % longest)


def _rarely(draw: torch.Generator) -> bool:
    return bool(torch.rand((), generator=draw) < 0.25)


def leaves_in(x: Any) -> Iterator[Any]:
    """All that stands in nested tuples, lists and mappings, tensor or not.

    Yields:
        One leaf after the other.

    >>> list(leaves_in({"a": (1, "b"), "c": None}))
    [1, 'b', None]
    """
    if isinstance(x, Mapping):
        x = list(x.values())
    if isinstance(x, (tuple, list)):
        for value in x:
            yield from leaves_in(value)
    else:
        yield x


def with_leaves(x: Any, leaves: Iterator[Any]) -> Any:
    """The same nesting with other leaves.

    >>> with_leaves({"a": (1, "b"), "c": None}, iter([2, 3, 4]))
    {'a': (2, 3), 'c': 4}
    """
    if isinstance(x, Mapping):
        return {key: with_leaves(value, leaves) for key, value in x.items()}
    if isinstance(x, (tuple, list)):
        values = [with_leaves(value, leaves) for value in x]
        return type(x)(*values) if hasattr(x, "_fields") else type(x)(values)
    return next(leaves)


def with_options(forward: Callable[..., Any], x: Any) -> Any:
    """An example by name, with what it leaves out of a forward and could give: a mask, a flag, a word.

    Args:
        forward: of a network.
        x: the example; it comes back as it is where nothing is left out.

    >>> with_options(lambda x, mask=None, *, causal=False, scale=2.0: x, 3)
    {'x': 3, 'mask': None, 'causal': False}
    """
    try:
        signature = inspect.signature(forward)
        named = isinstance(x, Mapping)
        given = x if named else signature.bind(*(x if isinstance(x, (tuple, list)) else (x,))).arguments
    except (TypeError, ValueError):
        return x
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = {name: p.default for name, p in signature.parameters.items() if p.kind in kinds}
    left = {name: default for name, default in known.items() if name not in given and type(default) in OPTIONS}
    return {**given, **left} if left and (named or known.keys() >= given.keys()) else x


OPTIONS = (type(None), bool, int, str)
