"""Look at a network at work: paint the output of some layers, see where the paint arrives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from polymask.calling import call, logits_of, tensors_of, two_rows
from polymask.parts.seeds import generator

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
LOGITS = ""
"""Stands for the network's output among the readers."""


def axis_of(module: nn.Module) -> int:
    """The axis of a layer's units in its output, and of its columns in its input; from the layer, never from ndim.

    >>> axis_of(nn.Linear(2, 2)), axis_of(nn.Conv2d(1, 1, 1)), axis_of(nn.BatchNorm1d(2)), axis_of(nn.LayerNorm(2))
    (-1, -3, 1, -1)
    """
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return -1 - len(module.kernel_size)
    name = type(module).__name__
    channels_first = isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm) or "2d" in name
    return 1 if channels_first else -1


class Probe:
    """A perturbed copy of a network in evaluation mode, whose layers' outputs can be overwritten unit by unit.

    Parameters and running statistics are moved at random, so that what is zero by accident (a bias at its start) is
    seen to be no law. One example goes in at a time, so that it does not matter where a layer keeps its batch.

    Args:
        model: any plain module.
        example: an input that it accepts.
        key: of the random draws.
    """

    def __init__(self, model: nn.Module, example: Any, key: object = 0) -> None:
        self.model = copy.deepcopy(model).cpu().float().eval()
        self.draw = generator("wiring", key)
        self.modules = dict(self.model.named_modules())
        self.example = tensors_of(example, self._one)
        self.values: Mapping[str, Tensor] = {}
        self._axes: dict[str, int] = {}
        self._disturb()

    @torch.no_grad()
    def run(
        self,
        values: Mapping[str, Tensor],
        look: Mapping[str, int] | None = None,
        see: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One forward.

        Args:
            values: module -> a value per unit of its output: 1 leaves the unit, 0 and NaN overwrite it.
            look: reader -> axis of its columns.
            see: what to note of an input: its elements -> bool; by default whether they are NaN.

        Returns:
            The logits, and of every reader, column by column, whether an element was seen in any of its calls.
        """
        seen: dict[str, Tensor] = {}
        hooks = [self.modules[path].register_forward_hook(self._painter(path, value)) for path, value in values.items()]
        for path, axis in (look or {}).items():
            watch = _watcher(path, axis, see or torch.isnan, seen)
            hooks.append(self.modules[path].register_forward_pre_hook(watch, with_kwargs=True))
        try:
            logits = logits_of(call(self.model, self.example))
        finally:
            for hook in hooks:
                hook.remove()
        return logits, seen

    def called(self, paths: Iterable[str]) -> dict[str, bool]:
        """Which modules are called and answer with one tensor in this mode."""
        found: dict[str, bool] = {}
        hooks = [
            self.modules[path].register_forward_hook(
                lambda _, __, y, path=path: found.__setitem__(path, found.get(path, True) and isinstance(y, Tensor))
            )
            for path in paths
        ]
        with torch.no_grad(), torch.random.fork_rng():
            call(self.model, two_rows(self.example))
        for hook in hooks:
            hook.remove()
        return found

    def redraw(self) -> None:
        """Another input: floating points at random, integers as in the example."""
        self.example = tensors_of(
            self.example,
            lambda t: torch.randn(t.shape, generator=self.draw).to(t.dtype) if t.is_floating_point() else t,
        )

    def _painter(self, path: str, value: Tensor) -> Callable[..., Tensor]:
        axis = axis_of(self.modules[path])

        def paint(_: nn.Module, __: Any, y: Tensor) -> Tensor:
            shape = [1] * y.ndim
            shape[axis] = -1
            v = value.view(shape).to(y.dtype)
            return torch.where(v == 1, y, v)

        return paint

    def _one(self, x: Tensor) -> Tensor:
        x = x[:1].cpu() if x.ndim else x.cpu()
        return torch.randn(x.shape, generator=self.draw) if x.is_floating_point() else x

    @torch.no_grad()
    def _disturb(self) -> None:
        for parameter in self.model.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=self.draw).to(parameter.dtype)
                parameter.add_(noise * (0.3 * parameter.abs().mean() + (0.1 if parameter.ndim < 2 else 0.0)))
        for module in self.model.modules():
            mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
            if isinstance(mean, Tensor) and isinstance(var, Tensor):
                mean.add_(0.1 * torch.randn(mean.shape, generator=self.draw).to(mean.dtype))
                var.mul_(0.5 + torch.rand(var.shape, generator=self.draw).to(var.dtype))


def _watcher(path: str, axis: int, see: Callable[[Tensor], Tensor], seen: dict[str, Tensor]) -> Callable[..., None]:
    def watch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if x is not None:
            found = see(x).movedim(axis, -1).flatten(0, -2).any(0) if x.ndim > 1 else see(x)
            seen[path] = seen[path] | found if path in seen else found

    return watch
