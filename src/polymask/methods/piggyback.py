"""Piggyback (Mallya, Davis and Lazebnik 2018): a frozen backbone, a learned binary or ternary mask per task.

"Piggyback: Adapting a Single Network to Multiple Tasks by Learning to Mask Weights", ECCV 2018, arXiv:1801.06519.

Where paper, released code and this file differ:

- Two masks are often mixed up: the *real* mask ``r`` trains and is thrown away; the *binary* one, ``r > tau``, is what
  a task keeps. The ternary mask is not symmetric: -1 below 0, 0 from 0 to ``tau``, 1 above.
- The released code evaluates the test split in every epoch and keeps the best; here a validation part chooses.
- It compares the summed change of the weights with 1e-8; here they are no parameters, and compared to the bit.
- Its packed files leave out norms, so that a run which trains them loses them; here what is private is in the record.
- In the paper norms stay and all scores begin alike. Here convolutional networks get norms of each task's own and
  scores that begin by magnitude, unless ``norms`` and ``start`` say otherwise.
- ``init`` 0.01, ``tau`` 0.005 and the rate 1e-4 belong together: about 50 steps of one sign flip a weight. Another rate
  or number of steps wants another ``init`` (``init_for``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from polymask.method.annealed import Anneal, anneal, find_wiring, open_gates
from polymask.method.backbone import Backbone, freeze, keep_first, reserved, still, trains_first
from polymask.method.card import Card, Recipe
from polymask.method.contract import Method
from polymask.method.kind import NetworkKind, kind_of
from polymask.parts.binarize import as_half, straight_through, ternary, threshold
from polymask.parts.pack import Packed, pack, pack_scaled
from polymask.sites.roles import Biases, Norms, Plan, Policy
from polymask.sites.slots import Scaled, Scores
from polymask.sites.table import Kind
from polymask.wiring import Wiring

ANNEAL = Anneal(100.0, 3.0, 2.0)
"""Of gates on units."""

Start = Literal["constant", "magnitude"]
OPEN: dict[NetworkKind, tuple[Norms, Start]] = {
    "convolutional": ("private", "magnitude"),
    "linear": ("frozen", "constant"),
}
"""Kind of network -> what ``norms`` and ``start`` become where they are left open.

