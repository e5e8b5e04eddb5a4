"""WSN (Kang et al. 2022): weights and scores learned together; what a task has used is read by all, written by none.

"Forget-free Continual Learning with Winning SubNetworks", ICML 2022.

Where paper, released code and this file differ:

- The released code keeps the mask of the *last batch* beside the weights and scores of the *best epoch*. Here the mask
  is made from the scores that are kept.
- Two of its scripts copy earlier rows of the accuracy matrix, so that the backward transfer they print is 0 by
  construction. Here it is measured, or proved and marked so.
- The scripts' ``sparsity`` is the share that is kept; here it is ``density``.
- The paper ranks ``s``, the code its size; here the size.
- Its norms have no statistics and read the test batch's; here they are private, so that no prediction depends on the
  rows beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from polymask.method.card import Card, Recipe
from polymask.method.contract import Method
from polymask.method.removal import read_by
from polymask.parts.binarize import straight_through, top_k
from polymask.parts.pack import Packed
from polymask.parts.seeds import generator
from polymask.sites.roles import Biases, Norms, Policy
from polymask.sites.slots import Scores


class WSN(Method):
    """A task reads ``W * M``, ``M`` the ``n - round((1 - density)(n - 1))`` largest ``|s|`` of each layer.

    Weights and scores train together. ``dL/dW = M * g`` where no earlier task uses the weight, and 0 where one does;
    ``dL/ds = sign(s) * W * g`` everywhere, so that a score learns to keep a used weight: that is how tasks share.
    At ties of ``|s|`` the lower index wins. The mask that is kept is made from the scores as they are when the task
    ends (those of the best epoch, where a run puts them back), not from the last training batch.

    Args:
        model: any module; its weights are trained in pieces.
        example: an input that it accepts.
        head: the name of the head module; None: the last weight read before the output.
        seed: key of every random draw.
        density: the fraction of a layer that a task keeps; the paper's ``c`` (its script's "sparsity").
        scores: "carried" from task to task, as the paper does; "fresh": drawn anew for every task.
        norms: what becomes of norms; "private": the paper uses the test batch's statistics, which makes a prediction
            depend on the rows beside it.
        biases: likewise of biases; "none" holds them at 0, as the paper's networks have none.
        masked: patterns of the weights to mask; None: all that qualify.

    The paper's recipe: Adam at 1e-3, halved after 6 epochs without a lower validation loss; batch 10 and 5 epochs on
    permuted MNIST, batch 64 and 200 epochs on split CIFAR-100. What its masks cost is ``report.capacity``.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> method = WSN(net, torch.zeros(1, 4), density=0.25)
    >>> method.begin("a", outputs=2)
    >>> int((net[0].weight != 0).sum()), kept_from_ranks(1000, 0.03)
    (9, 31)
    """

    name = "wsn"
    card = Card(
        source="Kang et al. 2022",
        masks="weight",
        values="{0, 1}",
        chosen="learned",
        backbone="trained in pieces",
        overlap="free, encouraged",
        sparsity="density of the top-k",
        scenarios=("GG",),
        stores="1 bit a weight",
        exact=True,
    )
    recipes: ClassVar[dict[str, Recipe]] = {"train": Recipe(lr=1e-3, epochs=20)}
    roomier = "a larger density (--density, now {density})"

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        *,
        head: str | None = None,
        seed: int = 0,
        density: float = 0.5,
        scores: Literal["carried", "fresh"] = "carried",
        norms: Norms = "private",
        biases: Biases = "none",
        masked: Sequence[str] | None = None,
    ) -> None:
        if not 0 < density <= 1:
            raise ValueError(f"expected a density in (0, 1], found {density}: it is the fraction that a task keeps")
        self.density, self.carried = density, scores == "carried"
        policy = Policy("masked", "first", norms, biases, masked=masked)
        super().__init__(model, example, policy, head=head, seed=seed)

    def _prepare(self) -> None:
        self.state["used"] = read_by(self.sites, ())
        self.state["scores"] = {}

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        mask = partial(_largest, density=self.density)
        for name, used in self.state["used"].items():
            if not used.all():
                self.sites.open_gate(name, ~used if used.any() else None)
            start = self.state["scores"].get(name) if self.carried else None
            start = self._drawn_scores(name) if start is None else start.clone()
            self.give_scores(name, Scores(start, partial(_read, mask=mask), mask))

    def _drawn_scores(self, name: str) -> Tensor:
        w = self.sites.tensor(name)
        bound = 1 / math.sqrt(math.prod(w.shape[1:]))
        draw = generator(self.seed, str(self.task), name, "scores")
        return torch.empty(w.shape).uniform_(-bound, bound, generator=draw).to(w.dtype)

    def _close(self, hard: dict[str, Tensor]) -> dict[str, Packed]:
        self.state["used"] = {name: used | hard[name] for name, used in self.state["used"].items()}
        if self.carried:
            self.state["scores"] = {name: scores.detach().clone() for name, scores in self.scores.items()}
        return super()._close(hard)

    def _taken(self) -> Mapping[str, Tensor]:
        return self.state["used"]

    def _forget(self) -> str:
        self.state["used"] = read_by(self.sites, self.records.values())
        return ""


def kept_from_ranks(n: int, density: float) -> int:
    """How many of ``n`` entries lie at or above rank ``1 + round((1 - density)(n - 1))``: ``n - round(...)``."""
    return n - round((1 - density) * (n - 1))


# Functions of no method: a copy of the model copies its scores, and must not copy a learner with all its records.
def _largest(scores: Tensor, density: float) -> Tensor:
    mask: Tensor = top_k(scores.detach(), kept_from_ranks(scores.numel(), density))
    return mask


def _read(w: Tensor, scores: Tensor, mask: partial[Tensor]) -> Tensor:
    return straight_through(w, scores, mask(scores), signed=False)
