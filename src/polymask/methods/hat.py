"""HAT (Serra et al. 2018): a task learns, with the weights, an attention mask on units; used connections then stand.

"Overcoming Catastrophic Forgetting with Hard Attention to the Task", ICML 2018, arXiv:1801.01423.

Where paper, released code and this file differ:

- Nothing is hard in the released code: a gate ``sigmoid(s_max e)`` stays for ever, and ``e`` a little below 0 reads
  weights that nothing protects. Here what is kept is ``[e > 0]``, and the same bits decide freezing, validation and
  answers.
- The compensation of the embeddings' gradients, a quotient of cosh clipped at 50, equals a backward pass with the slope
  ``s_max sigmoid'(e)``; that is computed, without the clip. Where float32 rounds the gate to 1, a gradient still
  arrives.
- The paper shuts a weight by ``1 - min(A_i, A_j)`` of the *unions*; here by the pairs that one task uses (``rule``).
- The scale starts at ``1 / s_max`` in the first batch and ends at ``s_max`` in the last; the code's ends a step below.
- Its regulariser is 0 / 0 once every unit is in use; here 0.
- Batch norms, residual sums and attention are not in the released code. Here a norm is private, a sum is masked again
  after the addition, and which unit feeds what is asked of the network.
- Its MNIST loaders validate on the training data; here a validation part chooses.
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
    linear_layers,
    normal,
    open_gates,
    positive,
    with_task,
    zeros_per_unit,
)
from polymask.method.card import Card, Recipe
from polymask.method.contract import Method
from polymask.parts.pack import Packed, unpack
from polymask.parts.sparsity import capacity_penalty
from polymask.sites.roles import Norms, Plan, Policy
from polymask.wiring import Wiring


class HAT(Method):
    """A task reads ``y * b`` of every masked layer, ``b = [e > 0]`` over units; ``e`` and the weights train together.

    While training the gate is ``a = sigmoid(s e)``, ``s`` from ``1 / s_max`` to ``s_max`` over each epoch, with the
    gradient of ``s_max sigmoid(e)``. The loss gains ``c R``, ``R = sum a (1 - A) / sum (1 - A)`` over all units, ``A``
    those that earlier tasks use: reuse is free. A weight ``W_ij`` learns where no earlier task reads it: ``max over old
    tasks of min(b_i, b_j) = 0``, ``i`` its unit and ``j`` what feeds its column. The sites are found by asking the
    network (``polymask.wiring``); a layer whose columns nothing can shut freezes whole for rows in use.

    The hardened mask decides everything but the training forward: what stands, validation, test, storage. The paper
    keeps ``sigmoid(s_max e)`` instead, and so forgets a little; ``soft=True`` is as published.

    Args:
        model: any module; its weights are trained in pieces.
        example: an input that it accepts; the network is asked with it.
        head: the name of the head module; None: the last weight read before the output.
        seed: key of every random draw.
        s_max: the largest scale.
        c: the weight of the regulariser.
        rule: "tight": as above. "unions": the paper's ``1 - min(A_i, A_j)``, which also shuts connections between units
            that only different tasks use.
        soft: as published: masks and protection stay real numbers. A finished task then drifts.
        start: "normal": ``e`` from N(0, 1). "uniform": from U(0, 2), with ``c = 1.5`` the paper's compression of one
            task; ``report`` of the run says what is left.
        norms: what becomes of norms.
        sites: "feeding": units are masked where they can be told apart by what reads them. "all": so are those of every
            other masked linear layer, at its own output, which protects its rows: in adapters, the second mask of CTR.
        masked: patterns of the weights to gate; None: all that qualify.

    The paper's recipe: SGD at 0.05 in batches of 64, the rate cut to a third after 5 epochs without a lower validation
    loss, at most 200 epochs. The one here learns in a tenth of them: gates that move at the rate of the weights stay
    where they were drawn for long, and tasks take a random half of all units (``benchmarks/few_epochs.py``).

    Raises:
        ValueError: if ``s_max`` or ``c`` is out of range.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> method = HAT(net, torch.zeros(1, 4))
    >>> method.begin("a", outputs=2)
    >>> [name for name, _ in method.named_parameters()], 0 < method.penalty().item() <= 1
    (['0.weight', '0.bias', '2.weight', '2.bias', '0.scores'], True)
    """

    name = "hat"
    card = Card(
        source="Serra et al. 2018",
        masks="unit",
        values="{0, 1}",
        chosen="learned",
        backbone="trained in pieces",
        overlap="free, encouraged",
        sparsity="a penalty on units not yet used",
        scenarios=("GG",),
        stores="1 bit a unit",
        exact=True,
    )
    anneals = True
    recipes: ClassVar[dict[str, Recipe]] = {
        "train": Recipe(lr=1e-3, mask_lr=0.01, epochs=30, batch_size=64, momentum=0.0)
    }
    roomier = "a smaller penalty on units (--c, now {c})"

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        *,
        head: str | None = None,
        seed: int = 0,
        s_max: float = 400.0,
        c: float = 0.75,
        rule: Literal["tight", "unions"] = "tight",
        soft: bool = False,
        start: Literal["normal", "uniform"] = "normal",
        norms: Norms = "private",
        sites: Literal["feeding", "all"] = "feeding",
        masked: Sequence[str] | None = None,
    ) -> None:
        if not 1 < s_max < math.inf:
            raise ValueError(f"expected a finite s_max above 1, found {s_max}: the scale runs from 1 / s_max to s_max")
        if not c >= 0:
            raise ValueError(f"expected c of at least 0, found {c}: it is the weight of the penalty on new units")
        self.s_max, self.c, self.rule, self.soft, self.start, self.where = s_max, c, rule, soft, start, sites
        policy = Policy("masked", "first", norms, "masked", masked=masked)
        super().__init__(model, example, policy, head=head, seed=seed)
        self.exact = None if soft and self.sites.wiring.sizes else True

    def _wiring(self, planned: Plan) -> Wiring:
        found = find_wiring(self, planned)
        return found if self.where == "feeding" else found.with_rows(linear_layers(self.model, planned))

    def _prepare(self) -> None:
        self.state = self._none()

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        for name, used in self.state["used"].items():
            if not used.any():
                self.sites.open_gate(name, None)
            elif (used < 1).any():
                self.sites.open_gate(name, 1 - used if self.soft else used == 0)
        open_gates(self, self.s_max, self.soft, normal if self.start == "normal" else positive)

    def on_step(self, progress: float) -> None:
        """Set the temperature of the step."""
        super().on_step(progress)
        anneal(self, Anneal(self.s_max), progress)

    def penalty(self) -> Tensor:
        """``c * R``, see the class."""
        found = gates_and_usage(self, self.state["union"]).values()
        return self.c * capacity_penalty(found) if found else super().penalty()

    def capacity(self) -> dict[str, dict[str, float]]:
        """The share of units in use, and of weights and biases that no finished task reads."""
        return capacity_of(self.state["union"], self.state["used"])

    def _close(self, hard: dict[str, Tensor]) -> dict[str, Packed]:
        self.state.update(with_task(self, self.state, hard, self.rule == "unions"))
        return super()._close(hard)

    def _taken(self) -> Mapping[str, Tensor]:
        return self.state["used"]

    def _forget(self) -> str:
        state = self._none()
        for record in self.records.values():
            masks = {site: unpack(record.masks[site]) for site in state["union"]}
            state = with_task(self, state, masks, self.rule == "unions")
        self.state.update(state)
        return ""

    def _none(self) -> dict[str, dict[str, Tensor]]:
        """What no task uses."""
        tensors = {name: self.sites.tensor(name) for name in self.sites.weights}
        used = {name: torch.zeros_like(w, dtype=w.dtype.to_real()) for name, w in tensors.items()}
        return {"union": zeros_per_unit(self), "used": used}
