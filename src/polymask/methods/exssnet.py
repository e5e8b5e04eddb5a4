"""ExSSNeT (Yadav and Bansal 2023): a supermask per task, then those of its weights train that no earlier task reads.

"Exclusive Supermask Subnetwork Training for Continual Learning", Findings of ACL 2023, arXiv:2210.10209.

Where paper, released code and this file differ:

- In the released code phase "mask" silently takes the rate meant for the weights once these train; here each phase has
  a recipe of its own.
- Averaging the scores of several neighbours overwrites an old task's in place; here records are never written to.
- Its validation split is its test split, and chooses the epoch; here a validation part chooses.
- Frozen weights stay put there only without weight decay and with a new optimizer for each task; here under any.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from polymask.calling import as_read, call
from polymask.method.card import Card, Recipe
from polymask.method.contract import Method
from polymask.method.removal import read_by
from polymask.parts.binarize import kept_count, straight_through, top_k
from polymask.parts.draw import signed_constant, voted_scores
from polymask.parts.neighbours import neighbour_accuracy
from polymask.parts.pack import Packed, pack, unpack
from polymask.parts.seeds import generator
from polymask.sites.roles import Biases, Norms, Policy
from polymask.sites.slots import Scores

# Of a task's batches, every fifth is looked at (the released code's share), and so many neighbours vote.
STRIDE, NEIGHBOURS = 5, 200


class ExSSNeT(Method):
    """Phase "mask" finds ``M``, the largest ``|s|`` of each layer; phase "weights" trains ``W`` under it.

    Weights start as signed constants and move in phase "weights" alone, where ``M`` is on and no earlier task's mask
    is: later tasks may read what was trained, none changes it. Of independent masks of density ``rho``, the ``t``-th
    task trains about ``rho (1 - rho)^(t - 1)`` of a layer. Scores start uniform in ``(-b, b)``, ``b = 1 /
    sqrt(fan_in)``. There are no biases, norms have no affine part and keep statistics per task, every task has a head.

    With ``transfer="knn"`` a task starts from the mask of the earlier task whose features separate its classes best:
    every fifth batch is pushed through each earlier task's network, a nearest-neighbour vote on the head's inputs is
    scored on a third of them, and the best mask is taken if it beats the most frequent class. A record keeps a task's
    bits and not its scores, so the scores come back as an approximation: fresh draws, the largest of them on the
    weights that the mask keeps (``parts.draw.voted_scores``).

    Args:
        model: any module; its weights are replaced by the random ones.
        example: an input that it accepts.
        head: the name of the head module; None: the last weight read before the output.
        seed: key of every random draw.
        density: the fraction of a layer that a mask keeps.
        transfer: "none" or "knn"; the latter looks at the task's batches.
        exclusive: False: all of ``M`` trains, also what earlier tasks read. That is SSNeT, the control; it forgets.
        norms: what becomes of norms.
        biases: likewise of biases; "none" holds them at 0.
        masked: patterns of the weights to mask; None: all that qualify.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> method = ExSSNeT(net, torch.zeros(1, 4), density=0.25)
    >>> method.begin("a", "mask", outputs=2)
    >>> [name for name, _ in method.named_parameters()]
    ['2.weight', '2.bias', '0.weight.scores']
    >>> method.begin("a", "weights")
    >>> [name for name, _ in method.named_parameters()], int((net[0].weight != 0).sum())
    (['0.weight', '2.weight', '2.bias'], 8)
    """

    name = "exssnet"
    card = Card(
        source="Yadav and Bansal 2023",
        masks="weight",
        values="{0, 1}",
        chosen="learned",
        backbone="random, then trained in pieces",
        overlap="free; what each trains is disjoint",
        sparsity="density of the top-k",
        scenarios=("GG",),
        stores="1 bit a weight",
        exact=True,
    )
    phases: ClassVar[tuple[str, ...]] = ("mask", "weights")
    recipes: ClassVar[dict[str, Recipe]] = {"mask": Recipe(lr=1e-2, epochs=15), "weights": Recipe(lr=1e-3, epochs=10)}
    roomier = "a larger density (--density, now {density})"

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        *,
        head: str | None = None,
        seed: int = 0,
        density: float = 0.1,
        transfer: Literal["none", "knn"] = "none",
        exclusive: bool = True,
        norms: Norms = "statistics",
        biases: Biases = "none",
        masked: Sequence[str] | None = None,
    ) -> None:
        if not 0 < density <= 1:
            raise ValueError(f"expected a density in (0, 1], found {density}: it is the fraction that a mask keeps")
        self.density, self.transfer, self.exclusive = density, transfer, exclusive
        super().__init__(model, example, Policy("masked", "first", norms, biases, masked=masked), head=head, seed=seed)
        self.exact = True if exclusive else None

    def _prepare(self) -> None:
        for name in self.sites.weights:
            self.sites.write(name, signed_constant(tuple(self.sites.tensor(name).shape), self.seed, name))
        self.state["read"] = read_by(self.sites, ())

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        if phase == "mask":
            self._open_scores(self._related(batches) if self.transfer == "knn" and batches is not None else None)
            return
        for name, scores in self.scores.items():
            mask = _largest(scores, self.density)
            site, free = self.sites.weights[name], mask & ~self.state["read"][name] if self.exclusive else mask
            site.source = None
            self.sites.open_gate(name, free)
            self.sites.narrow_gate(name, free, mask)

    def _open_scores(self, related: str | None) -> None:
        mask = partial(_largest, density=self.density)
        for name in self.sites.weights:
            w = self.sites.tensor(name)
            bound, draw = 1 / math.sqrt(math.prod(w.shape[1:])), generator(self.seed, str(self.task), name, "scores")
            if related is None:
                scores = torch.empty(w.shape).uniform_(-bound, bound, generator=draw)
            else:
                scores = voted_scores(unpack(self.record(related).masks[name]).float(), bound, draw)
            self.give_scores(name, Scores(scores.to(w.dtype), partial(_read, mask=mask), mask))

    def _close(self, hard: dict[str, Tensor]) -> dict[str, Packed]:
        masks = {name: site.mask for name, site in self.sites.weights.items() if site.mask is not None}
        self.state["read"] = {name: read | masks[name] for name, read in self.state["read"].items()}
        return {name: pack(mask) for name, mask in masks.items()}

    def _taken(self) -> Mapping[str, Tensor]:
        return self.state["read"] if self.exclusive else {}

    def _forget(self) -> str:
        self.state["read"] = read_by(self.sites, self.records.values())
        return ""

    def _related(self, batches: Iterable[Any]) -> str | None:
        """The earlier task whose features tell this task's classes apart best; None if none beats a guess."""
        looked = [pair for place, pair in enumerate(batches) if place % STRIDE == 0] if self.records else []
        best, above = None, 0.0
        for task in self.records:
            features, labels = self._features(task, looked)
            accuracy, guess = neighbour_accuracy(features, labels, NEIGHBOURS)
            if accuracy - guess > above:
                best, above = task, accuracy - guess
        return best

    @torch.no_grad()
    def _features(self, task: str, looked: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """What the head of an earlier task reads of some batches, a row an example; and their labels."""
        plain, seen = self.plain(task), []
        head = plain.get_submodule(self.head)
        head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(1).cpu()))
        for x, _ in looked:
            call(plain, as_read(plain, x))
        return torch.cat(seen), torch.cat([y.cpu() for _, y in looked])


# Functions of no method: a copy of the model copies its scores, and must not copy a learner with all its records.
def _largest(scores: Tensor, density: float) -> Tensor:
    mask: Tensor = top_k(scores.detach(), kept_count(scores.numel(), density))
    return mask


def _read(w: Tensor, scores: Tensor, mask: partial[Tensor]) -> Tensor:
    return straight_through(w, scores, mask(scores), signed=False)
