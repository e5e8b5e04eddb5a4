"""AdaHAT (Wang et al. 2024): HAT whose used connections still take small steps, smaller the more tasks rely on them.

"AdaHAT: Adaptive Hard Attention to the Task in Task-Incremental Learning", ECML PKDD 2024.

Where paper, released code and this file differ:

- Adam divides by a gradient's size, so that ``alpha`` is entangled with its epsilon in the published results, and does
  not carry over to SGD. ``scales="step"`` scales the displacement instead, the same under every optimizer.
- The shortcut convolutions of the released ResNet are trained and never gated, so that HAT itself forgets there. Here
  every weight has a role.
- Its scale counts batches from 0 where the formula counts from 1: gates begin inverted and never reach ``s_max``.
- The older release averages two ratios into ``R_l``, the newer one takes one; here the newer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from polymask.method.annealed import (
    Anneal,
    anneal,
    capacity_of,
    find_wiring,
    gates_and_usage,
    open_gates,
    per_entry,
    zeros_per_unit,
)
from polymask.method.card import Card, Recipe
from polymask.method.contract import Method
from polymask.parts.pack import Packed, unpack
from polymask.parts.sparsity import capacity_penalty
from polymask.sites.roles import Norms, Plan, Policy
from polymask.sites.slots import fill
from polymask.wiring import Wiring

EPSILON = 0.1
"""In ``r = alpha / (EPSILON + R)`` (Wang et al. 2024, equation 9)."""


class AdaHAT(Method):
    """As HAT, but a weight that earlier tasks read moves by the factor ``g = r / (min(M_i, M_j) + r)``.

    ``M`` counts the finished tasks that use a unit, ``i`` being the weight's own and ``j`` what feeds its column; ``r =
    alpha / (0.1 + R_l)``, ``R_l`` the share of the layer's free units that the open task takes. ``g`` is 1 where ``M``
    is 0 and at most about ``10 alpha`` elsewhere. So a network never runs full, and finished tasks drift.

    Args:
        model: any module; its weights are trained in pieces.
        example: an input that it accepts; the network is asked with it.
        head: the name of the head module; None: the last weight read before the output.
        seed: key of every random draw.
        s_max: the largest scale.
        c: the weight of the regulariser.
        alpha: how plastic used weights stay.
        scales: "gradient": as published; Adam, which divides by a gradient's size, makes of ``g`` something nearer to
            ``g |dL/dw| / (g |dL/dw| + 1e-8)``. "step": the displacement from where the task began, under any optimizer;
            it wants a larger ``alpha``, about 1e-2.
        norms: what becomes of norms.
        masked: patterns of the weights to gate; None: all that qualify.

    Raises:
        ValueError: if ``s_max``, ``c`` or ``alpha`` is out of range.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> method = AdaHAT(net, torch.zeros(1, 4))
    >>> method.begin("a", outputs=2)
    >>> method.exact is None, [name for name, _ in method.named_parameters()]
    (True, ['0.weight', '0.bias', '2.weight', '2.bias', '0.scores'])
    """

    name = "adahat"
    card = Card(
        source="Wang et al. 2024",
        masks="unit",
        values="{0, 1}",
        chosen="learned",
        backbone="trained, ever more slowly",
        overlap="free, encouraged",
        sparsity="a penalty on units not yet used",
        scenarios=("GG",),
        stores="1 bit a unit",
        exact=None,
    )
    anneals = True
    slows = True
    recipes: ClassVar[dict[str, Recipe]] = {"train": Recipe(lr=1e-3, epochs=20, batch_size=128)}
    roomier = "a smaller penalty on units (--c, now {c})"

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        *,
        head: str | None = None,
        seed: int = 0,
        s_max: float = 400.0,
        c: float = 0.1,
        alpha: float = 1e-6,
        scales: Literal["gradient", "step"] = "gradient",
        norms: Norms = "private",
        masked: Sequence[str] | None = None,
    ) -> None:
        if not 1 < s_max < math.inf:
            raise ValueError(f"expected a finite s_max above 1, found {s_max}: the scale runs from 1 / s_max to s_max")
        if not (c >= 0 and 0 <= alpha < math.inf):
            raise ValueError(f"expected c and alpha of at least 0, and finite, found {c} and {alpha}")
        self.s_max, self.c, self.alpha, self.scales = s_max, c, alpha, scales
        policy = Policy("masked", "first", norms, "masked", masked=masked)
        super().__init__(model, example, policy, head=head, seed=seed)

    def _wiring(self, planned: Plan) -> Wiring:
        return find_wiring(self, planned)

    def _prepare(self) -> None:
        self.state["count"] = zeros_per_unit(self)

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        open_gates(self, self.s_max)
        for name in self.sites.weights:
            self.sites.open_gate(name, None)
        self._slow()

    def on_step(self, progress: float) -> None:
        """Set the temperature of the step, and how far each weight may go."""
        super().on_step(progress)
        anneal(self, Anneal(self.s_max), progress)
        self._slow()

    @torch.no_grad()
    def _slow(self) -> None:
        if not self.records:
            return
        found = gates_and_usage(self, self._union())
        shares = {site: float(capacity_penalty([pair])) for site, pair in found.items()}
        for name in self.sites.weights:
            # A layer without units of its own counts as one that takes all: its weights move the least.
            share = shares.get(self.sites.wiring.rows.get(name.rpartition(".")[0], ""), 1.0)
            slot = "rate" if self.scales == "gradient" else "gate"
            fill(self.sites.weights[name], slot, self._factor(name, self.alpha / (EPSILON + share)))

    def _factor(self, name: str, r: float) -> Tensor:
        relied = self._relied(name)
        return torch.where(relied > 0, r / (relied + r), 1.0).to(relied.dtype)

    def _relied(self, name: str) -> Tensor:
        """How many finished tasks read each entry of a weight, those that were removed no longer among them."""
        return per_entry(self, name, self.state["count"], float(len(self.records)))

    def _union(self) -> dict[str, Tensor]:
        return {site: (count > 0).to(count.dtype) for site, count in self.state["count"].items()}

    def penalty(self) -> Tensor:
        """``c * R``, HAT's."""
        found = gates_and_usage(self, self._union()).values()
        return self.c * capacity_penalty(found) if found else super().penalty()

    def capacity(self) -> dict[str, dict[str, float]]:
        """The share of units in use, and the mean factor of every weight and bias: the paper's capacity."""
        factors = {name: self._factor(name, self.alpha / EPSILON) for name in self.sites.weights}
        return capacity_of(self._union(), {name: 1 - factor for name, factor in factors.items()})

    def _close(self, hard: dict[str, Tensor]) -> dict[str, Packed]:
        self.state["count"] = {site: old + hard[site].to(old.dtype) for site, old in self.state["count"].items()}
        return super()._close(hard)

    def _taken(self) -> Mapping[str, Tensor]:
        return {name: self._relied(name) for name in self.sites.weights}

    def _forget(self) -> str:
        count = zeros_per_unit(self)
        for record in self.records.values():
            count = {site: old + unpack(record.masks[site]).to(old) for site, old in count.items()}
        self.state["count"] = count
        return ""
