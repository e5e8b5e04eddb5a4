"""Piggyback (Mallya, Davis and Lazebnik 2018): a frozen backbone, a learned binary mask per task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from polymask.method.card import Card, Recipe
from polymask.method.contract import Method
from polymask.parts.binarize import straight_through, threshold
from polymask.parts.pack import Packed
from polymask.sites.roles import Biases, Norms, Policy
from polymask.sites.slots import Scores


class Piggyback(Method):
    """A task reads ``W * [r > tau]``; the scores ``r`` train, the backbone never does.

    Backward, ``dL/dr = dL/dW_eff * W`` (straight through the threshold). Of a finished task one bit a weight and the
    head are kept. Under Adam one quantity matters, ``kappa = lr * steps / (init - tau)``: how far a score can walk,
    in units of its distance to the threshold.

    Args:
        model: any module.
        example: an input that it accepts.
        head: the name of the head module; None: the last weight read before the output.
        seed: key of every random draw.
        backbone: "given": the model's weights as they are, from a checkpoint; "first-task": the first task trains the
            plain network, is recorded unmasked, and its weights are frozen for all later ones.
        tau: the threshold.
        init: the initial score of every weight.
        norms: what becomes of norms; "frozen", or "private" for the stronger control.
        biases: likewise of biases.
        masked: patterns of the weights to mask; None: all that qualify.

    The paper's recipe, for ImageNet backbones: Adam at 1e-4 for 30 epochs, a tenth after 15, batch 32.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> method = Piggyback(net, torch.zeros(1, 4))
    >>> method.begin("a", outputs=3)
    >>> [name for name, _ in method.named_parameters()]
    ['2.weight', '2.bias', '0.weight.scores']
    >>> net(torch.zeros(1, 4)).shape
    torch.Size([1, 3])
    """

    name = "piggyback"
    card = Card(
        source="Mallya, Davis and Lazebnik 2018",
        masks="weight",
        values="{0, 1}",
        chosen="learned",
        backbone="frozen",
        overlap="free",
        sparsity="nothing",
        scenarios=("GG",),
        stores="1 bit a weight",
        exact=True,
    )
    recipes: ClassVar[dict[str, Recipe]] = {"train": Recipe(lr=1e-3, epochs=20)}

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        *,
        head: str | None = None,
        seed: int = 0,
        backbone: Literal["given", "first-task"] = "given",
        tau: float = 0.005,
        init: float = 0.01,
        norms: Norms = "frozen",
        biases: Biases = "frozen",
        masked: Sequence[str] | None = None,
    ) -> None:
        if init <= tau:
            raise ValueError(f"expected init above tau, so that every weight is read at first, found {init} and {tau}")
        self.backbone, self.tau, self.init = backbone, tau, init
        if backbone == "first-task":
            norms = "first" if norms == "frozen" else norms
            biases = "first" if biases == "frozen" else biases
        policy = Policy("masked", "first" if backbone == "first-task" else "frozen", norms, biases, masked=masked)
        super().__init__(model, example, policy, head=head, seed=seed)

    def _prepare(self) -> None:
        if self.backbone == "given":
            self._freeze()

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        read, mask = partial(_read, tau=self.tau), partial(threshold, tau=self.tau)
        for name in self.sites.weights:
            if self._trains_backbone:
                self.sites.open(name, None)
            else:
                self.give_scores(name, Scores(torch.full_like(self.sites.tensor(name), self.init), read, mask))

    def _close(self, hard: dict[str, Tensor]) -> dict[str, Packed]:
        if self._trains_backbone:
            self._freeze()
        return super()._close(hard)

    @property
    def _trains_backbone(self) -> bool:
        return self.backbone == "first-task" and not self.records

    def _freeze(self) -> None:
        for name in self.sites.weights:
            self.sites.freeze(name)


# Functions of no method: a copy of the model copies its scores, and must not copy a learner with all its records.
def _read(w: Tensor, scores: Tensor, tau: float) -> Tensor:
    return straight_through(w, scores, threshold(scores, tau))
