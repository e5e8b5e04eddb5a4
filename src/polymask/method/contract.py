"""The contract: what every method is, and the life of a task from begin to end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymask.held import Held
from polymask.method import cycle, finite, fold, guard, learner, snapshot
from polymask.method.agreement import units_that_agree
from polymask.method.answer import draw_probe
from polymask.method.card import Card, Recipe
from polymask.method.checks import check_begin, check_end, expect_open, refuse_gone, refuse_wrapped, warn_unmoved
from polymask.method.removal import Removed, remove
from polymask.parts.pack import Packed, pack
from polymask.parts.sparse import Sparse
from polymask.sites.roles import Plan, Policy, plan
from polymask.sites.slots import Scores
from polymask.sites.table import Kind, Sites, attach, detach
from polymask.task import TaskRecord, activate
from polymask.wiring import Wiring


class Method(ABC):
    """Learn task after task on one network and keep what is finished.

    The verbs, in order: ``begin(task, phase)`` for every phase, in each phase your own loop over
    ``named_parameters()`` with ``on_step`` before every optimizer step's first forward and ``penalty()`` in the loss,
    then ``end(task)``, which returns the task's record. ``begin`` of a first phase while a task is open abandons that
    task without a trace. Make optimizer, scheduler, DDP wrapper and compilation anew after every ``begin``.

    A subclass declares ``card``, ``recipes`` and its policies, and implements ``_open``: which gates and scores a phase
    opens. ``_prepare``, ``_close``, ``on_step`` and ``penalty`` are empty until a method needs them. What it shares
    between tasks lives in ``state``, replaced and never changed in place, so that it can be taken back. What it does
    differently it declares: ``anneals`` (needs ``on_step``), ``reopens`` (finished names may begin again), ``grows``
    (layers get wider), ``needs`` ("encoder": a transformer), ``slows`` (used weights still move, by a small factor),
    ``drifts`` (finished tasks may move, or not at all), ``soft`` (masks on units stay real), ``multiplies`` (masks on
    weights have a scale), ``roomier`` (what leaves a task more of a layer, in words; ``{option}`` is one's value in the
    run).

    Args:
        model: any module; sites are attached to it in place.
        example: an input that it accepts: a tensor, a tuple of arguments or a mapping of keyword arguments.
        policy: what becomes of norms, biases, head and the rest.
        head: the name of the head module; None: the last weight read before the output.
        seed: key of every random draw.

    ``took`` is what options that were left open became, since they follow the kind of network: option -> value.

    ``private_bits``, set at any time, is to how many bits an entry ``end`` rounds what a task has of its own (head,
    norms): 32, as it is, 16 or 8.
    """

    name: ClassVar[str]
    card: ClassVar[Card]
    recipes: ClassVar[Mapping[str, Recipe]]
    phases: ClassVar[tuple[str, ...]] = ("train",)
    anneals: bool = False
    reopens: ClassVar[bool] = False
    grows: bool = False
    needs: ClassVar[str] = ""
    slows: ClassVar[bool] = False
    drifts: bool = False
    soft: bool = False
    multiplies: bool = False
    private_bits: int = 32
    took: Mapping[str, Any] = MappingProxyType({})
    roomier: ClassVar[str] = "more weights for the task"

    def __init__(
        self, model: nn.Module, example: Any, policy: Policy, *, head: str | None = None, seed: int = 0
    ) -> None:
        refuse_wrapped(model)
        planned = plan(model, example, policy, head)
        self.probe = draw_probe(model, example, seed)
        self.model, self.example, self.seed = model, example, seed
        self.policy, self.head = policy, planned.head
        self.exact: bool | float | None = type(self).card.exact
        units, wiring = units_that_agree(model, example, planned, self._units(), self._wiring(planned), self.soft)
        self.sites: Sites = attach(model, planned.roles, units, wiring)
        self.records: dict[str, TaskRecord] = {}
        self.count = 0  # of all tasks that ever ended, the removed ones too
        self.state: dict[str, dict[str, Tensor]] = {}
        self.task: str | None = None
        self.phase: str | None = None
        self.initial: dict[str, Tensor] = {}
        self._before: snapshot.Before | None = None
        self._fold: fold.Fold | None = None
        self.watch, self.warned = guard.Watch(), set[str]()
        self.versions: dict[str, int] = {}
        self.steps = 0
        before = {name: t.detach().clone() for name, t in model.state_dict().items()}
        try:
            self.prepare()
        except BaseException:
            detach(model).load_state_dict(before)
            raise

    def prepare(self) -> None:
        """Set up what all tasks share; called once, by the constructor."""
        with torch.no_grad():
            for name, role in self.sites.roles.items():
                if role.held is not None:
                    self.sites.write(name, torch.full_like(self.sites.tensor(name), role.held))
            self._prepare()
            for name in self.sites.weights:
                self.sites.keep_learned(name)
            self.initial = {name: self.sites.tensor(name).detach().clone() for name in self.sites.names("private")}
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)

    # The verbs.

    def begin(
        self,
        task: str,
        phase: str | None = None,
        *,
        outputs: int | None = None,
        batches: Iterable[Any] | None = None,
    ) -> None:
        """Open a task, or its next phase.

        Args:
            task: the task's name.
            phase: one of ``phases``, in their order; None: the first.
            outputs: the width of the task's head; None: as wide as the model's.
            batches: pairs of inputs and labels, for methods that look at a task before they learn it.

        Raises:
            ValueError: if the phases are out of order, or the head cannot have that width.
            RuntimeError: if the task is finished, or the model is sharded or wrapped.
            AlteredNetwork: if what finished tasks read, or what the last one answers, was changed since it ended.
            NotFinite: if masks on units would multiply a base that is not finite.
        """
        phase = phase or self.phases[0]
        check_begin(self, task, phase)
        first = phase == self.phases[0]
        if first:
            self.abandon()
            learner.follow_device(self)
            self._before = snapshot.take(self)
        try:
            guard.enforce(self, f"begin({task!r})", self._as_in_place if first else None)
            finite.refuse_infinite_base(self)
            if first:
                cycle.start(self, task, outputs)
            self.task, self.phase, self.steps = task, phase, 0
            self._open(phase, batches)
            cycle.let_train(self)
            self.sites.latch.shut = True
        except BaseException:
            self.abandon()
            raise

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All that this phase's optimizer may touch, under the model's own keys.

        Yields:
            Name and parameter; scores as ``<key>.scores``, a mask's scale as ``<key>.scale``.
        """
        expect_open(self, "named_parameters")
        for name, role in self.sites.roles.items():
            tensor = self.sites.tensor(name)
            if isinstance(tensor, nn.Parameter) and (name in self.sites.opened or role.kind in self.learning):
                yield name, tensor
        for name, source in self.sources.items():
            for own, parameter in source.named_parameters():
                yield f"{name}.{own}", parameter

    @property
    def learning(self) -> tuple[Kind, ...]:
        """The roles of tensors that learn as a whole, now: what the first task fixes does so until it has ended."""
        return ("private", "shared") if self.count else ("private", "shared", "first")

    def parameters(self) -> list[nn.Parameter]:
        """The parameters alone, as optimizers take them."""
        return [parameter for _, parameter in self.named_parameters()]

    def on_step(self, progress: float) -> None:
        """Say where in the epoch training stands; once per optimizer step, before its first forward.

        Args:
            progress: 0 at the epoch's first step, 1 at its last.
        """
        self.steps += 1

    def penalty(self) -> Tensor:
        """The method's own term of the loss, a scalar: ``loss = (task loss + penalty) / accumulation``.

        Read what trains through ``polymask.sites.table.unsharded``, since FSDP2 may shard it.
        """
        return torch.zeros((), device=next(self.model.parameters(), torch.zeros(())).device)

    def end(self, task: str) -> dict[str, TaskRecord]:
        """Close the open task: fold what it learned, freeze it, and return its record (and any reissued ones).

        Whatever is refused or interrupted leaves the task open: nothing is ever half folded.

        Raises:
            RuntimeError: if another task or none is open, phases are missing, or ``on_step`` was never called although
                a temperature anneals.
            NotFinite: if something that trained, statistics too, is NaN or infinite.
            AlteredNetwork: if what finished tasks read, or what the last one answers, was changed.
        """
        self._unfold()
        check_end(self, task)
        finite.refuse_infinite(self)
        guard.enforce(self, f"end({task!r})")
        warn_unmoved(self)
        self._fold = fold.before_fold(self)
        try:
            issued = fold.fold_task(self, task)
        except BaseException:
            self._unfold()
            raise
        # No call from here on: an interruption finds the task either open or finished.
        self.task = self.phase = self._before = self._fold = None
        self.sites.latch.shut = False
        return issued

    def _as_in_place(self, task: str) -> nn.Module:
        """The model itself, as a finished task: no copy, where all slots are filled anew afterwards."""
        self.sites.clear()
        activate(self.sites, self.record(task))
        return self.model

    def abandon(self) -> None:
        """Forget the open task, if there is one: every tensor is as it was before its ``begin``."""
        self._unfold()
        if self._before is not None:
            snapshot.put_back(self, self._before)
        self.task = self.phase = self._before = None
        self.sites.latch.shut = False

    def _unfold(self) -> None:
        """Open the task again that ``end`` was about to fold, if it was stopped on the way."""
        if self._fold is not None:
            fold.unfold(self, self._fold)
        self._fold = None

    def check(self) -> None:
        """Compare what finished tasks read, and what the last one answers, with what was noted when it ended.

        ``begin`` and ``end`` do the same by themselves. Where there are several processes, call it on all of them.

        Raises:
            AlteredNetwork: naming what changed, the tasks that it harms, what probably did it and the way out.

        >>> from polymask import Piggyback
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> method = Piggyback(net, torch.zeros(1, 2))
        >>> method.begin("a")
        >>> net(torch.ones(1, 2)).sum().backward()
        >>> torch.optim.SGD(method.parameters(), lr=0.1).step()
        >>> record = method.end("a")
        >>> method.check()
        >>> _ = net[0].bias.add_(1.0)
        >>> method.check()
        Traceback (most recent call last):
        polymask.held.AlteredNetwork: expected what finished tasks read to be as it was when task 'a' ended, found ...
        """
        refuse_gone(self)
        guard.enforce(self, "check()", self.plain)

    def restore(self, bank: guard.HasBase) -> None:
        """Bring back from a bank what finished tasks read of the base; all else stays as it is.

        Args:
            bank: the bank that holds the finished tasks.

        Raises:
            RuntimeError: while a task is open.
            TypeError: for what is no bank.
            ValueError: if the bank lacks a tensor, or the model has another dtype.
            AlteredNetwork: if the base alone does not bring the answers back.
        """
        if self.task is not None:
            raise RuntimeError(f"expected no open task, found {self.task!r} in training: end() or abandon() it first")
        guard.restore(self, bank)

    def remove(self, task: str) -> Removed:
        """Delete a finished task: what only it read may learn again, every other task stays as it is, to the bit.

        Raises:
            RuntimeError: while a task is open.
            KeyError: for a task that is not finished.
        """
        return remove(self, task)

    def activate(self, task: str | TaskRecord) -> None:
        """Make the model answer as a finished task.

        Raises:
            RuntimeError: while a task is open; ``bake`` looks at a finished task meanwhile.
            KeyError: for a task that is not finished.
        """
        if self.task is not None:
            raise RuntimeError(
                f"expected no open task, found {self.task!r} in training: end() or abandon() it first, "
                "or look at a finished task with method.plain(task)"
            )
        refuse_wrapped(self.model)
        activate(self.sites, task if isinstance(task, TaskRecord) else self.record(task))

    def plain(self, task: str) -> nn.Module:
        """A plain copy of the network that answers as a finished task; works while another task is open."""
        return snapshot.plain(self.sites, self.record(task))

    def record(self, task: str) -> TaskRecord:
        """The record of a finished task."""
        if task not in self.records:
            raise KeyError(f"expected a finished task ({', '.join(self.records) or 'none yet'}), found {task!r}")
        return self.records[task]

    def collect(self, trained: Method) -> None:
        """Bring back what a copy of this method has trained on a model that is sharded.

        Under FSDP2, after ``begin``: ``twin = copy.deepcopy(method)``, shard ``twin.model``, train it with the twin's
        ``parameters()``, ``on_step`` and ``penalty()``, then call this on every rank before the next verb.
        """
        snapshot.collect(self.model, trained.model)
        self.steps, self.state = trained.steps, trained.state

    def state_dict(self) -> dict[str, Any]:
        """All of the learner's state at any moment, also inside a phase; records are kept apart."""
        return learner.learner_state(self)

    def load_state_dict(
        self,
        state: Mapping[str, Any],
        records: Mapping[str, TaskRecord],
        removed: Collection[str] = (),
        held: Held | None = None,
    ) -> None:
        """Go on from a state: a method made with the same model and arguments continues as if never stopped.

        Args:
            state: what ``state_dict`` returned.
            records: the finished tasks' records, as a bank keeps them.
            removed: the tasks that a bank was told to remove (``Bank.removed``), maybe since the state was taken.
            held: what the bank says that finished tasks read (``bank.held()``), which spares reading the records.

        Raises:
            ValueError: if a finished task has no record and was not removed.
            AlteredNetwork: if the state says another base than what finished tasks read.
        """
        watch = self.watch if list(self.records) == list(state["finished"]) else guard.Watch()
        learner.load_learner_state(self, state, records, removed)
        self.watch = guard.watch_after_load(self, watch, held)
        self.sites.latch.shut = self.task is not None

    def capacity(self) -> dict[str, dict[str, float]]:
        """How far finished tasks have taken the network, for methods that can run out of it.

        Returns:
            "size": {"read": share of all masked weights and biases that they read}; "units": site -> share of its
            units in use; "free": tensor -> share of its entries that still learn.
        """
        return {}

    # What a method fills in.

    def _units(self) -> dict[str, int]:
        """Module name -> axis of the layers whose units are masked; asked once, while the model is still plain."""
        return {}

    def _wiring(self, planned: Plan) -> Wiring:
        """The sites on units and what they feed, for methods that mask units; asked while the model is still plain."""
        return Wiring()

    def _prepare(self) -> None:  # noqa: B027 (empty on purpose)
        """Set the weights before the first task, and ``state``."""

    @property
    def still(self) -> list[str]:
        """The base tensors that never learn, of a network that is given: banks of one host share their file."""
        return self.sites.names("frozen")

    @property
    def owned(self) -> list[str]:
        """The base tensors whose rows belong to tasks, which ``private_bits`` rounds, to half precision at least."""
        return []

    @property
    def drawn(self) -> dict[str, int]:
        """The base tensors that a seed regenerates (``parts.draw.signed_constant``), so that no bank stores them."""
        return {}

    @abstractmethod
    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        """Open gates and scores for a phase of ``self.task``."""

    def _close(self, hard: dict[str, Tensor]) -> dict[str, Packed]:
        """The masks that the ended task keeps, given the hard masks of its scores."""
        return {name: pack(mask) for name, mask in hard.items()}

    def _deltas(self, hard: dict[str, Tensor]) -> dict[str, Sparse]:
        """The sparse corrections of weights that the ended task keeps, given what ``_close`` is given."""
        return {}

    def _reissue(self) -> dict[str, TaskRecord]:
        """Records that are to be expressed anew, of older tasks or of the one that ends; what began is still noted."""
        return {}

    def _taken(self) -> Mapping[str, Tensor]:
        """How far finished tasks have taken each entry of a weight, 0 where it is free; of those that could learn."""
        return {}

    def _forget(self) -> str:
        """Derive ``state`` anew from the records that are left; in words, what stays reserved of those removed."""
        return ""

    @property
    def sources(self) -> dict[str, Scores]:
        """Site name -> what makes its mask in this phase."""
        every = self.sites.every().items()
        return {name: site.source for name, site in every if isinstance(site.source, Scores)}

    @property
    def scores(self) -> dict[str, nn.Parameter]:
        """Site name -> the scores that train in this phase."""
        return {name: source.scores for name, source in self.sources.items()}

    def give_scores(self, name: str, scores: Scores) -> None:
        """Let a site's mask come from scores that train with this phase."""
        tensor = self.sites.tensor(name) if name in self.sites.weights else next(self.model.parameters())
        self.sites.every()[name].source = scores.to(tensor.device)
