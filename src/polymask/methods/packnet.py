"""PackNet (Mallya and Lazebnik 2018): train the free weights, prune the small ones, freeze the rest for ever."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymask.method.card import Card, Recipe
from polymask.method.contract import Method
from polymask.parts.pack import Packed, pack_owners
from polymask.parts.sparsity import equal_share, smallest
from polymask.sites.roles import Biases, Norms, Policy
from polymask.task import TaskRecord


class PackNet(Method):
    """Every weight has one owner; a task reads what it and earlier tasks own, and trains what is free.

    Phase "train" claims all free weights (they start at exactly 0, but for the first task) and trains them with every
    weight visible. Phase "retrain" first gives back, per layer, the ``round(p n)`` smallest in magnitude of the ``n``
    weights that the task owns, then trains the survivors. Task ``k`` reads ``W * [0 < owner <= k]``, so the masks are
    nested and all of them together cost ``ceil(log2(T + 1))`` bits a weight.

    Args:
        model: any module; its weights are trained in pieces.
        example: an input that it accepts.
        head: the name of the head module; None: the last weight read before the output.
        seed: key of every random draw.
        tasks: how many tasks will come; each then gets an equal share, ``p_t = (T - t) / (T - t + 1)``.
        ratio: the same share ``p`` for every task; None: equal shares of ``tasks``, or a half where that is not told.
        norms: what becomes of norms; "first": learned with task 1, then frozen.
        biases: likewise of biases.
        masked: patterns of the weights to mask; None: all that qualify.

    The paper's recipe, for a network pretrained on ImageNet: SGD with momentum 0.9, batch 32, 20 epochs at 1e-3 (a
    tenth after 10), then 10 epochs at 1e-4. The default recipe is for networks trained from scratch.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> method = PackNet(net, torch.zeros(1, 4), tasks=2)
    >>> for phase in method.phases:
    ...     method.begin("a", phase, outputs=2)
    ...     optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    ...     method.on_step(0.0)
    ...     net(torch.ones(3, 4)).sum().backward()
    ...     optimizer.step()
    >>> record = method.end("a")["a"]
    >>> int((method.state["owner"]["0.weight"] == 1).sum()), record.masks["0.weight"].bits
    (16, 1)
    """

    name = "packnet"
    card = Card(
        source="Mallya and Lazebnik 2018",
        masks="weight",
        values="owner",
        chosen="by magnitude",
        backbone="trained in pieces",
        overlap="nested",
        sparsity="pruning ratio",
        scenarios=("GG",),
        stores="owner codes, ceil(log2(T+1)) bits a weight for all tasks",
        exact=True,
    )
    phases: ClassVar[tuple[str, ...]] = ("train", "retrain")
    recipes: ClassVar[dict[str, Recipe]] = {"train": Recipe(lr=1e-3, epochs=15), "retrain": Recipe(lr=1e-3, epochs=10)}

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        *,
        head: str | None = None,
        seed: int = 0,
        tasks: int | None = None,
        ratio: float | None = None,
        norms: Norms = "first",
        biases: Biases = "first",
        masked: Sequence[str] | None = None,
    ) -> None:
        if ratio is not None and not 0 <= ratio < 1:
            raise ValueError(f"expected a ratio in [0, 1), found {ratio}: it is the share that a task gives back")
        if tasks is not None and tasks < 1:
            raise ValueError(f"expected at least 1 task, found {tasks}")
        self.tasks, self.ratio = tasks, ratio
        policy = Policy("masked", "first", norms, biases, masked=masked)
        super().__init__(model, example, policy, head=head, seed=seed)

    def _prepare(self) -> None:
        owner = {name: torch.zeros_like(self.sites.tensor(name), dtype=torch.uint8) for name in self.sites.weights}
        self.state["owner"] = owner

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        code = len(self.records) + 1
        if code > 255:
            raise ValueError(f"expected at most 255 tasks, the codes of one byte, found task {code}")
        if phase == "train":
            owner = {name: own.masked_fill(own == 0, code) for name, own in self.state["owner"].items()}
        else:
            owner = {name: self._prune(name, own, code) for name, own in self.state["owner"].items()}
        for name, own in owner.items():
            mine = own == code
            if phase == "retrain":
                self.sites.narrow(name, mine, own > 0)
            elif mine.any():
                self.sites.open(name, None if mine.all() else mine)
        self.state["owner"] = owner
        if not self.sites.opened:
            warnings.warn(
                f"no free weight is left for task {self.task!r}: its head alone is learned. Tell PackNet the number of "
                "tasks (tasks=), or prune more (ratio=)",
                stacklevel=3,
            )

    def _prune(self, name: str, owner: Tensor, code: int) -> Tensor:
        mine = owner == code
        n = int(mine.sum())
        share = 0.5 if self.ratio is None else self.ratio
        if self.ratio is None and self.tasks is not None:
            share = max(0.0, equal_share(code, max(self.tasks, code)))
        return owner.masked_fill(smallest(self.sites.base(name), mine, round(share * n)), 0)

    def _close(self, hard: dict[str, Tensor]) -> dict[str, Packed]:
        code = len(self.records) + 1
        packed = {}
        for name, owner in self.state["owner"].items():
            self.sites.put(name, self.sites.base(name).masked_fill(owner == 0, 0.0))
            packed[name] = pack_owners(owner, code, code)
        return packed

    def _reissue(self) -> dict[str, TaskRecord]:
        planes = list(self.records.values())[-1].masks
        return {
            task: replace(old, masks={name: replace(plane, level=k) for name, plane in planes.items()})
            for k, (task, old) in enumerate(self.records.items(), start=1)
        }
