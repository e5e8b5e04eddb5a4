"""APD (Yoon et al. 2020): a shared weight, gated for every task, plus the task's own sparse correction of it.

"Scalable and Order-robust Continual Learning with Additive Parameter Decomposition", ICLR 2020, arXiv:1902.09432.

Where paper, released code and this file differ:

- The paper trains the corrections of all tasks at every step (``form="joint"``). By default earlier corrections follow
  the shared weight in closed form when a task ends, which costs a step nothing however many tasks there are.
- The penalty on ``tau`` is a subgradient in the release, under which Adam makes nothing zero. Here entries are drawn to
  zero between optimizer steps, by ``shrink`` times what the last one moved a layer's entries on average, whatever the
  optimizer; ``sparsity="subgradient"`` is the release's.
- The release trains on dense corrections and prunes them for the test alone. Here the forward reads what is stored.
- Its ``tau`` begins as a copy of the shared weight, so that a task begins at 1.5 of it; here at 0. The first task's
  stays there while it learns: nothing holds the shared weight back, so that this is where the objective is least.
- Its ``lambda1`` is 4e-4. With 5e-3 and a smaller ``shrink``, the defaults here, tasks keep more accuracy at the same
  size (``benchmarks/apd_sparsity.py``), and the bound on what a finished task may move is looser.
- Its squared terms are halved, so that its "lambda2 = 100" acts as 50 in the paper's formula, which is the one here.
- The anchor's gradient, and the loss's on the same weight, are divided by ``1 + 2 lambda2 sum_i M_i^2``: the minimum is
  where it was, Adam does the same, and plain descent does not explode.
- Its capacity counts heads and masks; both definitions are in ``active``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from polymask.method.backbone import freeze
from polymask.method.card import Card, Recipe
from polymask.method.contract import Method
from polymask.method.corrected import Corrected, followed, gate_of, largest_move, past_of
from polymask.parts.additive import prune
from polymask.parts.consolidate import consolidate
from polymask.parts.pack import Packed, pack, unpack
from polymask.parts.seeds import generator
from polymask.parts.sparse import Sparse, count_active, sparsify
from polymask.sites.roles import Biases, Norms, Policy
from polymask.sites.table import unsharded
from polymask.task import TaskRecord, entries, fingerprints

Form = Literal["closed", "exact", "fixed", "joint"]
Sparsity = Literal["proximal", "subgradient"]


class APD(Method):
    """A task reads ``theta_t = sigma * M_t + tau_t``, ``M_t = sigmoid(v_t)`` one gate a unit, ``tau_t`` sparse.

    ``sigma`` is shared and goes on learning under the anchor ``lambda2 * sum_i M_i^2 ||sigma - sigma_before||^2``, the
    squares of the gates of finished tasks summed unit by unit. When a task ends, ``tau_i`` of every earlier one becomes
    ``soft(theta_i - sigma * M_i, lambda1 / (2 lambda2))``, which minimises ``lambda1 ||tau_i||_1 + lambda2 ||theta_i -
    sigma * M_i - tau_i||^2``, pruned at ``lambda1``: a weight of a finished task moves by at most ``lambda1 + lambda1 /
    (2 lambda2)`` then.

    Args:
        model: any module.
        example: an input that it accepts.
        head: the name of the head module; None: the last weight read before the output.
        seed: key of every random draw.
        form: "closed": as above. "exact": ``sigma`` never learns after the first task, so that finished tasks keep
            their logits to the bit. "fixed": APD-Fixed, finished tasks keep ``tau`` and drift with ``sigma``, whose
            anchor is ``lambda2 ||sigma - sigma_before||^2``; with ``lambda2=0`` there is none. "joint": APD(1), the
            paper's objective: ``tau`` and ``v`` of all tasks train together, at a cost that grows with the tasks.
        lambda1: the magnitude below which a correction is pruned; the weight of ``||tau||_1``.
        lambda2: the weight of the anchor.
        shrink: how far a correction is drawn to zero at every step, in units of what the step moved it on average. A
            larger ``lambda1`` with a smaller ``shrink`` keeps more accuracy at the same size, and a looser bound.
        sparsity: "proximal", by ``shrink``, or "subgradient": ``lambda1 ||tau||_1`` in the loss, as published.
        init: the mean of ``v`` where a task begins.
        bits: 8, 16 or 32, of a value of ``tau``; the forward reads them so from the start.
        consolidate: after every so many tasks, corrections that agree are merged into one that they share: APD(2),
            the paper's 5; 0: never.
        clusters: into how many groups, for ``consolidate`` tasks; the paper's 2.
        beta: how far the entries of a group may lie apart to be merged.
        norms: what becomes of norms.
        biases: likewise of biases.
        masked: patterns of the weights to decompose; None: all that qualify.

    The paper's recipe: Adam at 1e-3, times 0.95 an epoch, 20 epochs, batch 100.

    Raises:
        ValueError: if a number is out of range, or ``lambda2`` is 0 where corrections follow by it.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> method = APD(net, torch.zeros(1, 4))
    >>> method.begin("a")
    >>> [name for name, _ in method.named_parameters()]
    ['0.weight', '0.bias', '2.weight', '2.bias', '0.weight.scores']
    """

    name = "apd"
    card = Card(
        source="Yoon et al. 2020",
        masks="unit",
        values="(0, 1), plus a correction",
        chosen="learned",
        backbone="trained, anchored",
        overlap="free",
        sparsity="a proximal step on corrections",
        scenarios=("GG",),
        stores="32 bits a unit, norms, biases; its sparse correction, not counted here",
        exact=None,
    )
    drifts = True
    recipes: ClassVar[dict[str, Recipe]] = {"train": Recipe(lr=1e-3, epochs=20, schedule="cosine")}

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        *,
        head: str | None = None,
        seed: int = 0,
        form: Form = "closed",
        lambda1: float = 5e-3,
        lambda2: float = 100.0,
        shrink: float = 0.7,
        sparsity: Sparsity = "proximal",
        init: float = 0.0,
        bits: int = 32,
        consolidate: int = 0,
        clusters: int = 2,
        beta: float = 1e-2,
        norms: Norms = "private",
        biases: Biases = "private",
        masked: Sequence[str] | None = None,
    ) -> None:
        if form not in get_args(Form) or sparsity not in get_args(Sparsity):
            forms, kinds = ", ".join(get_args(Form)), ", ".join(get_args(Sparsity))
            raise ValueError(f"expected a form of {forms} and a sparsity of {kinds}, found {form!r} and {sparsity!r}")
        if not all(0 <= number < math.inf for number in (lambda1, lambda2, shrink)):
            found = f"{lambda1}, {lambda2} and {shrink}"
            raise ValueError(f"expected finite lambda1, lambda2 and shrink of at least 0, found {found}")
        if not lambda2 and form in ("closed", "joint"):
            raise ValueError(
                f"expected lambda2 above 0, by which earlier corrections follow in the form {form!r}, found 0: for no "
                "anchor at all take form='fixed' with lambda2=0"
            )
        if bits not in (8, 16, 32):
            raise ValueError(f"expected 8, 16 or 32 bits for a value of a correction, found {bits}")
        if consolidate < 0 or clusters < 1:
            found = f"{consolidate} and {clusters}"
            raise ValueError(f"expected consolidate of at least 0 (0: never) and clusters of at least 1, found {found}")
        self.form, self.lambda1, self.lambda2, self.shrink, self.sparsity = form, lambda1, lambda2, shrink, sparsity
        self.mean, self.bits, self.every, self.clusters, self.beta = init, bits, consolidate, clusters, beta
        self._trained: dict[str, list[tuple[Tensor, Tensor]]] = {}
        super().__init__(model, example, Policy("masked", "first", norms, biases, masked=masked), head=head, seed=seed)
        self.anneals = sparsity == "proximal" and shrink > 0
        if form == "exact" and not consolidate:
            self.exact, self.drifts = True, False

    def _prepare(self) -> None:
        wave = [name for name in self.sites.weights if self.sites.base(name).is_complex()]
        if wave and (self.bits < 32 or self.every):
            raise ValueError(
                f"expected real weights for corrections that are rounded or consolidated, found {wave[0]!r}, which is "
                "complex: leave bits at 32 and consolidate at 0, or leave it out of masked="
            )

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        anchors = self._anchors()
        for name in self.sites.weights:
            w = self.sites.base(name)
            if not (self.form == "exact" and self.count):
                self.sites.open_gate(name, None)
            v = torch.empty(self._per_unit(name), dtype=w.real.dtype if w.is_complex() else w.dtype)
            v.normal_(self.mean, 0.01, generator=generator(self.seed, str(self.task), name, "gates"))
            past = [past_of(one, name, w) for one in self.records.values()] if self.form == "joint" else []
            tau, anchor = torch.zeros_like(w, memory_format=torch.contiguous_format), anchors.get(name)
            # Nothing holds the shared weight back yet, so that the correction is 0 where the objective is least.
            needed = bool(self.count) or self.sparsity == "subgradient"
            self.give_scores(name, Corrected(v, tau, anchor, self.lambda1, self.bits, past, needed))

    def on_step(self, progress: float) -> None:
        """Draw corrections to zero, by what the optimizer's last step has moved them."""
        super().on_step(progress)
        for source in self._corrected().values() if self.sparsity == "proximal" else ():
            source.draw_to_zero(self.shrink)

    def penalty(self) -> Tensor:
        """What holds ``sigma`` back; as a subgradient, ``lambda1 ||tau||_1`` of what trains as well."""
        found = super().penalty()
        for name, source in self._corrected().items():
            if self.sparsity == "subgradient":
                found = found + self.lambda1 * sum(unsharded(tau).abs().sum() for _, tau in source.pairs())
            before = self.sites.weights[name].kept
            if source.anchor is not None and before is not None:
                sigma = unsharded(self.sites.tensor(name))
                found = found + (source.apart(sigma, self.lambda2) if source.past else source.pull(sigma, before))
        return found

    def _close(self, hard: dict[str, Tensor]) -> dict[str, Packed]:
        if self.form == "exact" and not self.count:
            self.state["first"] = {str(self.task): torch.zeros(0)}
            freeze(self)
        # Sites let go of what trained before records of earlier tasks are expressed anew.
        self._trained = {
            name: [(source.gate_of(v), prune(tau, self.lambda1)) for v, tau in source.pairs()]
            for name, source in self._corrected().items()
        }
        return super()._close(hard)

    def _deltas(self, hard: dict[str, Tensor]) -> dict[str, Sparse]:
        return {name: sparsify(pairs[0][1], self.bits) for name, pairs in self._trained.items()}

    @torch.no_grad()
    def _reissue(self) -> dict[str, TaskRecord]:
        changed: dict[str, TaskRecord] = {}
        for place, (task, record) in enumerate(self.records.items(), 1):
            if task != self.task and self.form == "closed":
                changed[task] = replace(record, deltas={name: self._follow(record, name) for name in record.deltas})
            elif task != self.task and self.form == "joint":
                masks = {name: pack(pairs[place][0]) for name, pairs in self._trained.items()}
                deltas = {
                    name: sparsify(pairs[place][1], self.bits, record.deltas[name].local)
                    for name, pairs in self._trained.items()
                }
                changed[task] = replace(record, masks=masks, deltas=deltas)
        if self.every and self.count % self.every == 0:
            changed = self._consolidated({**self.records, **changed})
        found = {task: self._revised(record) for task, record in changed.items()}
        self._note({**self.records, **found})
        self._trained = {}
        return found

    def _follow(self, record: TaskRecord, name: str) -> Sparse:
        return followed(
            record, name, self._sigma_before(name), self.sites.base(name), self.lambda1, self.lambda2, self.bits
        )

    def _consolidated(self, records: Mapping[str, TaskRecord]) -> dict[str, TaskRecord]:
        """All tasks' corrections in groups that share what they agree on."""
        deltas: dict[str, dict[str, Sparse]] = {task: {} for task in records}
        for name in self.sites.weights:
            draw = generator(self.seed, name, str(self.count), "groups")
            old, count = [one.deltas[name] for one in records.values()], -(-self.clusters * len(records) // self.every)
            new = consolidate(old, count, self.beta, self.lambda1, draw, self.bits)
            for task, sparse in zip(records, new, strict=True):
                deltas[task][name] = sparse
        return {task: replace(record, deltas=deltas[task]) for task, record in records.items()}

    def _revised(self, record: TaskRecord) -> TaskRecord:
        """A record that says what it reads now; that of the task that ends is no older one's revision."""
        if record.meta.task == self.task:
            return record
        read = entries(self.sites, {name: unpack(mask) for name, mask in record.masks.items()})
        meta = replace(record.meta, revision=record.meta.revision + 1, reason=f"follows what {self.task!r} shares")
        return replace(record, reads=fingerprints(self.sites, read), meta=meta)

    def _note(self, records: Mapping[str, TaskRecord]) -> None:
        """Add up how far every earlier task's weights have moved: the largest move now, and since it was learned."""
        found: dict[str, Tensor] = {}
        for task, old in self.records.items() if self.exact is not True else ():
            # The task that ends was trained on the shared weight as it is; consolidation alone can move it.
            new = task == self.task
            moves = [
                largest_move(
                    (old, self.sites.base(name) if new else self._sigma_before(name)),
                    (records[task], self.sites.base(name)),
                    name,
                )
                for name in self.sites.weights
            ]
            last = torch.stack(moves).max()
            found[task] = torch.stack([last, self.state.get("moved", {}).get(task, torch.zeros(2))[1].cpu() + last])
        self.state["moved"] = found

    def _forget(self) -> str:
        self.state["moved"] = {
            task: moved for task, moved in self.state.get("moved", {}).items() if task in self.records
        }
        if self.form != "exact" or not self.count:
            return ""
        self.state["first"] = {task: t for task, t in self.state.get("first", {}).items() if task in self.records}
        return "" if self.state["first"] else "the weights that the first task trained"

    def _taken(self) -> Mapping[str, Tensor]:
        if self.form == "exact":
            return {}
        found, bases = self._anchors(), {name: self.sites.base(name) for name in self.sites.weights}
        # Of a complex weight, too, a real number an entry; 0 where no task is left that reads it.
        return {name: found.get(name, base.real.new_zeros(())).expand(base.shape) for name, base in bases.items()}

    def moved(self) -> dict[str, tuple[float, float]]:
        """How far finished tasks have moved.

        Returns:
            Task -> the largest move of one of its weights when the last task ended, and the sum of these moves since
            it was learned.
        """
        return {task: (float(move[0]), float(move[1])) for task, move in self.state.get("moved", {}).items()}

    def bound(self) -> float:
        """The most that a weight of a finished task may move when a task ends, but for rounding.

        ``lambda1 + lambda1 / (2 lambda2)`` in the closed form, ``beta / 2 + lambda1`` more where corrections are
        consolidated; infinite for forms that follow nothing in closed form.
        """
        if self.form in ("fixed", "joint"):
            return math.inf
        closed = self.lambda1 + self.lambda1 / (2 * self.lambda2) if self.form == "closed" else 0.0
        return closed + (max(self.beta, 0.0) / 2 + self.lambda1 if self.every else 0.0)

    def active(self) -> dict[str, float]:
        """The parameters in use by the size of the plain network, 1 being a dense network: two definitions.

        Returns:
            "capacity": of decomposed weights alone, ``(|sigma| + sum_i ||tau_i||_0 + ||shared||_0) / |sigma|``, a part
            that several share counted once. "released": as the released code counts, with all gates, the last head and
            biases above, and a head of every further task below.
        """
        sigma = sum(self.sites.base(name).numel() for name in self.sites.weights)
        records, inside = list(self.records.values()), {*self.sites.inside(self.head)}
        tau = count_active(record.deltas for record in records)
        gates = sum(math.prod(mask.shape) for record in records for mask in record.masks.values())
        private = {name: t.numel() for name, t in (records[-1].private.items() if records else ())}
        head = sum(size for name, size in private.items() if name in inside)
        rest = sum(private.values()) - head
        released = (sigma + tau + gates + rest + head) / (sigma + rest + head * max(len(records), 1))
        return {"capacity": (sigma + tau) / sigma, "released": released}

    def _corrected(self) -> dict[str, Corrected]:
        return {name: source for name, source in self.sources.items() if isinstance(source, Corrected)}

    def _anchors(self) -> dict[str, Tensor]:
        """What holds each shared weight back, a number a unit; of none where no finished task reads it."""
        if not self.records or self.form == "exact" or not self.lambda2:
            return {}
        found = {}
        for name in self.sites.weights:
            gates = [gate_of(one, name, self.sites.base(name)) for one in self.records.values()]
            total = torch.ones_like(gates[0]) if self.form == "fixed" else torch.stack(gates).square().sum(0)
            found[name] = (self.lambda2 * total).to(self.sites.tensor(name).device)
        return found

    def _sigma_before(self, name: str) -> Tensor:
        """The shared weight as it was when the task that ends began."""
        before = None if self._before is None else self._before.tensors.get(name)
        return self.sites.base(name) if before is None else before

    def _per_unit(self, name: str) -> list[int]:
        """The shape of a weight's gates: one a unit, along the axis of the layer's outputs."""
        module = self.sites.model.get_submodule(name.rpartition(".")[0])
        shape = self.sites.tensor(name).shape
        axis = 1 if getattr(module, "transposed", False) and len(shape) > 1 else 0
        return [size if place == axis else 1 for place, size in enumerate(shape)]
