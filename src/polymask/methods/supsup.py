"""SupSup (Wortsman et al. 2020): a random network that never trains, and a supermask of it per task.

"Supermasks in Superposition", NeurIPS 2020, arXiv:2006.14769.

Where paper, released code and this file differ:

- Task inference *lowers* the entropy of the outputs over the mixture of masks, as the paper's equations 3 and 4 and its
  code do; who asks for as much entropy as possible finds nothing.
- The weights of embeddings are drawn like all others, their row of padding too: a network that reads padding sees it.
- "sparsity" in the released scripts is the share that is *kept*; here it is ``density``.
- The released code keeps scores, 32 bits a weight and task, and never packs; here a bit a weight.
- Its norms changed twice; shared statistics left all tasks but the last at chance. Here statistics are the task's own.
- Transfer takes the mean of earlier masks in the paper, of signed scores in the code, where they cancel although the
  mask reads their size. Here earlier masks vote.
- Without task identities the released code keeps the scores of all tasks, and goes on from a task's. Here a task that
  begins again goes on from its mask alone, which is all that is stored of it.
- Its permutations are seeded by ``task + seed``, so that five seeds share nearly all of them; here a seed is a draw of
  its own. The test split serves as validation throughout; here a validation part chooses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from polymask.method.card import Card, Recipe
from polymask.method.contract import Method
from polymask.method.cycle import bring_back
from polymask.parts.binarize import kept_count, straight_through, top_k
from polymask.parts.draw import signed_constant, signed_scores, voted_scores
from polymask.parts.pack import unpack
from polymask.parts.seeds import generator
from polymask.parts.sparsity import layer_budget
from polymask.sites.roles import Biases, Heads, Norms, Policy
from polymask.sites.slots import Scores


class SupSup(Method):
    """A task reads ``W * M`` of a signed-constant ``W`` that a seed regenerates; only the scores behind ``M`` train.

    ``select="top-k"``: ``M`` is 1 on the ``n - floor((1 - density) n)`` largest ``|s|`` of a layer, and
    ``dL/ds = sign(s) * W * dL/dW_eff`` (edge-popup). ``select="threshold"``: ``M = [s >= 0]``, identity backward.
    Scores start uniform in ``(-b, b)``, ``b = 1 / sqrt(fan_in)``, anew for every task. There are no biases, norms have
    no affine part and keep statistics per task, and the head is masked like any other layer and shared.

    A finished task may begin again. It goes on from its own tensors and its mask: magnitudes are drawn anew, and scores
    are negative where the mask is off ("threshold"), or their magnitudes the smallest there ("top-k").

    Args:
        model: any module; its weights are replaced by the random ones. Its head is as wide as the largest task.
        example: an input that it accepts.
        head: the name of the head module; None: the last weight read before the output.
        seed: key of every random draw, the weights among them.
        select: how scores become a mask.
        density: the fraction of a layer that a top-k mask keeps.
        budget: the paper's ``S``, in place of ``density``: a layer keeps ``min(0.5, S (c_out + c_in) / n)`` of its
            ``n`` weights, so that about ``S (c_out + c_in)`` are on whatever the kernel's area; 1 to 32 in the paper.
        transfer: start a task's scores from earlier tasks instead of from nothing. The paper takes the mean of earlier
            masks, the released code that of earlier scores; a record keeps masks alone, so the largest fresh scores go
            where most earlier masks are on (``parts.draw.voted_scores``).
        norms: what becomes of norms.
        biases: likewise of biases; "none" holds them at 0.
        heads: "masked": the paper's shared random head; "private": a trained head per task.
        masked: patterns of the weights to mask; None: all that qualify.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> method = SupSup(net, torch.zeros(1, 4), density=0.25)
    >>> method.begin("a", outputs=2)
    >>> (
    ...     int((net[0].weight != 0).sum()),
    ...     sorted(set(net[0].weight[net[0].weight != 0].abs().tolist())) == [math.sqrt(0.5)],
    ... )
    (8, False)
    """

    name = "supsup"
    card = Card(
        source="Wortsman et al. 2020",
        masks="weight",
        values="{0, 1}",
        chosen="learned",
        backbone="frozen, random",
        overlap="free",
        sparsity="density of the top-k",
        scenarios=("GG", "GN", "NN"),
        stores="1 bit a weight",
        exact=True,
    )
    recipes: ClassVar[dict[str, Recipe]] = {"train": Recipe(lr=1e-3, epochs=20)}
    reopens = True
    roomier = "a larger density (--density, now {density})"

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        *,
        head: str | None = None,
        seed: int = 0,
        select: Literal["top-k", "threshold"] = "top-k",
        density: float = 0.5,
        budget: float | None = None,
        transfer: bool = False,
        norms: Norms = "statistics",
        biases: Biases = "none",
        heads: Heads = "masked",
        masked: Sequence[str] | None = None,
    ) -> None:
        if not 0 < density <= 1:
            raise ValueError(f"expected a density in (0, 1], found {density}: it is the fraction that a mask keeps")
        if budget is not None and budget <= 0:
            raise ValueError(
                f"expected a budget above 0, found {budget}: a layer keeps about budget * (out + in) weights"
            )
        if select == "threshold" and (transfer or budget is not None):
            raise ValueError("expected select='top-k' with a budget or transfer, found 'threshold', which has no count")
        self.select, self.density, self.budget, self.transfer = select, density, budget, transfer
        policy = Policy("masked", "frozen", norms, biases, heads, masked)
        super().__init__(model, example, policy, head=head, seed=seed)

    @property
    def drawn(self) -> dict[str, int]:
        """Every masked weight: the seed regenerates it."""
        return dict.fromkeys(self.sites.weights, self.seed)

    def _prepare(self) -> None:
        for name in self.sites.weights:
            self.sites.write(name, signed_constant(tuple(self.sites.tensor(name).shape), self.seed, name))
            self.sites.freeze(name)

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        if self.task in self.records:
            bring_back(self, self.records[self.task])
        for name in self.sites.weights:
            w = self.sites.tensor(name)
            density = self.density if self.budget is None else layer_budget(w.shape, self.budget)
            mask = _positive if self.select == "threshold" else partial(_largest, density=density)
            read = partial(_read, mask=mask, signed=self.select == "threshold")
            self.give_scores(name, Scores(self._start_scores(name).to(w.dtype), read, mask))

    def _start_scores(self, name: str) -> Tensor:
        shape, key = self.sites.tensor(name).shape, (self.seed, str(self.task), name, "scores")
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        if (earlier := self.records.get(str(self.task))) is not None:
            draw, mask = generator(*key, earlier.meta.revision + 1), unpack(earlier.masks[name])
            return (signed_scores if self.select == "threshold" else voted_scores)(mask, bound, draw)
        draw = generator(*key)
        if not self.transfer or not self.records:
            return torch.empty(shape).uniform_(-bound, bound, generator=draw)
        votes = sum(unpack(record.masks[name]).float() for record in self.records.values())
        return voted_scores(torch.as_tensor(votes), bound, draw)


# Functions of no method: a copy of the model copies its scores, and must not copy a learner with all its records.
def _positive(scores: Tensor) -> Tensor:
    return scores >= 0


def _largest(scores: Tensor, density: float) -> Tensor:
    mask: Tensor = top_k(scores.detach(), kept_count(scores.numel(), density))
    return mask


def _read(w: Tensor, scores: Tensor, mask: Callable[[Tensor], Tensor], signed: bool) -> Tensor:
    return straight_through(w, scores, mask(scores), signed=signed)
