"""Parameters drawn anew around their own size, so that no zero and no sign is mistaken for a law."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LARGE = 1 << 16
"""Entries from which on a tensor is drawn once and then only changes its sign: its columns have both signs anyway."""


class Disturbance:
    """What moves the parameters and running statistics of a network, again and again.

    A bias of 0 lets ``relu(0 + bias)`` look as if masked units arrived as zero, and so does a bias that happens to be
    negative; so every draw has new signs.

    Args:
        model: a network that may be changed.
        draw: where random numbers come from.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, draw: torch.Generator) -> None:
        self.draw = draw
        moving = [parameter.data for parameter in model.parameters() if parameter.is_floating_point()]
        self.spread: list[Tensor] = []
        self.variances: list[tuple[Tensor, Tensor]] = []
        for module in model.modules():
            mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
            if isinstance(mean, Tensor) and isinstance(var, Tensor):
                moving.append(mean)
                self.variances.append((var, var.clone()))
        self.small = [(t, _spread(t)) for t in moving if t.numel() <= LARGE]
        self.large = [t for t in moving if t.numel() > LARGE]
        for t in self.large:
            t.add_(self._noise(t) * _spread(t))

    @torch.no_grad()
    def redraw(self) -> None:
        """Another draw."""
        for t, spread in self.small:
            t.copy_(self._noise(t) * spread)
        for t in self.large:
            if torch.rand((), generator=self.draw) < 0.5:
                t.neg_()
        for var, start in self.variances:
            var.copy_(start.clamp(min=0.1) * (0.5 + torch.rand(var.shape, generator=self.draw)).to(var))

    def _noise(self, t: Tensor) -> Tensor:
        return torch.randn(t.shape, generator=self.draw).to(t)


def _spread(t: Tensor) -> Tensor:
    """How far each entry moves: its own size for a vector, the mean size for a matrix, never nothing."""
    if t.ndim < 2:
        return t.abs() * 0.7 + 0.3
    mean = t.abs().mean()
    return mean if mean > 0 else torch.full_like(mean, (t.numel() / len(t)) ** -0.5)
