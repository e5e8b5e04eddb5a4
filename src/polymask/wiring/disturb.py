"""Parameters drawn anew around their own size, so that no zero and no sign is mistaken for a law."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from polymask.calling import has_fractions, noise_like
from polymask.copies.running import give

LARGE = 1 << 16
"""Entries from which on a tensor is drawn once and then only changes its sign: its columns have both signs anyway."""


class Disturbance:
    """What moves the parameters and running statistics of a network, again and again.

    A bias of 0 lets ``relu(0 + bias)`` look as if masked units arrived as zero, and so does a bias that happens to be
    negative; so every draw has new signs.

    Args:
        model: a network that may be changed.
        draw: where random numbers come from.
        later: buffers that a forward changes -> what they may look like later; they too are 0 by accident.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, draw: torch.Generator, later: Mapping[str, Tensor] | None = None) -> None:
        self.draw, later = draw, later or {}
        moving = [parameter.data for parameter in model.parameters() if has_fractions(parameter)]
        self.spread: list[Tensor] = []
        self.variances: list[tuple[Tensor, Tensor]] = []
        for module in model.modules():
            mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
            if isinstance(mean, Tensor) and isinstance(var, Tensor):
                moving.append(mean)
                self.variances.append((var, var.clone()))
        known = {id(t) for t in moving} | {id(var) for var, _ in self.variances}
        others = {name: later[name] for name, t in model.named_buffers() if name in later and id(t) not in known}
        # By name, each time: a forward in training mode may have put another tensor in its place.
        self.model, self.later = model, others
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
        if self.later:
            give(self.model, {name: self._other(value) for name, value in self.later.items()})

    def _other(self, value: Tensor) -> Tensor:
        """A buffer as it may be another time: of both signs, but for what looks like a variance or a covariance."""
        if not has_fractions(value):
            return value
        square = value.ndim == 2 and value.shape[0] == value.shape[1]
        if value.is_complex():
            return self._noise(value) * (value.abs() * 0.7 + 0.3)
        if (value >= 0).all() and (value > 0).any():
            return value * (0.5 + torch.rand(value.shape, generator=self.draw)).to(value)
        if square and (value - value.T).abs().max() <= 1e-5 * value.abs().max() and (value.diagonal() >= 0).all():
            return value * (0.5 + torch.rand((), generator=self.draw)).to(value)
        return self._noise(value) * (value.abs() * 0.7 + 0.3)

    def _noise(self, t: Tensor) -> Tensor:
        return noise_like(t, self.draw)


def _spread(t: Tensor) -> Tensor:
    """How far each entry moves: its own size for a vector, the mean size for a matrix, never nothing."""
    if t.ndim < 2:
        return t.abs() * 0.7 + 0.3
    mean = t.abs().mean()
    return mean if mean > 0 else torch.full_like(mean, max(t[:1].numel(), 1) ** -0.5)
