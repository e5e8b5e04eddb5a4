"""Look at a network at work: paint the output of some layers, see where the paint arrives."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from polymask.calling import as_read, call, logits_of, tensors_of, two_rows
from polymask.copies.kept import twin
from polymask.parts.seeds import generator
from polymask.wiring.disturb import Disturbance
from polymask.wiring.explore import explore
from polymask.wiring.inputs import REFUSED, Inputs, InputSpace, with_options

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
PLAIN = (*LAYERS, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""What does nothing but compute its output: where that is painted over, it need not."""
See = Callable[[Tensor, int], Tensor]


def axis_of(module: nn.Module) -> int:
    """The axis of a layer's units in its output, and of its columns in its input; from the layer, never from ndim.

    >>> axis_of(nn.Linear(2, 2)), axis_of(nn.Conv2d(1, 1, 1)), axis_of(nn.BatchNorm1d(2)), axis_of(nn.LayerNorm(2))
    (-1, -3, 1, -1)
    """
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return -1 - len(module.kernel_size)
    name = type(module).__name__
    channels_first = isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm) or "2d" in name
    return 1 if channels_first else -1


def nan_columns(x: Tensor, axis: int) -> Tensor:
    """The columns in which something is NaN."""
    if not x.is_floating_point() or not x.numel():
        return nonzero_columns(x.isnan(), axis)
    others = [place for place in range(x.ndim) if place != axis % x.ndim]
    return (x.amax(others) if others else x).isnan()


def nonzero_columns(x: Tensor, axis: int) -> Tensor:
    """The columns in which something is not zero."""
    return (x != 0).movedim(axis, -1).reshape(-1, x.shape[axis]).any(0)


def nonzero_number_columns(x: Tensor, axis: int) -> Tensor:
    """The columns in which something is a number other than zero: under large inputs some networks only answer NaN."""
    return nonzero_columns(x.nan_to_num(0.0, 0.0, 0.0), axis)


