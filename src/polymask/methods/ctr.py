"""CTR (Ke et al. 2021): adapters in a frozen transformer, masked as by HAT, behind capsules that tasks share by routes.

"Achieving Forgetting Prevention and Knowledge Transfer in Continual Learning", NeurIPS 2021, arXiv:2112.02706.

Where the released code and this file differ; the paper's description is followed:

- Its capsules are squashed over tasks, reshaped without a transpose, so that untrained capsules of the future leak in,
  and a sample's shared output is made of other samples of its batch. Here over a capsule's own axis, sample by sample.
- It draws Gumbel noise at test time too. Here the larger logit decides.
- Its maxima run over padded positions. Here over words alone, so that an answer does not depend on a batch's padding.
- Capsules of earlier tasks, the routing layers, the projection behind them and all LayerNorms go on learning there,
  and decay shrinks what its gates shut. Here (``sharing="exact"``) a capsule learns with its own task, routing with the
  first, and LayerNorms stay as given; ``sharing="train"`` is the paper's form, which drifts.
- ``s_max`` is 400 in the code and said to be 140 in papers of the group; ``c`` .75 in the code, 5,000 in an argument
  that nothing reads. Both are options.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from polymask.calling import call
from polymask.method.annealed import (
    Anneal,
    anneal,
    capacity_of,
    gates_and_usage,
    normal,
    open_gates,
    with_task,
    zeros_per_unit,
)
from polymask.method.card import Card, Recipe
from polymask.method.contract import Method
from polymask.parts.pack import Packed, pack_block, unpack
from polymask.parts.sparsity import capacity_penalty
from polymask.sites.plugs import NAME, bare_again, plug, plugged
from polymask.sites.roles import Plan, Policy
from polymask.sites.table import Kind
from polymask.surgery import Axes, find_joints, widen
from polymask.surgery.capsules import GROWS, RoutedAdapter
from polymask.surgery.joints import refuse_tokens_first
from polymask.wiring import Wiring, ask

MASKED = (f"*{NAME}.adapter.*weight", f"*{NAME}.sharing.capsules*weight")


class CTR(Method):
    """At the end of each branch ``x``, two a layer: ``h = x + K_t(x)``, then ``x + m2 * relu(W2 (m1 * relu(W1 h)))``.

    ``K_t`` routes the capsules of tasks up to ``t``, ``sum_i delta_i a_i * u_i`` (see ``Sharing``); ``delta_i`` is
    drawn by a hard Gumbel-softmax while training and decided by the larger logit otherwise. ``m1``, ``m2`` are the
    task's attention masks, annealed, hardened and protected as HAT's, each also over its own rows. The host stays as
    given.

    A task brings a capsule of three rows a joint; later tasks may read it, and nobody changes it (``sharing="exact"``).
    So knowledge transfers forward, never backward. A capsule that a task has not learned yet is read by none before.

    Args:
        model: a transformer of torch, timm or transformers whose layers are their own; modules are plugged in.
        example: an input that it accepts.
        head: the name of the head module; None: the last weight read before the output.
        seed: key of every random draw.
        bottleneck: units of an adapter; the paper's are 2,000.
        s_max: the largest scale of the gates.
        c: the weight of HAT's regulariser; at .75 and a rate of .05 gates of adapters collapse to a few of 100.
        sharing: "exact": as above, finished tasks keep their logits to the bit. "train": as published, capsules up to
            the task's own and all routing go on learning, and finished tasks drift.
        routing: what decides the routes, where ``sharing`` is exact: "first": all of it is learned with the first task,
            then frozen. "private": each task has two logits of its own behind an estimator that was learned with the
            first; on 132 validation texts of three tasks that was no better (85.6 % against 87.4).

    The paper's recipe: Adam at 5e-5 in batches of 32, texts of 128 tokens, 10 to 30 epochs.

    Raises:
        CannotPlug: if the network has no branches to plug into, or shares its layers.
        ValueError: if a number is out of range, or something is plugged in already.

    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    >>> method = CTR(nn.Sequential(body, nn.Flatten(), nn.Linear(24, 2)), torch.randn(2, 3, 8), bottleneck=4)
    >>> method.begin("a", outputs=2)
    >>> sorted({name.split(".plug.")[-1].split(".")[0] for name, _ in method.named_parameters()})
    ['2', 'adapter', 'sharing']
    """

    name = "ctr"
    card = Card(
        source="Ke et al. 2021",
        masks="unit",
        values="{0, 1}",
        chosen="learned",
        backbone="frozen; adapters trained in pieces",
        overlap="free, encouraged",
        sparsity="a penalty on units not yet used",
        scenarios=("GG",),
        stores="1 bit a unit of its adapters, a capsule of 3 rows a joint",
        exact=True,
    )
    anneals = True
    grows = True
    needs = "encoder"
    recipes: ClassVar[dict[str, Recipe]] = {"train": Recipe(lr=1e-3, mask_lr=0.01, epochs=20, batch_size=32)}
    roomier = "a smaller penalty on units (--c, now {c}), or wider adapters (--bottleneck, now {bottleneck})"

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        *,
        head: str | None = None,
        seed: int = 0,
        bottleneck: int = 256,
        s_max: float = 400.0,
        c: float = 0.1,
        sharing: Literal["exact", "train"] = "exact",
        routing: Literal["private", "first"] = "first",
    ) -> None:
        if not (1 < s_max < math.inf and c >= 0 and bottleneck > 0):
            raise ValueError(
                f"expected a finite s_max above 1, c of at least 0 and a bottleneck of a unit or more, found {s_max}, "
                f"{c} and {bottleneck}"
            )
        self.s_max, self.c, self.sharing, self.routing, self.bottleneck = s_max, c, sharing, routing, bottleneck
        learns: Kind = "shared" if sharing == "train" else "first"
        named: dict[str, Kind] = {
            f"*{NAME}.sharing.decide.*": "private" if routing == "private" and sharing == "exact" else learns,
            f"*{NAME}.sharing.estimate.*": learns,
            f"*{NAME}.sharing.spread.*": learns,
        }
        policy = Policy("masked", "frozen", "frozen", "masked", masked=MASKED, named=named)
        with bare_again(model):
            self._plug_in(model, example, seed)
            super().__init__(model, example, policy, head=head, seed=seed)
        self.exact, self.drifts = (None, True) if sharing == "train" else (True, False)

    def _plug_in(self, model: nn.Module, example: Any, seed: int) -> None:
        if plugged(model):
            raise ValueError(
                "expected a network without adapters, found some: CTR brings its own, take these out by "
                "polymask.sites.plugs.unplug(model)"
            )
        joints = find_joints(model, example)
        refuse_tokens_first(model, example, joints)
        made = {one.module: RoutedAdapter(one.width, self.bottleneck, f"{seed}/{one.module}") for one in joints}
        plug(model, made, freeze=True)

    def _wiring(self, planned: Plan) -> Wiring:
        inside = {
            f"{name}.adapter.{layer}": getattr(module.adapter, layer).out_features
            for name, module in plugged(self.model).items()
            if isinstance(module, RoutedAdapter)
            for layer in ("down", "up")
        }
        weights = [f"{layer}.weight" for layer in inside]
        return ask(self.model, self.example, planned.head, weights, planned.later).only(inside).with_rows(inside)

    def _prepare(self) -> None:
        rows = {name: step for name in self.sites.weights if (step := GROWS.get(name.partition(f"{NAME}.sharing.")[2]))}
        built = {name: tuple(self.sites.tensor(name).shape) for name in rows}
        self.axes = Axes(steps={name: (step, 0) for name, step in rows.items()}, built=built)
        self.state = self._none()

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        taken = self._capsules
        # What removed tasks left stays, and learns with this one.
        shapes = {name: self.sites.tensor(name).shape for name in self.axes.steps}
        wanted = max([taken, *(self.axes.growth(name, shape) for name, shape in shapes.items())])
        widen(self.sites, self.axes, wanted, (self.seed, str(self.task)))
        for name, used in self.state["used"].items():
            if not used.all():
                self.sites.open_gate(name, None if not used.any() else used == 0)
        for name, step in self.axes.steps.items():
            later = torch.arange(len(self.sites.tensor(name))) >= (0 if self.sharing == "train" else taken * step[0])
            gate = later.view(-1, *[1] * (self.sites.tensor(name).ndim - 1)).to(self.sites.tensor(name).device)
            self.sites.open_gate(name, None if gate.all() else gate)
        open_gates(self, self.s_max, draw=normal)

    def on_step(self, progress: float) -> None:
        """Set the temperature of the step."""
        super().on_step(progress)
        anneal(self, Anneal(self.s_max), progress)

    def penalty(self) -> Tensor:
        """``c * R`` of HAT: the share of free units that the task takes."""
        return self.c * capacity_penalty(gates_and_usage(self, self.state["union"]).values())

    def capacity(self) -> dict[str, dict[str, float]]:
        """The share of units in use, and of the adapters' weights and biases that no finished task reads."""
        return capacity_of(self.state["union"], self.state["used"])

    @property
    def owned(self) -> list[str]:
        """The tensors of capsules."""
        return list(self.axes.steps)

    def routes(self, task: str, x: Any) -> dict[str, Tensor]:
        """Which capsules each sample of a batch goes through: joint -> bool (N, tasks up to this one).

        Args:
            task: a finished task.
            x: inputs as the network reads them.
        """
        found: dict[str, Tensor] = {}
        plain = self.plain(task)
        for name, module in plugged(plain).items():
            if isinstance(module, RoutedAdapter):
                module.sharing.register_forward_hook(
                    lambda sharing, args, _, name=name: found.update({name: sharing.open_routes(args[0])})
                )
        with torch.no_grad():
            call(plain, x)
        return found

    @property
    def _capsules(self) -> int:
        """How many tasks have a capsule that stays: those finished, and those before them."""
        if not self.axes.steps:
            return 0
        name, (step, _) = next(iter(self.axes.steps.items()))
        return max((record.masks[name].shape[0] // step for record in self.records.values()), default=0)

    def _close(self, hard: dict[str, Tensor]) -> dict[str, Packed]:
        self.state.update(with_task(self, self.state, hard))
        shapes = {name: self.sites.tensor(name).shape for name in self.axes.steps}
        blocks = {name: pack_block([shape[0], *[1] * (len(shape) - 1)]) for name, shape in shapes.items()}
        return {**super()._close(hard), **blocks}

    def _taken(self) -> Mapping[str, Tensor]:
        return self.state["used"]

    def _forget(self) -> str:
        state = self._none()
        for record in self.records.values():
            state = with_task(self, state, {site: unpack(record.masks[site]) for site in state["union"]})
        self.state.update(state)
        return "the capsules of removed tasks that later ones may read" if self._capsules > len(self.records) else ""

    def _none(self) -> dict[str, dict[str, Tensor]]:
        """What no task uses."""
        tensors = {name: self.sites.tensor(name) for name in self.sites.weights if name not in self.axes.steps}
        return {"union": zeros_per_unit(self), "used": {name: torch.zeros_like(w) for name, w in tensors.items()}}
