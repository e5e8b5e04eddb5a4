"""Widen a network: the new rows and columns that its layers get where they can have more units."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from polymask.parts.seeds import generator
from polymask.sites.table import Sites
from polymask.sites.trace import Place, places

Steps = dict[str, tuple[int, int]]
"""Tensor -> how many rows and how many columns it gains for each new unit."""


class CannotGrow(ValueError):  # noqa: N818 - the name says what is wrong
    """A network without a layer that can have more units."""


@dataclass(frozen=True)
class Axes:
    """Where a network can grow, and by what.

    Args:
        groups: the layers that grow as one; those whose units are added to each other stand together.
        steps: tensor -> how many rows and columns it gains for each new unit; they come after its last ones.
        built: tensor -> its shape before any growth, for those of ``steps``.
        left: layer -> why it keeps its width.
        bare: the weights whose layer keeps its units apart and has no norm behind it.
    """

    groups: tuple[tuple[str, ...], ...] = ()
    steps: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    built: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    bare: tuple[str, ...] = ()

    def block(self, name: str, shape: torch.Size, growth: int) -> tuple[int, ...]:
        """The shape of a tensor in a network that has grown by so many units; an axis that never grows is as now.

        Args:
            name: of the tensor.
            shape: what it has now.
            growth: how many units every group has beyond those that it was built with.
        """
        if name not in self.steps:
            return tuple(shape)
        steps = (*self.steps[name], *[0] * len(shape))
        built = self.built[name]
        return tuple(built[i] + growth * steps[i] if steps[i] else size for i, size in enumerate(shape))

    def growth(self, name: str, shape: Iterable[int]) -> int:
        """How many units a tensor's layers have, by its shape, beyond those that they were built with."""
        sizes = zip(shape, self.built[name], (*self.steps[name], *[0] * 8), strict=False)
        return max((now - was) // step for now, was, step in sizes if step)


@torch.no_grad()
def widen(target: nn.Module | Sites, axes: Axes, growth: int, key: tuple[object, ...] = ()) -> None:
    """Give every group of layers ``growth`` units beyond those that it was built with, in place.

    New rows and columns come after the old ones, whose values stay as they are, to the bit. New weights are uniform in
    ``(-b, b)``, ``b = 1 / sqrt(fan_in)``; new biases and means are 0, new gains and variances 1.

    Args:
        target: a plain network, or the sites of an attached one.
        axes: where it can grow.
        growth: how many units beyond those built; where they are there already, nothing happens.
        key: what the draws are keyed by, beside the tensor's name.

    Raises:
        ValueError: if a layer is wider than that already.

    >>> from polymask.sites.roles import Policy, plan
    >>> from polymask.surgery import growable
    >>> net, x = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.zeros(1, 2)
    >>> axes = growable(net, x, plan(net, x, Policy("masked", "private", "private", "private")))
    >>> widen(net, axes, 2)
    >>> net[0].weight.shape, net[0].bias[3:], net[2].weight.shape
    (torch.Size([5, 2]), tensor([0., 0.], grad_fn=<SliceBackward0>), torch.Size([1, 5]))
    """
    where = {} if isinstance(target, Sites) else places(target)
    for name in axes.steps:
        old = target.base(name) if isinstance(target, Sites) else where[name][0].tensor().detach()
        block = axes.block(name, old.shape, growth)
        if any(new < now for new, now in zip(block, old.shape, strict=True)):
            raise ValueError(
                f"expected {name!r} to be no larger than {block}, found {tuple(old.shape)}: growth= is too small"
            )
        if block == tuple(old.shape):
            continue
        value = _fresh(name, block, (*key, name)).to(old.device, old.dtype)
        value[tuple(slice(size) for size in old.shape)] = old
        if isinstance(target, Sites):
            target.write(name, value)
        else:
            _replace(where[name][0], value)


def _replace(place: Place, value: Tensor) -> None:
    old = place.tensor()
    place.replace(nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value)


def _fresh(name: str, shape: tuple[int, ...], key: tuple[object, ...]) -> Tensor:
    if len(shape) > 1:
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        return torch.empty(shape).uniform_(-bound, bound, generator=generator(*key, "grown"))
    return torch.full(shape, 1.0 if name.rpartition(".")[2] in ("weight", "running_var") else 0.0)
