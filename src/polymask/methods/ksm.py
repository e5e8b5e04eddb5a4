"""KSM (Yang et al. 2021): a frozen backbone, and per task a mask with one entry a kernel: 1, or a share below a half.

"KSM: Fast Multiple Task Adaption via Kernel-wise Soft Mask Learning", CVPR 2021, arXiv:2009.05668.

Where paper, released code and this file differ:

- The paper speaks of a softmax and of no gradient estimator; the released code draws no noise by default, takes the
  hard mask forward and a sigmoid's slope backward, which is a straight-through estimator. That is computed here.
- The released code makes the graded part from the scores without a gradient; here as well, and rounded to what is
  stored *inside* the forward, so that a task trains under the mask that it will keep.
- It is NaN where no kernel is selected and all scores are equal; here such a mask is 1/2 throughout.
- Its schedule passes the end of the cosine, so that the rate rises again in the last epoch; here it ends at the end.
- It evaluates the test split in every epoch and keeps the best; here a validation part chooses.
- It masks convolutions alone. A linear layer has kernels of one weight here, which is our reading.
- Its norms train, so the fair control is a task's own norms without any mask. On digits the mask is worth 5 points over
  them where the network pools, and nothing where the head reads every position (docs/fidelity.md).
- Most kernels of today's networks are 1 x 1: there a mask by kernel is a mask by weight, and costs as much (``sizes``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from polymask.method.backbone import Backbone, freeze, keep_first, reserved, still, trains_first
from polymask.method.card import Card, Recipe
from polymask.method.contract import Method
from polymask.parts.pack import Packed, pack, pack_soft
from polymask.parts.soft import BITS, GROUP, repeat_groups, soft_mask
from polymask.sites.roles import Biases, Norms, Policy
from polymask.sites.slots import Scores

Granularity = Literal["element", "kernel", "input", "output", "group"]


class KSM(Method):
    """A task reads ``W * M``, ``M = b + a / 2``: ``b = [r >= tau]`` a kernel, ``a`` in [0, 1] graded where ``b`` is 0.

    ``a`` is ``r (1 - b)`` without a gradient, brought to [0, 1] by the least and the largest of its layer
    (``parts.soft.soft_mask``). Backward, ``b`` has the slope of ``sigmoid(beta (r - tau) / T)``. The backbone never
    trains; norms are the task's own, so the fair control is Piggyback with ``norms="private"``. Of a finished task a
    bit a kernel, ``bits`` for each that is not selected, the norms and the head are kept.

    Args:
        model: any module.
        example: an input that it accepts.
        head: the name of the head module; None: the last weight read before the output.
        seed: key of every random draw.
        backbone: "given": the model's weights as they are, from a checkpoint; "first-task": the first task trains the
            plain network, is recorded unmasked, and its weights are frozen for all later ones.
        granularity: what has one score: a "kernel" (a linear layer's are single weights), an "element", an "input" or
            "output" channel, or a "group" of 8 neighbouring input channels of one output channel, the last group of
            fewer where 8 does not divide.
        soft: False: ``b`` alone, the paper's control, at a bit a kernel.
        bits: 8, 16 or 32, of the graded value of a kernel that is not selected.
        tau: the threshold.
        init: the initial score of every kernel.
        beta: the steepness of the threshold.
        temperature: the ``T`` of its slope.
        norms: what becomes of norms; "frozen" for a backbone whose statistics are to stay.
        biases: likewise of biases.
        masked: patterns of the weights to mask; None: all that qualify.

    The paper's recipe: Adam at 2e-4 along a cosine for 30 epochs, batch 32.

    Raises:
        ValueError: if ``init`` is below ``tau``, ``bits`` is another number, ``beta`` or ``temperature`` is not above
            0, or a layer of groups is to be masked by input channels.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    >>> method = KSM(net, torch.zeros(1, 1, 4, 4))
    >>> method.begin("a")
    >>> [(name, tuple(p.shape)) for name, p in method.named_parameters()][-1]
    ('0.weight.scores', (4, 1, 1, 1))
    >>> net(torch.ones(1, 1, 4, 4)).sum().backward()
    >>> torch.optim.Adam(method.parameters(), lr=0.006).step()
    >>> method.end("a")["a"].masks["0.weight"].codec
    'soft'
    """

    name = "ksm"
    card = Card(
        source="Yang et al. 2021",
        masks="weight",
        values="{1} or [0, 1/2]",
        chosen="learned",
        backbone="frozen",
        overlap="free",
        sparsity="nothing",
        scenarios=("GG",),
        stores="1 bit a kernel, 8 more if not selected, and its norms",
        exact=True,
    )
    recipes: ClassVar[dict[str, Recipe]] = {"train": Recipe(lr=1e-3, epochs=20, schedule="cosine")}

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        *,
        head: str | None = None,
        seed: int = 0,
        backbone: Backbone = "given",
        granularity: Granularity = "kernel",
        soft: bool = True,
        bits: int = 8,
        tau: float = 0.005,
        init: float = 0.01,
        beta: float = 1200.0,
        temperature: float = 100.0,
        norms: Norms = "private",
        biases: Biases = "frozen",
        masked: Sequence[str] | None = None,
    ) -> None:
        if init < tau:
            raise ValueError(f"expected init of at least tau, so that all is read at first, found {init} and {tau}")
        if bits not in BITS:
            raise ValueError(f"expected 8, 16 or 32 bits for the graded value of a kernel, found {bits}")
        if min(beta, temperature) <= 0:
            raise ValueError(f"expected beta and temperature above 0, found {beta} and {temperature}")
        self.backbone, self.granularity, self.is_soft, self.bits = backbone, granularity, soft, bits
        self.tau, self.init, self.slope = tau, init, beta / temperature
        first: Literal["first", "frozen"] = "first" if backbone == "first-task" else "frozen"
        biases = first if biases == "frozen" else biases
        policy = Policy("masked", first, first if norms == "frozen" else norms, biases, masked=masked)
        super().__init__(model, example, policy, head=head, seed=seed)

    def _prepare(self) -> None:
        for name in self.sites.weights:
            self._shape(name)
        if self.backbone == "given":
            freeze(self)

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        for name in self.sites.weights:
            if trains_first(self, self.backbone):
                self.sites.open_gate(name, None)
                continue
            w, shape = self.sites.base(name), self._shape(name)
            scores = torch.full(shape, self.init, dtype=w.dtype if w.is_floating_point() else None)
            mask = partial(soft_mask, tau=self.tau, bits=self.bits) if self.is_soft else partial(_hard, tau=self.tau)
            full = self._read_shape(name) if self.granularity == "group" else None
            read = partial(_read, mask=mask, shape=full, tau=self.tau, slope=self.slope)
            self.give_scores(name, Scores(scores, read, partial(_kept, mask=mask, shape=full)))

    def _close(self, hard: dict[str, Tensor]) -> dict[str, Packed]:
        if trains_first(self, self.backbone):
            keep_first(self)
        return {name: self._pack(name, mask) for name, mask in hard.items()}

    @property
    def still(self) -> list[str]:
        """All of a backbone that was given."""
        return still(self, self.backbone)

    def _forget(self) -> str:
        return reserved(self, self.backbone)

    def _pack(self, name: str, mask: Tensor) -> Packed:
        if not self.is_soft:
            return pack(mask)
        compact = soft_mask(self.scores[name].detach(), self.tau, self.bits)
        return pack_soft(compact, self.bits, tuple(mask.shape))

    def _shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight's scores."""
        shape = list(self._read_shape(name))
        if self.granularity == "group" and len(shape) > 1:
            axis = self._axes(name)[1]
            shape[axis] = -(-shape[axis] // GROUP)
        return tuple(shape)

    def _read_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight's mask: one entry a score, or for groups one an input channel."""
        whole = self.sites.base(name).shape
        if self.granularity == "element" or len(whole) < 2:
            return tuple(whole)
        out, into = self._axes(name)
        kept = {"input": (into,), "output": (out,)}.get(self.granularity, (out, into))
        return tuple(size if axis in kept else 1 for axis, size in enumerate(whole))

    def _axes(self, name: str) -> tuple[int, int]:
        """The axes of a weight's output and input channels."""
        module = self.sites.model.get_submodule(name.rpartition(".")[0])
        if getattr(module, "groups", 1) > 1 and self.granularity in ("input", "group"):
            raise ValueError(
                f"expected a layer of one group for masks by {self.granularity} channels, found {name!r} with "
                f"{module.groups}: its input channels are not all read by all outputs; take another granularity, or "
                "leave it out of masked="
            )
        return (1, 0) if getattr(module, "transposed", False) else (0, 1)

    def sizes(self, selected: float = 0.5) -> list[dict[str, object]]:
        """What a task's masks will take, layer by layer, before anything is trained.

        Args:
            selected: the share of kernels that are taken to be selected.

        Returns:
            A row a layer: its weights, its scores, whether a kernel is a single weight, and bytes of the hard mask, of
            the mask as it is stored, of Piggyback's.
        """
        rows: list[dict[str, object]] = []
        for name in self.sites.weights:
            n, scores = self.sites.base(name).numel(), math.prod(self._shape(name))
            plane = -(-(scores if self.is_soft else math.prod(self._read_shape(name))) // 8)
            graded = round((1 - selected) * scores) * self.bits // 8 if self.is_soft else 0
            row: dict[str, object] = {"weight": name, "weights": n, "scores": scores, "single": n == scores}
            rows.append({**row, "hard": plane, "stored": plane + graded, "a bit a weight": -(-n // 8)})
        return rows


# Functions of no method: a copy of the model copies its scores, and must not copy a learner with all its records.
def _hard(scores: Tensor, tau: float) -> Tensor:
    return scores >= tau


def _kept(scores: Tensor, mask: partial[Tensor], shape: tuple[int, ...] | None) -> Tensor:
    return _whole(mask(scores), shape)


def _read(
    w: Tensor, scores: Tensor, mask: partial[Tensor], shape: tuple[int, ...] | None, tau: float, slope: float
) -> Tensor:
    """``w * M``: what is stored forward, the slope of a sigmoid backward."""
    soft = torch.sigmoid(slope * (scores - tau))
    through = mask(scores.detach()).to(soft.dtype) + (soft - soft.detach())
    return w * _whole(through, shape).to(w.dtype)


def _whole(mask: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    """A mask of groups as the weight reads it; any other is as it is read (None)."""
    return mask if shape is None else repeat_groups(mask, shape)
