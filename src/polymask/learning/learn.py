"""Learn a stream of tasks: one call that trains, records, evaluates, writes, and goes on where it was stopped."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from polymask.asking.which import prepare_inputs
from polymask.bank.bank import Bank
from polymask.builder import Builder
from polymask.calling import as_read
from polymask.learning import folder as files
from polymask.learning.config import arguments, complete_options, description, said_of_identities
from polymask.learning.evaluate import own_outputs
from polymask.learning.fabric import make_fabric
from polymask.learning.folder import Place
from polymask.learning.learner import (
    as_taken,
    claim_bank,
    give_back,
    make_bank,
    method_class,
    on_device,
    open_learner,
    restored,
)
from polymask.learning.log.loggers import Logger, makers
from polymask.learning.objective import Objective
from polymask.learning.results import earlier_results
from polymask.learning.setup import Setup
from polymask.learning.train.session import Session
from polymask.learning.training import Training
from polymask.learning.unnamed.scenario import Scenario, check_scenario
from polymask.learning.unnamed.spare import check_spare, refuse_spare
from polymask.learning.watch.drift import watch
from polymask.method.contract import Method
from polymask.method.heads import is_shared
from polymask.method.learner import without_base
from polymask.probe import probe_batch, run_probe
from polymask.streams.prepare import outputs_of
from polymask.streams.stream import Stream, Task


@dataclass
class Learned:
    """A network that has learned tasks.

    Args:
        method: the learner; its records are the finished tasks.
        report: what ``results.json`` says.
        bank: where everything is on disk, if it is.
        builder: how the network is built, if it is known.
        options: the method's own arguments.
    """

    method: Method
    report: dict[str, Any] = field(default_factory=dict)
    bank: Bank | None = None
    builder: Builder | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """The names of the finished tasks."""
        return list(self.method.records)

    def logits(self, task: str, x: Any) -> Tensor:
        """The logits of raw inputs on a finished task, prepared as its training data were."""
        record, plain = self.method.record(task), self.method.plain(task)
        return own_outputs(run_probe(plain, as_read(plain, prepare_inputs(record, x))), record.meta.outputs)

    def predict(self, task: str, x: Any) -> Tensor:
        """The most likely label of every row."""
        return self.logits(task, x).argmax(-1)

    def save(self, path: str | Path) -> Bank:
        """Write a bank of all finished tasks, and what learning another one needs, into a new folder."""
        self.bank = make_bank(Path(path), self.method, self.builder, self.options)
        self.bank.commit(self.method.records, self.method.sites, learner=without_base(self.method.state_dict()))
        return self.bank


def learn(
    model: nn.Module,
    tasks: Sequence[Task],
    method: str | type[Method] = "packnet",
    *,
    out: str | Path | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    training: Training | None = None,
    objective: Objective | None = None,
    head: str | None = None,
    spare: int = 0,
    scenario: Scenario | None = None,
    example: Any = None,
    builder: Builder | None = None,
    optimizer: Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer] | None = None,
    schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
    config: Mapping[str, Any] | None = None,
    relearn: Collection[str] = (),
    logger: Logger | Sequence[Logger | str] | str | None = None,
) -> Learned:
    """Learn a stream of tasks and forget nothing; with ``out``, go on where an earlier call was stopped.

    The network is trained in place and belongs to the learner afterwards: its keys are the same, its layers read their
    weights through sites, its weights are those that all tasks share, its head is the last task's. Ask it through
    ``predict`` and ``logits``, take a plain copy as one task by ``run.method.plain(task)``, and its classes back by
    ``polymask.detach(model)``; copy it before if the untrained one is needed. Where learning fails or is stopped, it
    comes back as it was given, values included.

    Args:
        model: any module; its head is replaced per task where the method's heads are private.
        tasks: a stream, or any sequence of tasks.
        method: a key of ``METHODS``, a method's class, or its address ``package.module:Class``.
        out: the run's folder: results.json, config.yaml, bank/, epochs.csv, tensorboard/; None: nothing is written.
        seed: key of every random draw.
        options: the method's own arguments.
        training: epochs, optimizer, device and so on; what is None follows the method's recipe.
        objective: loss and metric; None: cross entropy and accuracy.
        head: the name of the head module.
        spare: outputs that the head has beyond the labels of the largest task, where all tasks share one. The loss then
            runs over the whole head, so that cross entropy pushes them down on what a task was trained on; SupSup tells
            by them which task an input is of. Scores and answers stay those of a task's own labels.
        scenario: "GNu" or "GNs": the report also says, under "identities", what is scored where nobody says which task
            an input is of, see ``score_unnamed``; "GG" or None: tasks are named.
        example: an input that the model accepts; None: the first inputs of the first task.
        builder: how the model is built, so that the bank can be opened without you.
        optimizer: ``named parameters -> optimizer``, called anew for every phase, with your own parameter groups.
        schedule: ``(optimizer, steps of the phase) -> schedule``.
        config: what config.yaml says instead of what follows from the other arguments; JSON.
        relearn: names of tasks to learn again although they were removed from the folder's bank.
        logger: who is told of every epoch: loggers of Fabric's interface, or names; None: ``training.logger``.

    Raises:
        ValueError: for options out of range, a folder of another configuration, or data that do not fit.
        RuntimeError: if the folder is in use, or an exact method forgot.

    >>> from polymask.nets import MLP
    >>> from polymask.streams.images import digits
    >>> run = learn(MLP(64, (32,), 2), digits(5)[:2], "piggyback", training=Training(epochs=2))
    >>> run.tasks, run.report["max_logit_drift"], run.report["bwt_gem"]
    (['digits/0-1', 'digits/2-3'], 0.0, 0.0)
    """
    kind = method_class(method)
    tasks = tasks if isinstance(tasks, Stream) else Stream("given", tuple(tasks))
    training, objective = training or Training(), objective or Objective()
    training.check_phases(kind.name, kind.phases)
    if out is None and training.calibration_fraction is not None:
        raise ValueError("expected out=, where what calibration_fraction= asks for is kept, found none: name a folder")
    options = complete_options(kind, options or {}, len(tasks))
    said = said_of_identities(spare, scenario)
    config = config or arguments(kind, tasks, seed, options, training, head, builder) | said
    check_relearn(relearn, tasks)
    named = "given" if builder is None else builder.name
    check_scenario(scenario, [task.labels for task in tasks], objective)
    fabric, path = make_fabric(training), None if out is None else Path(out)
    with ExitStack() as stack:
        if path is not None and fabric.is_global_zero:
            stack.enter_context(files.locked(path))
            files.check(path, config)
        fabric.barrier()
        loggers = makers(training.logger if logger is None else logger, path) if fabric.is_global_zero else []
        setup = Setup(training, objective, fabric, optimizer, schedule, loggers, spare, scenario)
        feeds = {tasks[0].name: setup.open(tasks[0], seed)}
        example = feeds[tasks[0].name].example() if example is None else example
        stack.enter_context(restored(model))
        model, example = on_device(model, example, fabric)
        learner, old = open_learner(kind, model, example, head, seed, options, path and path / "bank")
        stack.enter_context(give_back(learner))
        refuse_spare(spare, kind.name, is_shared(learner.sites, learner.head))
        largest = max(outputs_of(task, seed) for task in tasks) if spare else 0
        check_spare(model, tasks[0].name, feeds[tasks[0].name], spare, largest)
        options = as_taken(options, learner, old)
        about = description(kind.name, tasks, seed, options, objective, named) | said
        fabric.barrier()
        bank = claim_bank(path, config, old, learner, builder, options) if path and fabric.is_global_zero else None
        removed = [name for name in old.removed if name not in relearn] if old is not None else []
        todo = [task for task in tasks if task.name not in removed]
        warn_removed([task.name for task in tasks if task.name in removed], path)
        results = earlier_results(path, learner, [task.name for task in todo], objective.higher_is_better, removed)
        drift = watch(learner, probe_batch(example, seed), path)
        session = Session(learner, todo, setup, Place(path, bank, about), results, drift, feeds)
        return Learned(learner, session.run(), bank, builder, options)


def check_relearn(names: Iterable[str], tasks: Sequence[Task]) -> None:
    """Raise a ``ValueError`` unless these are names of tasks."""
    known = [task.name for task in tasks]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"expected relearn to name tasks of the stream ({', '.join(known)}), found {unknown[0]!r}")


def warn_removed(names: Sequence[str], path: Path | None) -> None:
    """Say once which tasks of a stream are not learned since they were removed."""
    if names:
        warnings.warn(
            f"{', '.join(names)} of the stream will not be learned again, removed from {path} before: ask for it by "
            "relearn=, on the command line --relearn",
            stacklevel=3,
        )