class PaintedCopy:
    """A perturbed copy of a network in evaluation mode, whose layers' outputs can be overwritten unit by unit.

    Parameters and running statistics are moved at random, so that what is zero by accident (a bias at its start) is
    seen to be no law. Of the example one row goes in, where the network takes one; and beside it other inputs.

    Args:
        model: any plain module.
        example: an input that it accepts.
        key: of the random draws.
        later: buffers that a forward changes -> what they may look like later.
        space: what the network takes beside its example, if that is known.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        key: object = 0,
        space: InputSpace | None = None,
        *,
        later: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.model = twin(model).cpu().float()
        self.model.eval()
        self.draw = generator("wiring", key)
        self.modules = dict(self.model.named_modules())
        self._disturbance = Disturbance(self.model, self.draw, later)
        self._disturbance.redraw()
        given = as_read(self.model, tensors_of(example, lambda t: t.detach().cpu()))
        self.inputs = Inputs(with_options(self.model.forward, given), self.draw, space or InputSpace())
        if space is None:
            self.inputs.space = explore(self.model, self.inputs)
        self.extra_inputs = [*self.inputs.space.other_modules]
        self._outputs: dict[str, dict[Any, Any]] = {}
        self._redrawn = 0
        self.redraw()

    @property
    def followed_inputs(self) -> list[Any]:
        """The inputs under which paint is followed: the example, and others that take another path."""
        return [self.example, *self.extra_inputs]

    @torch.no_grad()
    def run(
        self,
        values: Mapping[str, Tensor],
        look: Mapping[str, int] | None = None,
        see: See = nan_columns,
        idle: Collection[str] = (),
        x: Any = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One forward.

        Args:
            values: module -> a value per unit of its output: 1 leaves the unit, 0 and NaN overwrite it.
            look: reader -> axis of its columns.
            see: what to note of an input's columns; by default whether they hold a NaN.
            idle: layers whose output does not matter.
            x: the input; by default the example.

        Returns:
            The logits, and of every reader, column by column, whether something was seen in any of its calls.
        """
        seen: dict[str, Tensor] = {}
        covered = {path for path, value in values.items() if not (value == 1).any()}
        hooks = [
            self.modules[path].register_forward_hook(
                partial(_paint, axis_of(self.modules[path]), value, path in covered)
            )
            for path, value in values.items()
        ]
        for path, axis in (look or {}).items():
            watch = partial(_watch, path, axis, see, seen)
            hooks.append(self.modules[path].register_forward_pre_hook(watch, with_kwargs=True))
        spared = [path for path in {*covered, *idle} if type(self.modules[path]) in PLAIN]
        for path in spared:
            known = self._outputs.setdefault(path, {})
            self.modules[path].forward = partial(_shortened, self.modules[path].forward, known)
        try:
            logits = logits_of(call(self.model, self.example if x is None else x))
        finally:
            for hook in hooks:
                hook.remove()
            for path in spared:
                del self.modules[path].forward
        return logits, seen

    def inputs_of(
        self,
        values: Mapping[str, Tensor],
        look: Mapping[str, int],
        readers: Collection[str],
        idle: Collection[str],
        x: Any,
    ) -> dict[str, Tensor]:
        """What arrives at some readers, shape (places of all calls, columns).

        Args:
            values: module -> a value per unit of its output.
            look: reader -> axis of its columns.
            readers: those that are looked at.
            idle: layers whose output does not matter.
            x: the input.
        """
        found: dict[str, list[Tensor]] = {reader: [] for reader in readers}
        hooks = [
            self.modules[path].register_forward_pre_hook(partial(_gather, look[path], found[path]), with_kwargs=True)
            for path in readers
        ]
        try:
            self.run(values, idle=idle, x=x)
        finally:
            for hook in hooks:
                hook.remove()
        return {reader: torch.cat(parts) for reader, parts in found.items() if parts}

    def modules_called(self, sizes: Mapping[str, int]) -> dict[str, bool]:
        """Which modules are called in this mode, and always answer with one tensor that has their units at their axis.

        Args:
            sizes: module -> how many units it should have.
        """
        found: dict[str, bool] = {}
        for x in self.followed_inputs:
            # Batch statistics want two rows; but not every network takes them.
            several = two_rows(x)
            each = self._modules_called_by(several, sizes) or self._modules_called_by(x, sizes) or {}
            for path, fits in each.items():
                found[path] = found.get(path, True) and fits
        return found

    def _modules_called_by(self, x: Any, sizes: Mapping[str, int]) -> dict[str, bool] | None:
        """Which modules an input calls; None if the network refuses it."""
        found: dict[str, bool] = {}
        hooks = [
            self.modules[path].register_forward_hook(partial(_note, path, axis_of(self.modules[path]), size, found))
            for path, size in sizes.items()
        ]
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                call(self.model, x)
        except REFUSED:
            return None
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def redraw(self) -> None:
        """Other parameters and another input: fractions at random, small and large; all else as in the example."""
        scale = (1, 10, 3)[self._redrawn % 3]
        self._redrawn += 1
        self._disturbance.redraw()
        self.example = self.inputs.base(scale)


# What hooks do, bound by ``partial``: in tests, a function made anew for every hook would be type-checked anew.


def _paint(axis: int, value: Tensor, covers: bool, _: nn.Module, __: Any, y: Tensor) -> Tensor:
    shape = [1] * y.ndim
    shape[axis] = -1
    v = value.view(shape).to(y.dtype)
    return torch.empty_like(y).copy_(v) if covers else torch.where(v == 1, y, v)


def _shortened(forward: Callable[[Tensor], Tensor], known: dict[Any, Any], input: Tensor) -> Tensor:
    """A layer's work, done only where the form of its output is not yet known; zeros in that form after that."""
    key = (input.shape, input.stride(), input.dtype)
    if key not in known:
        y = forward(input)
        known[key] = (y.shape, y.stride(), y.dtype)
        return y
    shape, stride, dtype = known[key]
    return torch.empty_strided(shape, stride, dtype=dtype).zero_()


def _watch(
    path: str, axis: int, see: See, seen: dict[str, Tensor], _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if tensors:
        found = see(tensors[0], axis)
        if any(see(other, -1).any() for other in tensors[1:] if other.ndim):
            found = torch.ones_like(found)
        seen[path] = seen[path] | found if path in seen else found


def _gather(axis: int, parts: list[Tensor], _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    first = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
    parts.append(first.movedim(axis, -1).reshape(-1, first.shape[axis]).clone())


def _note(path: str, axis: int, size: int, found: dict[str, bool], _: nn.Module, __: Any, y: Any) -> None:
    fits = isinstance(y, Tensor) and -y.ndim <= axis < y.ndim and y.shape[axis] == size
    found[path] = found.get(path, True) and fits


def zeros_for(sizes: Mapping[str, int], paths: Iterable[str]) -> dict[str, Tensor]:
    """Zeros for all units of some modules."""
    return {path: torch.zeros(sizes[path]) for path in paths}
