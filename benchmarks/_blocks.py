"""The words of the grammar: layers that do more than their product, norms, activations, and rules that join them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class Said:
    """What a block may look at besides its input.

    Args:
        batch: the axis of samples.
        time: the axis of steps; None: there is none.
        flag: the second input, broadcasting to the samples; None: there is none.
        real: 1 where a step is no padding, 0 where it is; None: nothing is padded.
    """

    batch: int = 0
    time: int | None = None
    flag: Tensor | None = None
    real: Tensor | None = None


Rule = Callable[["Block", Tensor, Said], Tensor]


class Block(nn.Module):
    """Parts of a network and the rule that joins them."""

    def __init__(self, rule: Rule, parts: Mapping[str, Any], axis: int) -> None:
        super().__init__()
        self.rule, self.axis = rule, axis
        for name, part in parts.items():
            if isinstance(part, tuple):
                self.register_buffer(name, part[0], persistent=part[1])
            else:
                setattr(self, name, part)

    def forward(self, h: Tensor, said: Said) -> Tensor:
        return self.rule(self, h, said)

    def others(self, h: Tensor) -> list[int]:
        """All axes but the units'."""
        return [place for place in range(h.ndim) if place != self.axis % h.ndim]

    def wide(self, vector: Tensor, h: Tensor) -> Tensor:
        """A value per unit, broadcasting to an input."""
        return vector if self.axis == -1 else vector.view(-1, *[1] * (h.ndim - 2))


# Layers that are a Linear or a convolution by class, and do more than its product.


class Lora(nn.Linear):
    def __init__(self, i: int, o: int) -> None:
        super().__init__(i, o)
        self.down, self.up = nn.Parameter(torch.randn(4, i) * 0.1), nn.Parameter(torch.randn(o, 4) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.down.T @ self.up.T


class Squashed(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(super().forward(x))


class Flipped(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flip(-1)


class Standardised(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        return F.linear(x, (w - w.mean(0)) / (w.std(0) + 1e-3), self.bias)


class Cosine(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1), self.bias)


class Scaled(nn.Linear):
    def __init__(self, i: int, o: int) -> None:
        super().__init__(i, o)
        self.gain = nn.Parameter(torch.ones(o))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain + 0.1


class StandardisedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-3)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


ODD = {0: (Lora, Squashed, Flipped, Standardised, Cosine, Scaled), 2: (StandardisedConv,)}
"""By the number of a layer's spatial axes."""


# Norms that are not torch's.


class Flat(nn.Module):
    """A norm of channels on sequences, whose channels are last."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, h: Tensor) -> Tensor:
        return self.norm(h.flatten(0, -2)).view(h.shape)


class Evo(nn.Module):
    """One statistic, a variance; a learned vector inside."""

    def __init__(self, d: int, axis: int) -> None:
        super().__init__()
        self.axis, self.v, self.gain = axis, nn.Parameter(torch.ones(d)), nn.Parameter(torch.ones(d))
        self.register_buffer("running_var", torch.ones(d))

    def forward(self, h: Tensor) -> Tensor:
        others = [place for place in range(h.ndim) if place != self.axis % h.ndim]
        if self.training:
            self.running_var.lerp_(h.detach().var(others, correction=0), 0.1)
        shape = [-1 if place == self.axis % h.ndim else 1 for place in range(h.ndim)]
        var, v, gain = (t.view(shape) for t in (self.running_var, self.v, self.gain))
        return h * gain / torch.maximum((var + 1e-3).sqrt(), (v * h).abs() + 0.5)


class RootMeanSquare(nn.Module):
    def __init__(self, d: int, axis: int) -> None:
        super().__init__()
        self.axis, self.gain = axis, nn.Parameter(torch.ones(d))

    def forward(self, h: Tensor) -> Tensor:
        shape = [-1 if place == self.axis % h.ndim else 1 for place in range(h.ndim)]
        return h * torch.rsqrt(h.square().mean(self.axis, keepdim=True) + 1e-5) * self.gain.view(shape)


def norms(d: int, spatial: int, sequence: bool) -> dict[str, Callable[[], nn.Module]]:
    """The norms that fit a block, by name."""
    axis = 1 if spatial else -1
    batch = nn.BatchNorm2d if spatial == 2 else nn.BatchNorm1d
    instance = nn.InstanceNorm2d if spatial == 2 else nn.InstanceNorm1d
    found: dict[str, Callable[[], nn.Module]] = {
        "batch": lambda: batch(d),
        "batch without affine": lambda: batch(d, affine=False),
        "batch, cumulative": lambda: batch(d, momentum=None),
        "evo": lambda: Evo(d, axis),
        "root mean square": lambda: RootMeanSquare(d, axis),
    }
    if spatial:
        found["instance with statistics"] = lambda: instance(d, affine=True, track_running_stats=True)
        found["instance"] = lambda: instance(d)
    else:
        found["layer"] = lambda: nn.LayerNorm(d)
    if sequence:
        return {
            name: (lambda make=make: Flat(make())) if name.startswith("batch") else make for name, make in found.items()
        }
    return {**found, "group": lambda: nn.GroupNorm(2, d)}


# Activations.


def square(h: Tensor) -> Tensor:
    return h * h


def gauss(h: Tensor) -> Tensor:
    return torch.exp(-h * h)


def logarithm(h: Tensor) -> Tensor:
    return torch.log(h.abs()).nan_to_num(0.0, 0.0, -5.0).clamp(min=-5)


def hard(h: Tensor) -> Tensor:
    return torch.where(h > 0.2, h, h.detach() * 0 - 0.5)


def clipped(h: Tensor) -> Tensor:
    return h.clamp(-1, 2)


def large(h: Tensor) -> Tensor:
    return torch.where(h > 150, 1 + h * 0.01, h.relu())


ACTS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU,
    "ReLU in place": lambda: nn.ReLU(inplace=True),
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "LeakyReLU": nn.LeakyReLU,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
    "Softplus": nn.Softplus,
    "Hardsigmoid": nn.Hardsigmoid,
    "Hardshrink": nn.Hardshrink,
    "PReLU": nn.PReLU,
}
FUNCTIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    F.relu,
    torch.tanh,
    torch.sigmoid,
    torch.cos,
    square,
    gauss,
    logarithm,
    hard,
    clipped,
    large,
)


class Act(nn.Module):
    """An activation that is a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, h: Tensor) -> Tensor:
        return self.function(h)