Those of a convolutional one validate best in benchmarks/starts.py; those of the other are the paper's.
"""


class Piggyback(Method):
    """A task reads ``W * [r > tau]``; the scores ``r`` train, the backbone never does.

    A ternary mask is -1 where ``r < 0``, 0 up to ``tau`` and 1 above. Backward, ``dL/dr = dL/dW_eff * W`` (straight
    through the threshold). Of a finished task one bit a weight, two of a ternary mask, and the head are kept. Under
    Adam one quantity matters, ``kappa = lr * steps / (init - tau)``: how far a score can walk, in units of its distance
    to the threshold. ``init_for`` turns a wanted ``kappa`` into ``init``; ``report.masks`` tells how many entries a
    finished mask has flipped.

    Args:
        model: any module.
        example: an input that it accepts.
        head: the name of the head module; None: the last weight read before the output.
        seed: key of every random draw.
        backbone: "given": the model's weights as they are, from a checkpoint; "first-task": the first task trains the
            plain network, is recorded unmasked, and its weights are frozen for all later ones.
        values: "binary", or "ternary".
        scale: "tensor": every masked weight is multiplied by a scale that learns with its mask and is stored with it in
            half precision, ``W * [r > tau] * s``; "unit": every row has one; None: there is none, as in the paper. Of
            masks on units the weights of their layers have it.
        granularity: "weight"; or "unit": a task masks units of the frozen network instead, a bit each, found by asking
            it (``polymask.wiring``): hidden units of a feed-forward block, attention context, channels. Gates are
            ``sigmoid(s e)`` while training, ``s`` from 3 to 100 quadratically in every epoch, ``e`` from 0.5, and
            ``e > 0`` afterwards; ``values``, ``tau``, ``init`` and ``start`` have no meaning then. Not the paper's.
        tau: the threshold.
        init: the initial score of every weight, or their mean.
        start: "constant": every score starts at ``init``, as in the paper; "magnitude": at
            ``tau + (init - tau) |w| / mean |w|``, so that small weights go off first; None: as fits the kind of network
            (``polymask roles`` says which), "magnitude" for a convolutional one.
        norms: what becomes of norms; "frozen", as in the paper; "private": each task has its own; None: as fits the
            kind of network, "private" for a convolutional one.
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
        values="{0, 1} or {-1, 0, 1}",
        chosen="learned",
        backbone="frozen",
        overlap="free",
        sparsity="nothing",
        scenarios=("GG",),
        stores="1 bit a weight, 2 if ternary",
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
        backbone: Backbone = "given",
        values: Literal["binary", "ternary"] = "binary",
        scale: Literal["tensor", "unit"] | None = None,
        granularity: Literal["weight", "unit"] = "weight",
        tau: float = 0.005,
        init: float = 0.01,
        start: Start | None = None,
        norms: Norms | None = None,
        biases: Biases = "frozen",
        masked: Sequence[str] | None = None,
    ) -> None:
        if init <= tau:
            raise ValueError(f"expected init above tau, so that every weight is read at first, found {init} and {tau}")
        if tau < 0:
            raise ValueError(f"expected tau of at least 0, found {tau}: a ternary mask is -1 below 0 and 0 up to tau")
        self.granularity, self.anneals = granularity, granularity == "unit"
        own_norms, own_start = OPEN[kind_of(model)]
        open_start = start is None and granularity == "weight"
        self.took = ({} if norms else {"norms": own_norms}) | ({"start": own_start} if open_start else {})
        norms, self.start = norms or own_norms, start or own_start
        self.backbone, self.values, self.tau, self.init = backbone, values, tau, init
        if backbone == "first-task":
            norms = "first" if norms == "frozen" else norms
            biases = "first" if biases == "frozen" else biases
        self.scale, self.multiplies = scale, scale is not None
        plain: Kind = "first" if backbone == "first-task" else "frozen"
        weights: Kind = "masked" if granularity == "weight" or scale else plain
        policy = Policy(weights, "first" if backbone == "first-task" else "frozen", norms, biases, masked=masked)
        super().__init__(model, example, policy, head=head, seed=seed)

    def _wiring(self, planned: Plan) -> Wiring:
        kinds: tuple[Kind, ...] = ("masked",) if self.scale else ("frozen", "first")
        return find_wiring(self, planned, *kinds) if self.granularity == "unit" else Wiring()

    def _prepare(self) -> None:
        if self.backbone == "given":
            freeze(self)

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        if self._trains_backbone:
            for name in self.sites.weights:
                self.sites.open_gate(name, None)
        elif self.granularity == "unit":
            open_gates(self, ANNEAL.largest, draw=_half)
            for name in self._scaled:
                self.give_scores(name, Scores(self._start_scale(name), _times, as_half))
        else:
            mask = partial(ternary if self.values == "ternary" else threshold, tau=self.tau)
            read = partial(_read, mask=mask)
            for name in self.sites.weights:
                scores = self._start_scores(name)
                plain = Scores(scores, read, mask)
                self.give_scores(name, Scaled(scores, read, mask, self._start_scale(name)) if self.scale else plain)

    def on_step(self, progress: float) -> None:
        """Set the temperature of the step, where units are masked."""
        super().on_step(progress)
        if self.granularity == "unit":
            anneal(self, ANNEAL, progress)

    @property
    def _scaled(self) -> list[str]:
        """The weights whose layers have masks on units, where these have scales."""
        return [name for name in self.sites.weights if name.rpartition(".")[0] in self.sites.wiring.rows]

    def _start_scale(self, name: str) -> Tensor:
        w = self.sites.tensor(name)
        rows = len(w) if self.scale == "unit" else 1
        return torch.ones(rows, *[1] * (w.ndim - 1), device=w.device)

    def _start_scores(self, name: str) -> Tensor:
        w = self.sites.base(name)
        if self.start == "constant":
            return torch.full_like(w, self.init)
        scores = self.tau + (self.init - self.tau) * w.abs() / w.abs().mean().clamp(min=torch.finfo(w.dtype).tiny)
        # However small a weight, it is read at first.
        least = torch.nextafter(torch.full_like(w, self.tau), torch.full_like(w, torch.inf))
        return torch.maximum(scores, least)

    def _close(self, hard: dict[str, Tensor]) -> dict[str, Packed]:
        if self._trains_backbone:
            keep_first(self)
            return super()._close(hard)
        return {name: self._packed(name, mask) for name, mask in hard.items()}

    def _packed(self, name: str, mask: Tensor) -> Packed:
        source = self.sources[name]
        if isinstance(source, Scaled):
            return pack_scaled(as_half(source.scale), mask)
        return pack_scaled(mask) if name in self.sites.weights and self.granularity == "unit" else pack(mask)

    @property
    def still(self) -> list[str]:
        """All of a backbone that was given."""
        return still(self, self.backbone)

    def _forget(self) -> str:
        return reserved(self, self.backbone)

    @property
    def _trains_backbone(self) -> bool:
        return trains_first(self, self.backbone)


def init_for(kappa: float, lr: float, steps: float, tau: float = 0.005) -> float:
    """The initial score with which ``kappa = lr * steps / (init - tau)``.

    Adam moves a score by at most about ``lr`` a step; with ``kappa`` below 1 none can reach the threshold. A trained
    transformer wants 2 to 3, where a fraction of a per cent of the weights flip; conv nets want about 20.

    Args:
        kappa: how far a score can walk, in units of its distance to the threshold.
        lr: the learning rate of the scores.
        steps: optimizer steps of the task, or the sum of the schedule's factors over them.
        tau: the threshold.

    Raises:
        ValueError: if one of the first three is not above 0.

    >>> round(init_for(kappa=2.0, lr=1e-4, steps=150), 4)
    0.0125
    """
    if min(kappa, lr, steps) <= 0:
        raise ValueError(f"expected kappa, lr and steps above 0, found {kappa}, {lr} and {steps}")
    return tau + lr * steps / kappa


def _half(size: int, draw: torch.Generator) -> Tensor:
    return torch.full((size,), 0.5)


# Functions of no method: a copy of the model copies its scores, and must not copy a learner with all its records.
def _read(w: Tensor, scores: Tensor, mask: partial[Tensor]) -> Tensor:
    return straight_through(w, scores, mask(scores))


def _times(w: Tensor, scale: Tensor) -> Tensor:
    return w * as_half(scale).to(w.dtype)
