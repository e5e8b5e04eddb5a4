"""One run in progress: every task through its phases, its record, its row of the matrix, its place on disk."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from polymask.bank.bank import Bank
from polymask.calling import as_read
from polymask.held import AlteredNetwork, find_altered, proof
from polymask.learning import folder as files
from polymask.learning.drift import Probes
from polymask.learning.journal import Journal
from polymask.learning.loop import Phase, Progress, evaluate, train_phase
from polymask.learning.objective import Objective
from polymask.learning.results import Results
from polymask.learning.training import Training, make_optimizer, make_schedule
from polymask.method.card import Recipe
from polymask.method.contract import Method
from polymask.method.learner import without_base
from polymask.probe import run_probe
from polymask.sites.roles import norms_of
from polymask.streams.prepare import Feeds, prepare
from polymask.streams.stream import Task


@dataclass
class Session:
    """What a run works with.

    Args:
        method: the learner.
        tasks: all tasks, the finished ones included.
        training: the run's settings.
        objective: loss and metric.
        fabric: device, precision and processes.
        results: the figures so far.
        probes: the fixed batch and the logits of every finished task on it.
        out: the run's folder, or None.
        bank: the bank in it, on the process that writes.
        about: what ``results.json`` says of the run besides figures.
        optimizer: ``named parameters -> optimizer``, made anew for every phase; None: by the recipe.
        schedule: ``(optimizer, steps) -> schedule``; None: by the recipe.
        feeds: the data opened so far.
        saved: the checkpoint of the task that a stopped run left open.
        saved_at: when the run was last safe on disk.
    """

    method: Method
    tasks: list[Task]
    training: Training
    objective: Objective
    fabric: Fabric
    results: Results
    probes: Probes
    out: Path | None = None
    bank: Bank | None = None
    about: dict[str, Any] = field(default_factory=dict)
    optimizer: Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer] | None = None
    schedule: Callable[[Optimizer, int], LRScheduler] | None = None
    feeds: dict[str, Feeds] = field(default_factory=dict)
    saved: dict[str, Any] | None = None
    saved_at: float = field(default_factory=lambda: time.monotonic())

    def run(self) -> dict[str, Any]:
        """Learn what is not finished yet; every finished task is on disk before the next begins.

        Returns:
            The report.

        Raises:
            RuntimeError: if an exact method forgot; the report is written nevertheless.
        """
        self.saved = None if self.out is None else self._open_task(files.load_checkpoint(self.out, self.fabric.device))
        self.fabric.barrier()
        with Journal(self.out if self.fabric.is_global_zero else None, self._epochs(), self._is_past) as journal:
            for task in self.tasks:
                if task.name in self.method.records:
                    journal.skip(sum(self._recipe(phase).epochs for phase in self.method.phases))
                else:
                    self._learn(task, journal)
                if task.name == list(self.method.records)[-1] and task.name not in self.results.rows:
                    self._measure(task.name)
        self.results.drift = self.probes.drift(self.method)
        report = self.write()
        self._drop_checkpoint()
        self.probes.check(self.method, self.results.drift)
        return report

    def write(self) -> dict[str, Any]:
        """The report so far, also into ``results.json``."""
        sizes = self.bank.sizes() if self.bank is not None else {}
        report = self.results.as_json(self.about, sizes)
        if self.out is not None and self.fabric.is_global_zero:
            files.write_results(self.out, report)
        return report

    def feed(self, task: Task) -> Feeds:
        """The task's data, opened once."""
        if task.name not in self.feeds:
            self.feeds[task.name] = opened(task, self.method.seed, self.training, self.fabric.device)
        return self.feeds[task.name]

    def _learn(self, task: Task, journal: Journal) -> None:
        feeds, start = self.feed(task), time.perf_counter()
        self._check_inputs(task, feeds)
        begun, progress = self._resume(task, journal)
        for phase in self.method.phases[self.method.phases.index(begun) if begun else 0 :]:
            if phase != begun:
                batches = feeds.train.ordered(self._recipe(phase).batch_size)
                self.method.begin(task.name, phase, outputs=feeds.outputs, batches=batches)
                progress = Progress()
            train_phase(self._phase(task, phase, feeds, journal), progress, self._optimizer, self._schedule(phase))
        issued = self.method.end(task.name)
        self._describe(task.name, feeds)
        feeds.train.release()
        self.results.seconds[task.name] = time.perf_counter() - start
        self.probes.note(self.method, task.name)
        self._watch_capacity(task.name, journal)
        self._commit(issued)

    def _watch_capacity(self, task: str, journal: Journal) -> None:
        """Note how full the network is; warn once of each weight that has nothing left to learn with."""
        found = self.method.capacity()
        if not found:
            return
        full = {name for earlier in self.results.capacity.values() for name in exhausted(earlier)}
        self.results.capacity = {**self.results.capacity, task: found}
        journal.capacity(task, sum(found["free"].values()) / max(len(found["free"]), 1))
        if new := [name for name in exhausted(found) if name not in full]:
            warnings.warn(
                f"after task {task!r} no entry of {', '.join(new)} is free: later tasks can only reuse it. A wider "
                "layer, a larger c or fewer tasks a network would leave room",
                stacklevel=2,
            )

    def _commit(self, issued: Iterable[str]) -> None:
        if self.bank is not None:
            records = {name: self.method.records[name] for name in issued}
            if any(name in self.bank.removed for name in records):
                self.write()  # the file may still tell of the task of this name that was removed
            self.bank.commit(records, self.method.sites, learner=without_base(self.method.state_dict()))
        self.saved_at = time.monotonic()
        self._drop_checkpoint()

    def _phase(self, task: Task, phase: str, feeds: Feeds, journal: Journal) -> Phase:
        return Phase(
            self.fabric,
            self.method,
            feeds,
            self._recipe(phase),
            self.objective,
            (self.method.seed, task.name, phase),
            self.training.accumulate,
            self.training.clip,
            lambda figures: journal.epoch(task.name, phase, figures),
            lambda progress: self._save(task.name, phase, progress),
        )

    def _check_inputs(self, task: Task, feeds: Feeds) -> None:
        model, example = self.method.model, feeds.example()
        try:
            run_probe(model, as_read(model, example))
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
            raise ValueError(
                f"expected inputs of task {task.name!r} that the network accepts, found such that it refuses "
                f"({error}): bring them to its shape (inputs=Inputs(size=..., channels=...)), or take another network"
            ) from error

    def _describe(self, task: str, feeds: Feeds) -> None:
        record = self.method.records[task]
        labels = tuple(feeds.labels or ())
        meta = replace(record.meta, outputs=feeds.outputs, labels=labels, inputs=feeds.inputs.to_json())
        self.method.records[task] = replace(record, meta=meta)

    def _measure(self, task: str) -> None:
        row = {}
        for other in self.tasks:
            if other.name in self.method.records:
                feeds = self.feed(other)
                split = feeds.test or feeds.val
                plain, judges = self.method.plain(other.name), [self.objective.metric]
                (row[other.name],) = evaluate(plain, split, judges, feeds.outputs, 512)
        self.results.rows[task] = row
        self.write()

    def _open_task(self, saved: dict[str, Any] | None) -> dict[str, Any] | None:
        """The checkpoint of the task that a stopped run left open, unless a task that it builds on was removed."""
        gone = [name for name in saved["method"]["finished"] if name not in self.method.records] if saved else []
        if saved is None or not gone or not {*gone} <= {*self.results.removed}:
            return saved
        warnings.warn(
            f"task {saved['task']!r} begins anew: {', '.join(gone)}, on top of which it was learned, was removed since",
            stacklevel=2,
        )
        return None

    def _resume(self, task: Task, journal: Journal) -> tuple[str | None, Progress]:
        """The phase of a task in which a stopped run goes on, the method brought there; None: from the start."""
        saved, self.saved = self.saved, None
        if saved is None or saved["task"] != task.name:
            return None, Progress()
        if saved["method"]["finished"] != list(self.method.records):
            assert self.out is not None
            raise files.refuse_other_moment(self.out, "one of other finished tasks")
        try:
            self.method.load_state_dict(saved["method"], self.method.records)
        except AlteredNetwork as error:
            assert self.out is not None
            raise files.refuse_other_moment(self.out, "another base than finished tasks read") from error
        self._check_base()
        phase, progress = str(saved["phase"]), Progress(**saved["progress"])
        before = self.method.phases[: self.method.phases.index(phase)]
        journal.skip(sum(self._recipe(earlier).epochs for earlier in before) + progress.epoch)
        return phase, progress

    def _check_base(self) -> None:
        """Raise unless what a checkpoint brought agrees with the bank; every process looks, and finds the same."""
        if self.out is None or not self.method.records:
            return
        bank, sites = Bank.open(self.out / "bank"), self.method.sites
        if changed := find_altered(bank.held(sites), sites, proof):
            name, found = next(iter(changed.items()))
            raise files.refuse_other_moment(self.out, f"another base: {name!r} ({found}), which finished tasks read")

    def _is_past(self, task: str, phase: str, epoch: int) -> bool:
        """Whether an epoch that a stopped run noted is not going to be run again."""
        if self.saved is None or self.saved["task"] != task or task in self.method.records:
            return task in self.method.records
        phases = list(self.method.phases)
        return (phases.index(phase), epoch) < (phases.index(self.saved["phase"]), self.saved["progress"]["epoch"])

    def _save(self, task: str, phase: str, progress: Progress) -> None:
        """Write a checkpoint at the first end of an epoch after the set interval."""
        if self.out is None or time.monotonic() - self.saved_at < self.training.save_every:
            return
        if self.fabric.is_global_zero:
            state = {"task": task, "phase": phase, "progress": vars(progress)}
            files.save_checkpoint(self.out, {**state, "method": self.method.state_dict()})
        self.saved_at = time.monotonic()

    def _drop_checkpoint(self) -> None:
        if self.out is not None and self.fabric.is_global_zero:
            files.drop_checkpoint(self.out)

    def _recipe(self, phase: str) -> Recipe:
        return self.training.over(self.method.recipes[phase], phase)

    def _epochs(self) -> int:
        return len(self.tasks) * sum(self._recipe(phase).epochs for phase in self.method.phases)

    def _optimizer(self, method: Method) -> Optimizer:
        named = method.named_parameters()
        if self.optimizer is not None:
            return self.optimizer(named)
        return make_optimizer(self._recipe(str(method.phase)), named, norms_of(method.model))

    def _schedule(self, phase: str) -> Callable[[Optimizer, int], LRScheduler]:
        if self.schedule is not None:
            return self.schedule
        return lambda optimizer, steps: make_schedule(self._recipe(phase), optimizer, steps)


def exhausted(capacity: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The weights of which nothing learns any more.

    >>> exhausted({"units": {}, "free": {"a.weight": 0.0, "a.bias": 0.0, "b.weight": 0.5}})
    ['a.weight']
    """
    return [name for name, share in capacity["free"].items() if not share and not name.endswith("bias")]


def opened(task: Task, seed: int, training: Training, device: torch.device) -> Feeds:
    """A task's data, as a run reads them."""
    return prepare(task, seed=seed, val_fraction=training.val_fraction, device=device, workers=training.workers)
