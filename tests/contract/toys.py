"""Three toy methods that prove the contract for more than weight masks: units, reissued records, growing layers."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymask.calling import call, two_rows
from polymask.method.card import Card, Recipe
from polymask.method.contract import Method
from polymask.parts.binarize import straight_through, threshold
from polymask.parts.pack import Packed, pack
from polymask.parts.seeds import generator
from polymask.parts.sparse import Sparse, densify, sparsify
from polymask.sites.roles import Policy, plan
from polymask.sites.slots import Scores
from polymask.sites.table import unsharded
from polymask.task import TaskRecord, reads

TAU = 0.005
ABOUT = {"values": "-", "chosen": "-", "overlap": "-", "sparsity": "-", "scenarios": ("GG",), "stores": "-"}


def card(masks: str, backbone: str, exact: bool | float) -> Card:
    return Card(source="toy", masks=masks, backbone=backbone, exact=exact, **ABOUT)


class UnitGates(Method):
    """A frozen network, and per task a binary mask on the units of every linear and convolutional layer, by hook."""

    name = "toy_units"
    card = card("unit", "frozen", True)
    recipes: ClassVar[dict[str, Recipe]] = {"train": Recipe()}

    def __init__(self, model: nn.Module, example: Any, *, head: str | None = None, seed: int = 0):
        super().__init__(model, example, Policy("frozen", "frozen", "frozen", "frozen"), head=head, seed=seed)

    def _units(self) -> dict[str, int]:
        """Every such layer that is called; one whose weight is read without a call, as in attention, has no hook."""
        probe, axes, called = copy.deepcopy(self.model).eval(), {nn.Linear: -1, nn.Conv2d: 1}, set()
        for module in probe.modules():
            module.register_forward_hook(lambda module, *_: called.add(module))
        with torch.no_grad():
            call(probe, two_rows(self.example))
        layers = {name: module for name, module in probe.named_modules() if name != self.head and module in called}
        return {name: axes[type(module)] for name, module in layers.items() if type(module) in axes}

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        for name in self.sites.units:
            draw = generator(self.seed, self.task, name, "scores")
            scores = torch.rand(self.sites.tensor(f"{name}.weight").shape[0], generator=draw) * 4 * TAU
            self.give_scores(name, Scores(scores, _select, _on))


def _on(scores: Tensor) -> Tensor:
    return threshold(scores, TAU)


def _select(y: Tensor, scores: Tensor) -> Tensor:
    return straight_through(y, scores, _on(scores))


class Anchored(Method):
    """Shared weights, held near by a penalty, and a sparse correction per task that is reissued whenever they move."""

    name = "toy_penalty"
    card = card("-", "shared, anchored", 1e-3)
    recipes: ClassVar[dict[str, Recipe]] = {"train": Recipe()}

    def __init__(self, model: nn.Module, example: Any, *, head: str | None = None, seed: int = 0):
        super().__init__(model, example, Policy("masked", "frozen", "private", "private"), head=head, seed=seed)

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        self.state = {"anchor": {name: self.sites.base(name).clone() for name in self.sites.weights}}
        for name in self.sites.weights:
            self.sites.open_gate(name, None)
            self.give_scores(name, Scores(torch.zeros_like(self.sites.tensor(name)), _corrected, _shrunk))

    def penalty(self) -> Tensor:
        """``sum ||sigma - anchor||^2 + 1e-3 ||tau||_1``."""
        total = super().penalty()
        if self.task is not None:
            for name, anchor in self.state["anchor"].items():
                total = total + (unsharded(self.sites.tensor(name)) - anchor).square().sum()
                total = total + 1e-3 * unsharded(self.sites.weights[name].source.scores).abs().sum()
        return total

    def _close(self, hard: dict[str, Tensor]) -> dict[str, Packed]:
        return {}

    def _deltas(self, hard: dict[str, Tensor]) -> dict[str, Sparse]:
        return {name: sparsify(tau) for name, tau in hard.items()}

    def _reissue(self) -> dict[str, TaskRecord]:
        """What an older task read, ``anchor + tau``, less what the shared weights are now."""
        anchor, self.state = self.state["anchor"], {}
        now, issued = reads(self.sites, {}), {}
        for task, old in list(self.records.items())[:-1]:
            weights = {name: was + densify(old.deltas[name]).to(was) for name, was in anchor.items()}
            deltas = {name: sparsify(w - self.sites.base(name)) for name, w in weights.items()}
            meta = replace(old.meta, revision=old.meta.revision + 1, reason="the shared weights moved")
            issued[task] = replace(old, deltas=deltas, reads=now, meta=meta)
        return issued


def _shrunk(tau: Tensor) -> Tensor:
    return tau.where(tau.abs() > TAU, 0.0)


def _corrected(w: Tensor, tau: Tensor) -> Tensor:
    """``w`` and the corrections that will be kept; those too small to be kept learn all the same."""
    return w + tau.where(tau.abs() > TAU, tau - tau.detach())


class Growing(Method):
    """A frozen network whose last hidden layer grows by two units a task; a task reads those it was born with.

    Where no such layer stands in a sequence before the head, with nothing but norms and activations between, nothing
    grows, and the head and private tensors are all that learns.
    """

    name = "toy_growing"
    card = card("unit", "grown", True)
    recipes: ClassVar[dict[str, Recipe]] = {"train": Recipe()}
    grows = True

    def __init__(self, model: nn.Module, example: Any, *, head: str | None = None, seed: int = 0):
        policy = Policy("frozen", "frozen", "private", "private")
        self.layer, self.units = hidden(model, plan(model, example, policy, head).head)
        if self.layer:
            policy = replace(policy, weights="masked", masked=[self.layer])
        super().__init__(model, example, policy, head=head, seed=seed)

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        if not self.layer:
            return
        had, head = self.sites.base(self.layer), self.sites.tensor(f"{self.head}.weight")
        width = self.built + 2 * self.count
        if len(had) < width:
            self.sites.write(self.layer, torch.cat([had, self._drawn(had[: width - len(had)], "grown")]))
        gate = torch.arange(width, device=had.device)[:, None] >= width - 2 if self.count else None
        self.sites.open_gate(self.layer, gate)
        self.sites.write(f"{self.head}.weight", self._drawn(head.new_empty(len(head), width), "head"))
        for name, filling in self.units.items():
            own = self.sites.tensor(name).detach()
            self.sites.write(name, torch.cat([own, own.new_full((width - len(own),), filling)]))

    def _close(self, hard: dict[str, Tensor]) -> dict[str, Packed]:
        """A mask of ones whose shape says how wide the layer was."""
        return {name: pack(torch.ones(len(self.sites.tensor(name)), 1) > 0) for name in self.sites.weights}

    @property
    def built(self) -> int:
        """The layer's width before it grew; a private tensor's start remembers it."""
        return self.initial[f"{self.head}.weight"].shape[1]

    def _drawn(self, like: Tensor, purpose: str) -> Tensor:
        bound = like.shape[1] ** -0.5
        drawn = torch.empty(like.shape).uniform_(-bound, bound, generator=generator(self.seed, self.task, purpose))
        return drawn.to(like)


def hidden(model: nn.Module, head: str) -> tuple[str, dict[str, float]]:
    """The weight of the linear layer before the head, and what new units get in the vectors that are as long."""
    path, _, last = head.rpartition(".")
    parent, units = model.get_submodule(path), {}
    if not isinstance(parent, nn.Sequential):
        return "", {}
    for name, module in reversed(list(parent.named_children())[: int(last)]):
        prefix = f"{path}.{name}" if path else name
        filling = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        if isinstance(module, nn.Linear):
            return f"{prefix}.weight", {**units, f"{prefix}.bias": 0.0}
        if isinstance(module, nn.BatchNorm1d):
            units.update({f"{prefix}.{leaf}": value for leaf, value in filling.items()})
        elif not isinstance(module, nn.ReLU):
            break
    return "", {}


TOYS: dict[str, type[Method]] = {toy.name: toy for toy in (UnitGates, Anchored, Growing)}
