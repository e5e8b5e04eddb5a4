"""PackNet (Mallya and Lazebnik 2018): train the free weights, prune the small ones, freeze the rest for ever.

"PackNet: Adding Multiple Tasks to a Single Network by Iterative Pruning", CVPR 2018, arXiv:1711.05769.

Where paper, released code and this file differ:

- The released code evaluates the test split in every epoch and keeps the best; here a validation part chooses.
- It zeroes the gradients of frozen weights, which holds under its optimizer alone: momentum, Adam's moments and weight
  decay all move a weight whose gradient is zero. Here frozen weights are no parameters.
- Evaluating an early task destroys the later ones' weights in place (``apply_mask``); here a task is a copy, or a
  switch.
- Its flags for trained norms and biases save the biases per task and not the norms, so that old tasks are forgotten.
- It prunes ties of the threshold too, and so more than ``round(p n)``; here exactly that many.
- It asks for a pretrained first task; here the first task is like any other, pruned and retrained.
- A constant ratio starves late tasks (0.6 leaves 6e-5 of the weights to the 20th); ``tasks`` gives equal shares, but
  for the last task, which learns worst with one, since all others choose theirs from more: it gets ``last`` of them.
- Free weights start at 0 there, and a unit whose free weights are all it has hardly learns: of ten tasks with equal
  shares the last lies some three points below the others. Here they are drawn anew, and with its own share the last
  lies about one below; ``start="zero"`` is the paper's form.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from polymask.method.card import Card, Recipe
from polymask.method.contract import Method
from polymask.parts.pack import Packed, pack_owners
from polymask.parts.seeds import generator
from polymask.parts.sparsity import equal_share, smallest
from polymask.sites.roles import Biases, Norms, Policy, plan
from polymask.surgery import Axes, CannotGrow, growable, widen
from polymask.task import TaskRecord


class PackNet(Method):
    """Every weight has one owner; a task reads what it and earlier tasks own, and trains what is free.

    Phase "train" claims all free weights, which start from a fresh draw, and trains them with every weight visible.
    Phase "retrain" first gives back, per layer, the ``round(p n)`` smallest in magnitude of the ``n`` weights that the
    task owns, then trains the survivors. Task ``k`` reads ``W * [0 < owner <= k]``, so the masks are nested and all of
    them together cost ``ceil(log2(T + 1))`` bits a weight.

    Args:
        model: any module; its weights are trained in pieces.
        example: an input that it accepts.
        head: the name of the head module; None: the last weight read before the output.
        seed: key of every random draw.
        tasks: how many tasks will come; each then gets an equal share, ``1 / (T + L - 1)``, and the last one ``L`` of
            them: ``p_t = (T + L - 1 - t) / (T + L - t)``, and ``p_T = 0``.
        last: ``L``, how many shares the last of ``tasks`` gets, which alone cannot choose what it keeps; 1: as many as
            the others; None: ``1 + T // 5``. Beside ``ratio`` it has no meaning.
        ratio: the same share ``p`` for every task, or one for each, of which the last goes on; None: shares of
            ``tasks``, or a half where that is not told.
        reuse: False: a task reads only what it owns, ``W * [owner = k]``. Hard isolation, the control that shows what
            reuse buys.
        start: what free weights start from after the first task: "fresh", a draw uniform in ``(-b, b)``, ``b = 1 /
            sqrt(fan_in)``; or "zero", the paper's form, where a late task learns with hardly more than what it reuses.
        grow: how many units every layer that can grow (``surgery.growable``) gains when a task finds no free weight;
            the task owns all their edges, and older tasks read the block that they knew. 0: such a task learns its head
            alone, as in the paper.
        norms: what becomes of norms; "first": learned with task 1, then frozen. With ``grow`` that is "private", since
            a task cannot read a part of what is frozen.
        biases: likewise of biases.
        masked: patterns of the weights to mask; None: all that qualify.

    The paper's recipe, for a network pretrained on ImageNet: SGD with momentum 0.9, batch 32, 20 epochs at 1e-3 (a
    tenth after 10), then 10 epochs at 1e-4. The default recipe is for networks trained from scratch.

    Raises:
        ValueError: if a ratio is not in [0, 1), there is no task to share with, ``last`` is below 1 or told without
            ``tasks``, or ``grow`` is below 0.
        CannotGrow: if ``grow`` is asked of a network without a layer that can grow.

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
    roomier = "a smaller ratio (--ratio, now {ratio}), or fewer tasks a network"

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        *,
        head: str | None = None,
        seed: int = 0,
        tasks: int | None = None,
        last: int | None = None,
        ratio: float | Sequence[float] | None = None,
        reuse: bool = True,
        start: Literal["fresh", "zero"] = "fresh",
        grow: int = 0,
        norms: Norms = "first",
        biases: Biases = "first",
        masked: Sequence[str] | None = None,
    ) -> None:
        self.ratios = (ratio,) if isinstance(ratio, int | float) else tuple(ratio or ())
        if wrong := [share for share in self.ratios if not 0 <= share < 1]:
            raise ValueError(f"expected a ratio in [0, 1), found {wrong[0]}: it is the share that a task gives back")
        if tasks is not None and tasks < 1:
            raise ValueError(f"expected at least 1 task, found {tasks}")
        if last is not None and last < 1:
            raise ValueError(f"expected at least 1 share for the last task, found {last}")
        if last is not None and tasks is None and ratio is None:
            raise ValueError(f"expected tasks beside last={last}, found none: which task is the last is not known")
        if grow < 0:
            raise ValueError(f"expected to grow by at least 0 units, found {grow}")
        self.tasks, self.last, self.reuse, self.start = tasks, last, reuse, start
        self.grow, self.grows = grow, grow > 0
        if grow:
            norms, biases = "private" if norms == "first" else norms, "private" if biases == "first" else biases
        policy = Policy("masked", "first", norms, biases, masked=masked)
        self.axes = growable(model, example, plan(model, example, policy, head), grow) if grow else Axes()
        if grow and not self.axes.groups:
            why = "; ".join(f"{layer}: {reason}" for layer, reason in self.axes.left.items())
            raise CannotGrow(f"expected a network with a layer that can grow, found none ({why}): leave grow= out")
        super().__init__(model, example, policy, head=head, seed=seed)

    def _prepare(self) -> None:
        owner = {name: torch.zeros_like(self.sites.tensor(name), dtype=torch.uint8) for name in self.sites.weights}
        self.state["owner"] = owner

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        code = self._next
        if code > 255:
            raise ValueError(f"expected at most 255 tasks, the codes of one byte, found task {code}")
        if phase == "train":
            self._widen(code)
            owner = {name: own.masked_fill(own == 0, code) for name, own in self.state["owner"].items()}
        else:
            owner = {name: self._prune(name, own, code) for name, own in self.state["owner"].items()}
        for name, own in owner.items():
            mine = own == code
            read = own > 0 if self.reuse else mine
            if phase == "retrain":
                self.sites.narrow_gate(name, mine, read)
            elif mine.any():
                self._claim(name, mine)
            elif not self.reuse:
                self.sites.narrow_gate(name, mine, mine)
        self.state["owner"] = owner
        if not self.sites.opened:
            warnings.warn(
                f"no free weight is left for task {self.task!r}: its head alone is learned. Tell PackNet the number of "
                "tasks (tasks=), or prune more (ratio=)",
                stacklevel=3,
            )

    def _widen(self, code: int) -> None:
        """As wide as the last task; wider if nothing is free and the open task has claimed nothing yet."""
        if not self.axes.steps:
            return
        owners, growth = self.state["owner"], self._growth
        if not any(((own == 0) | (own == code)).any() for own in owners.values()):
            growth += self.grow
        widen(self.sites, self.axes, growth, (self.seed, str(self.task)))
        self.state["owner"] = {name: _padded(own, self.sites.tensor(name)) for name, own in owners.items()}

    def _claim(self, name: str, mine: Tensor) -> None:
        self.sites.open_gate(name, None if mine.all() else mine)
        # Free weights are 0, and through layers of nothing but zeros no gradient passes.
        w, removed = self.sites.tensor(name).detach(), self.count > len(self.records)
        if self.count and (self.start == "fresh" or not self.reuse):
            self.sites.write_trained(name, torch.where(mine, self._drawn(name).to(w), w))
            if not self.reuse:
                self.sites.narrow_gate(name, mine, mine)
        elif removed and w.ndim > 1:
            bare = (w == 0).flatten(1).all(1).view(-1, *[1] * (w.ndim - 1))
            self.sites.write_trained(name, torch.where(bare, self._drawn(name).to(w), w))

    def _drawn(self, name: str) -> Tensor:
        shape = self.sites.tensor(name).shape
        if len(shape) == 1:  # a norm's gain starts at 1, what is added at 0
            return torch.full(shape, 1.0 if name.rpartition(".")[2] == "weight" else 0.0)
        bound, draw = 1 / math.sqrt(math.prod(shape[1:])), generator(self.seed, str(self.task), name, "weights")
        return torch.empty(shape).uniform_(-bound, bound, generator=draw)

    def _prune(self, name: str, owner: Tensor, code: int) -> Tensor:
        mine = owner == code
        n = int(mine.sum())
        share = self.ratios[min(code, len(self.ratios)) - 1] if self.ratios else 0.5
        if not self.ratios and self.tasks is not None:
            more = self.tasks // 5 if self.last is None else self.last - 1
            share = equal_share(code, self.tasks + more) if code < self.tasks else 0.0
        return owner.masked_fill(smallest(self.sites.base(name), mine, round(share * n)), 0)

    def _close(self, hard: dict[str, Tensor]) -> dict[str, Packed]:
        code = self._next
        packed = {}
        for name, owner in self.state["owner"].items():
            self.sites.write(name, self.sites.base(name).masked_fill(owner == 0, 0.0))
            packed[name] = pack_owners(owner, code, code, self._least(code))
        return packed

    def _reissue(self) -> dict[str, TaskRecord]:
        planes = list(self.records.values())[-1].masks
        return {
            task: replace(old, masks={name: self._view(plane, old.masks[name]) for name, plane in planes.items()})
            for task, old in self.records.items()
        }

    def _view(self, plane: Packed, old: Packed) -> Packed:
        """A task's mask, as large as it was, on a plane that may have grown since."""
        wide = None if old.shape == plane.shape else plane.shape
        return replace(plane, level=old.level, least=old.least, shape=old.shape, plane=wide)

    def _taken(self) -> Mapping[str, Tensor]:
        return {name: owner > 0 for name, owner in self.state["owner"].items()}

    def _forget(self) -> str:
        """Free what belonged to removed tasks, but for what a later task reads as well."""
        left, owners = self._levels, self.state["owner"]
        read = range(1, self._next) if self.reuse else left
        free = {name: ~torch.isin(own, own.new_tensor([*read])) for name, own in owners.items()}
        self.state["owner"] = {name: own.masked_fill(free[name], 0) for name, own in owners.items()}
        for name, gone in free.items():
            self.sites.write(name, self.sites.base(name).masked_fill(gone, 0.0))
        if self.axes.steps and not self.records:
            widen(self.sites, self.axes, self._growth)
        kept = [torch.isin(own, own.new_tensor([0, *left]), invert=True) for own in self.state["owner"].values()]
        count = int(sum(own.sum() for own in kept))
        return f"{count} weights that later tasks read" if count else ""

    @property
    def _levels(self) -> list[int]:
        """The codes of the finished tasks; those of removed ones are missing."""
        return [next(iter(record.masks.values())).level for record in self.records.values()]

    @property
    def _next(self) -> int:
        """The code of the next task; of removed tasks that were the last it is free again."""
        return max(self._levels, default=0) + 1

    @property
    def _growth(self) -> int:
        """How many units every layer that grows has beyond those that it was built with."""
        owners = self.state["owner"].items()
        return max(self.axes.growth(name, own.shape) for name, own in owners if name in self.axes.steps)

    def _least(self, code: int) -> int:
        return 1 if self.reuse else code


def _padded(owner: Tensor, w: Tensor) -> Tensor:
    """Owners as large as the weight, new entries free."""
    wide = torch.zeros(w.shape, dtype=owner.dtype, device=owner.device)
    wide[tuple(slice(size) for size in owner.shape)] = owner
    return wide
