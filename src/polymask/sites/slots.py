"""The slots that masks fill: a site on a weight, a site on a layer's units, and the scores that train a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from polymask.parts.binarize import annealed, as_half, select
from polymask.parts.gate import hold


class Scores(nn.Module):
    """Real scores, and the rule by which a weight is read under them; lives inside the module that it masks.

    Args:
        scores: the initial scores; broadcasts to the weight. Of a complex weight's, the real part.
        read: ``(w, scores) -> masked w``, differentiable in both.
        mask: ``scores -> mask``, the mask that the task keeps.
    """

    def __init__(
        self, scores: Tensor, read: Callable[[Tensor, Tensor], Tensor], mask: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores.real.clone() if scores.is_complex() else scores)
        self.read, self.hard = read, mask

    def forward(self, w: Tensor) -> Tensor:
        """The weight under the mask of the scores."""
        return self.read(w, self.scores)


class Scaled(Scores):
    """Scores whose mask is multiplied by a scale, which learns with them; rounded as it is stored.

    Args:
        scores: as of ``Scores``.
        read: likewise.
        mask: likewise.
        scale: the initial scale; broadcasts to the weight.
    """

    def __init__(
        self,
        scores: Tensor,
        read: Callable[[Tensor, Tensor], Tensor],
        mask: Callable[[Tensor], Tensor],
        scale: Tensor,
    ) -> None:
        super().__init__(scores, read, mask)
        self.scale = nn.Parameter(scale)

    def forward(self, w: Tensor) -> Tensor:
        """The weight under the mask of the scores, times the scale."""
        found: Tensor = self.read(w, self.scores) * as_half(self.scale).to(w.dtype)
        return found


class Annealed(Scores):
    """Gates on units: ``sigmoid(s e)`` while training, their hardened form ``e > 0`` otherwise (HAT).

    Args:
        scores: the embedding ``e`` (units,).
        s_max: the largest scale; ``scale`` holds the one of the step.
        soft: no hardening, ``sigmoid(s_max e)`` instead: as published.
    """

    scale: Tensor

    def __init__(self, scores: Tensor, s_max: float, soft: bool = False) -> None:
        super().__init__(scores, select, partial(_kept, s_max=s_max if soft else None))
        self.s_max, self.soft = s_max, soft
        self.register_buffer("scale", torch.full((), s_max), persistent=False)

    def gate(self) -> Tensor:
        """The gates as they are now (units,): real while training, bool or published otherwise."""
        if self.training:
            return annealed(self.scores, self.scale, self.s_max)
        kept: Tensor = self.hard(self.scores)
        return kept

    def forward(self, y: Tensor) -> Tensor:
        """Units along the last axis, gated."""
        return _gated(y, self.gate())


class Echo(nn.Module):
    """The gates of a norm that is masked again as its input is; what they follow lives elsewhere.

    Args:
        combine: ``site -> gates`` of all sites -> the gates of the norm's channels.
        sources: site -> its gates.
    """

    def __init__(self, combine: Callable[[Mapping[str, Tensor]], Tensor], sources: Mapping[str, Annealed]) -> None:
        super().__init__()
        # In a mapping, so that they do not become this module's own.
        self.combine, self.sources = combine, dict(sources)

    def forward(self, y: Tensor) -> Tensor:
        """Channels along the last axis, gated."""
        return _gated(y, self.gate())

    def gate(self) -> Tensor:
        """The gates as they are now (channels,)."""
        return self.combine({site: source.gate() for site, source in self.sources.items()})


def _gated(y: Tensor, gate: Tensor) -> Tensor:
    return select(y, gate.to(y) if gate.is_floating_point() else gate.to(y.device))


def _kept(e: Tensor, s_max: float | None) -> Tensor:
    return e > 0 if s_max is None else annealed(e, s_max, s_max)


class WeightSite(nn.Module):
    """One masked weight: ``w_eff = hold(kept, w, gate) * mask + delta``; an empty slot leaves its step out.

    What is frozen lies in the buffer ``kept``, what trains in the parameter. While ``source`` is set, the mask comes
    from its scores instead of the slot. ``rate`` scales the gradient and no more: a method that protects by it forgets.
    """

    kept: Tensor | None
    gate: Tensor | None
    rate: Tensor | None
    mask: Tensor | None
    delta: Tensor | None
    source: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        for slot in ("kept", "gate", "rate", "mask", "delta"):
            self.register_buffer(slot, None, persistent=False)
        self.source = None

    def forward(self, w: Tensor) -> Tensor:
        """The weight as the active task reads it."""
        if self.gate is not None and self.kept is not None:
            # Never the buffer itself: an RNN that finds again what it has cached would compile one graph more.
            w = self.kept.detach() if _is_shut(self.gate) else hold(self.kept, w, self.gate)
        if self.rate is not None:
            w = w.detach() + (w - w.detach()) * self.rate
        if self.source is not None:
            w = self.source(w)
        elif self.mask is not None:
            w = select(w, self.mask)
        return w if self.delta is None else w + self.delta


def _is_shut(gate: Tensor) -> bool:
    """Whether a gate is shut for a whole weight, where that can be asked without waiting and outside of a graph."""
    return gate.ndim == 0 and gate.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(gate)


class FeatureSite(nn.Module):
    """The units of one layer's output: ``y_eff = y * mask`` along ``axis``; an empty slot leaves ``y`` as it is."""

    mask: Tensor | None
    source: nn.Module | None

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.register_buffer("mask", None, persistent=False)
        self.source, self.axis = None, axis

    def forward(self, y: Tensor) -> Tensor:
        """The output with its masked units at zero."""
        return self.along(y, self.axis)

    def rows(self, w: Tensor) -> Tensor:
        """A parameter of the layer with the rows of masked units at zero; as it is, if it has not a row for each."""
        return self.along(w, 0) if has_rows(w, self._size()) else w

    def _size(self) -> int | None:
        if isinstance(self.source, Scores):
            return len(self.source.scores)
        if isinstance(self.source, Echo):
            return len(self.source.gate())
        return None if self.mask is None else len(self.mask)

    def along(self, y: Tensor, axis: int) -> Tensor:
        """A tensor with its masked units at zero, the units lying along ``axis``."""
        if self.source is not None:
            masked: Tensor = self.source(y.movedim(axis, -1))
            return masked.movedim(-1, axis)
        shape = [1] * y.ndim
        shape[axis] = -1
        return y if self.mask is None else _gated(y, self.mask.view(shape))


def has_rows(w: Tensor, units: int | None) -> bool:
    """Whether a parameter of a layer has a row for every one of its units; a scale of the whole layer has not.

    >>> has_rows(torch.ones(3, 2), 3), has_rows(torch.ones(1), 3), has_rows(torch.ones(()), 1)
    (True, False, False)
    """
    return w.ndim > 0 and len(w) == units


def fill(site: nn.Module, slot: str, value: Tensor | None) -> None:
    """Put a copy of a value into a slot: in place where its shape allows, so that a compiled graph need not change.

    A slot owns its memory: two that shared it would both change with the next value of one.
    """
    old = getattr(site, slot)
    if old is not None and value is not None and old.shape == value.shape and old.dtype == value.dtype:
        old.copy_(value)
    else:
        setattr(site, slot, None if value is None else value.clone())
