"""What a layer with something of the tasks' own does when it is called: tell where samples lie, or answer them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from polymask.calling import call
from polymask.mixed.forms import Form, Spread
from polymask.mixed.layout import Layout, signature
from polymask.mixed.routes import Mark, Routes


class Unlike(Exception):  # noqa: N818 - the name says what is wrong
    """A pass that calls its layers otherwise than the one in which it was asked where samples lie."""


@dataclass(frozen=True)
class Layer:
    """A layer of which tasks have something of their own.

    Args:
        path: its name.
        form: how it answers rows of different tasks.
        plain: what it does by itself.
        units: the axis of the units in its output.
        seen_by: their axis in its input; None: no axis of that is the units'.
    """

    path: str
    form: Form
    plain: Callable[[Tensor], Any]
    units: int
    seen_by: int | None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do what the pass that is under way in this thread asks for."""
        if kwargs or len(args) != 1 or not isinstance(args[0], Tensor):
            raise ValueError(
                f"expected {self.path!r}, of which tasks have their own, to be called on one tensor, found "
                f"{len(args) + len(kwargs)} arguments: answer one task at a time, with activate(task)"
            )
        turn = TURN.get()
        if turn is None:
            raise ValueError(
                f"expected {self.path!r} to be called in the thread that called Mixed, found another one: answer one "
                "task at a time, with activate(task)"
            )
        before = len(turn.read)
        try:
            return turn.answer(self, args[0])
        finally:
            # What is read inside is the layer's own affair, or ours.
            del turn.read[before:]


class Turn(ABC):
    """One pass through the network, and all that is known of it: no two passes, in whatever threads, share any.

    What it reads of tensors outside such layers is in ``read``, where ``readings`` notes it.
    """

    def __init__(self) -> None:
        self.read: list[object] = []

    @abstractmethod
    def answer(self, layer: Layer, x: Tensor) -> Any:
        """The output of a layer."""


TURN: ContextVar[Turn | None] = ContextVar("polymask.mixed.turn", default=None)


def run(model: nn.Module, turn: Turn, x: Any) -> Any:
    """Call a network whose layers do what a turn says; in this thread alone."""
    token = TURN.set(turn)
    try:
        return call(model, x)
    finally:
        TURN.reset(token)


class Asking(Turn):
    """The network as it is; what each layer is given is noted.

    Args:
        routes: follows the batch, in one of the passes.
    """

    def __init__(self, routes: Routes | None = None) -> None:
        super().__init__()
        self.routes = routes
        self.seen: dict[str, list[Tensor]] = {}
        self.marks: dict[str, list[Mark]] = {}

    def answer(self, layer: Layer, x: Tensor) -> Any:
        """The plain layer's."""
        self.seen.setdefault(layer.path, []).append(signature(x, layer.seen_by))
        if self.routes is None:
            return layer.plain(x)
        self.marks.setdefault(layer.path, []).append(self.routes.of(x))
        with self.routes.inside(layer.path):
            return layer.plain(x)


class Together(Turn):
    """Every sample as its own task.

    Args:
        layouts: layer -> where samples lie, call by call.
        index: the task of every sample.
    """

    def __init__(self, layouts: Mapping[str, Sequence[Layout]], index: Tensor) -> None:
        super().__init__()
        self.layouts, self.index = layouts, index
        self.turns: dict[str, int] = {}

    def answer(self, layer: Layer, x: Tensor) -> Any:
        """Every position as its sample's task."""
        turn = self.turns.get(layer.path, 0)
        self.turns[layer.path] = turn + 1
        known = self.layouts.get(layer.path, ())
        if turn >= len(known) or not known[turn].fits(x, layer.seen_by):
            raise Unlike
        return layer.form(x, self._spread(known[turn], layer.units))

    def _spread(self, layout: Layout, units: int) -> Spread:
        return lambda values, y: layout.spread(values, self.index, y.ndim, units)

    def finish(self) -> None:
        """Raise unless every layer was called as often as it was asked."""
        if self.turns != {path: len(calls) for path, calls in self.layouts.items()}:
            raise Unlike


class Alone(Turn):
    """The whole batch as one task: right wherever its samples lie.

    Args:
        task: its place among the tasks.
    """

    def __init__(self, task: int) -> None:
        super().__init__()
        self.task = task

    def answer(self, layer: Layer, x: Tensor) -> Any:
        """Every position as this task."""
        return layer.form(x, self._spread(layer.units))

    def _spread(self, units: int) -> Spread:
        def spread(values: Tensor, y: Tensor) -> Tensor:
            shape = [1] * y.ndim
            shape[units] = -1
            return values[self.task].view(shape)

        return spread
