"""TFM (Masana, Tuytelaars and van de Weijer 2021): a task widens the network, and reads it as wide as it then was.

"Ternary Feature Masks: zero-forgetting for task-incremental learning", CVPR Workshops 2021, arXiv:2001.08714.

Where paper and this file differ:

- No code was published and the growth a task is not known to us; ``growth`` is ours to choose.
- Whether statistics of norms are a task's own, and where its gains start, the paper does not say as far as we know:
  here both are private, and gains go on from the last task's.
- The paper stores two bits a unit; since masks follow from widths, one integer a layer says the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from polymask.method.card import Card, Recipe
from polymask.method.contract import Method
from polymask.parts.pack import Packed, pack_block
from polymask.sites.roles import Policy, plan
from polymask.sites.slots import Scores
from polymask.sites.table import MOVES
from polymask.surgery import growable, widen


class TFM(Method):
    """Task ``t`` reads ``gamma_i W_ij`` with ``i``, ``j`` up to its widths, and trains every ``W_ij`` with a new end.

    Every layer gains ``growth`` units with every task but the first. A unit is *normal* for the task that it came with,
    *forward-only* for later ones and *masked* for earlier ones, so widths say it all (``report.states`` spells them in
    two bits a unit). Edges between old units are frozen. All others train, from old to new units and from new to old:
    an old unit computes something else for a new task, which sends it more. An old task takes the leading block of
    every weight, not a wider one with zeros, which could sum in another order.

    A layer grows if each of its units feeds columns of its own (``surgery.growable``); layers whose outputs are added
    grow as one. ``method.axes.left`` names the others, with the reason; they are learned with task 1.

    Args:
        model: any module; it grows.
        example: an input that it accepts.
        head: the name of the head module; None: the last weight read before the output.
        seed: key of every random draw.
        growth: the units that a layer gains with a task. The paper's values are not known to us.
        normalise: True: every task has a gain and a shift of its own for each unit, going on from the last task's: the
            norm after a layer with its statistics, or else gains ``gamma`` of the rows and the bias. False: old units
            keep the gain and bias that they were learned with; only statistics are the task's own.

    There is no published code. Per-task statistics and where gains start are our choice.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> method = TFM(net, torch.zeros(1, 4), growth=2)
    >>> for task in ("a", "b"):
    ...     method.begin(task)
    ...     optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    ...     net(torch.ones(3, 4)).sum().backward()
    ...     optimizer.step()
    ...     _ = method.end(task)
    >>> method.widths("a"), method.widths("b"), method.plain("a")[0]
    ({'0': 8}, {'0': 10}, Linear(in_features=4, out_features=8, bias=True))
    """

    name = "tfm"
    card = Card(
        source="Masana, Tuytelaars and van de Weijer 2021",
        masks="unit",
        values="3 states",
        chosen="by age",
        backbone="grown",
        overlap="nested",
        sparsity="units a task",
        scenarios=("GG",),
        stores="widths, gains, biases, norms; its new weights join the shared ones",
        exact=True,
    )
    recipes: ClassVar[dict[str, Recipe]] = {"train": Recipe(lr=1e-3, epochs=15)}
    grows = True

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        *,
        head: str | None = None,
        seed: int = 0,
        growth: int = 8,
        normalise: bool = True,
    ) -> None:
        if growth < 0:
            raise ValueError(f"expected a growth of at least 0 units, found {growth}: 0 learns norms and heads alone")
        own: Literal["private", "masked"] = "private" if normalise else "masked"
        policy = Policy("masked", "first", own, own)
        self.growth, self.normalise = growth, normalise
        self.axes = growable(model, example, plan(model, example, policy, head), max(growth, 1))
        super().__init__(model, example, policy, head=head, seed=seed)

    def widths(self, task: str | None = None) -> dict[str, int]:
        """How many units every growing layer has for a finished task; None: now."""
        names = {layer: f"{layer}.weight".lstrip(".") for group in self.axes.groups for layer in group}
        if task is None:
            return {layer: len(self.sites.tensor(name)) for layer, name in names.items()}
        masks = self.record(task).masks
        return {layer: masks[name].shape[0] for layer, name in names.items()}

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        widen(self.sites, self.axes, self._wanted(), (self.seed, str(self.task)))
        self._inherit()
        for name in self.sites.weights:
            gate = self._gate(name)
            if gate is None or gate.any():
                self.sites.open_gate(name, gate)
            if self.normalise and name in self.axes.bare:
                self.give_scores(name, Scores(self._gains(name), _scaled, torch.clone))

    def _inherit(self) -> None:
        """Private tensors but the head go on from the last task's; new units, and what moves, are as they were made."""
        if not self.records:
            return
        head = self.sites.inside(self.head)
        for name, last in list(self.records.values())[-1].private.items():
            if name not in head and not self.sites.roles[name].why.startswith(MOVES):
                own = self.sites.tensor(name).detach().clone()
                own[tuple(slice(size) for size in last.shape)] = last.to(own)
                self.sites.write(name, own)

    def _wanted(self) -> int:
        """How many units the next task has above those built: ``growth`` more than the last, or what others left."""
        return max(self._read + self.growth if self.records else 0, self._grown(self._shapes()))

    @property
    def _read(self) -> int:
        """How many of them the last finished task reads; older ones read fewer."""
        masks = list(self.records.values())[-1].masks
        return self._grown({name: mask.shape for name, mask in masks.items()})

    def _grown(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        sizes = (self.axes.growth(name, shape) for name, shape in shapes.items() if name in self.axes.steps)
        return max(sizes, default=0)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(self.sites.tensor(name).shape) for name in self.sites.weights}

    def _taken(self) -> Mapping[str, Tensor]:
        found = {}
        for name in self.sites.weights:
            w, gate = self.sites.tensor(name), self._gate(name)
            found[name] = torch.zeros_like(w, dtype=torch.bool) if gate is None else ~gate.expand_as(w)
        return found

    def _forget(self) -> str:
        """The records say it all; what is private is as wide as the network, where no task has left its own."""
        if not self.records:
            widen(self.sites, self.axes, self._grown(self._shapes()))
            return ""
        kept = self._read > self.growth * (len(self.records) - 1)
        return "the units that removed tasks brought and later ones read" if kept else ""

    def _gate(self, name: str) -> Tensor | None:
        """Where an edge has an end that no task reads, broadcasting to the weight; None: everywhere, for the first."""
        if not self.records:
            return None
        w = self.sites.tensor(name)
        rows, *columns = self.axes.block(name, w.shape, self._read)
        gate = (torch.arange(len(w), device=w.device) >= rows).view(-1, *[1] * (w.ndim - 1))
        if w.ndim == 1:
            return gate
        late = torch.arange(w.shape[1], device=w.device) >= columns[0]
        return gate | late.view(-1, *[1] * (w.ndim - 2))

    def _gains(self, name: str) -> Tensor:
        w = self.sites.tensor(name)
        gains = torch.ones(len(w), dtype=w.dtype, device=w.device)
        if self.records:
            last = list(self.records.values())[-1].masks[name].payload
            gains[: len(last)] = last.to(gains)
        return gains.view(-1, *[1] * (w.ndim - 1))

    def _close(self, hard: dict[str, Tensor]) -> dict[str, Packed]:
        packed = {}
        for name in self.sites.weights:
            shape, grows = self.sites.tensor(name).shape, [*self.axes.steps.get(name, (0, 0))]
            grows[0] = grows[0] or name in hard
            if any(grows):
                block = [size if grow else 1 for size, grow in zip(shape, [*grows, *[0] * len(shape)], strict=False)]
                packed[name] = pack_block(block, hard.get(name))
        return packed


# Of no method: a copy of the model copies its scores, and must not copy a learner with all its records.
def _scaled(w: Tensor, gains: Tensor) -> Tensor:
    return w * gains
