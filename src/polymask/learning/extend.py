"""Give a finished run one more task, later and without the data of the older ones."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

from polymask.bank.bank import Bank
from polymask.bank.probe import batch_of
from polymask.builder import Builder
from polymask.learning import folder as files
from polymask.learning.config import said_of_identities
from polymask.learning.fabric import make_fabric
from polymask.learning.folder import Place
from polymask.learning.learn import Learned
from polymask.learning.learner import give_back, method_class, on_device, open_learner, restored
from polymask.learning.log.loggers import makers
from polymask.learning.objective import Objective
from polymask.learning.results import earlier_results
from polymask.learning.setup import Setup
from polymask.learning.train.session import Session
from polymask.learning.training import Training
from polymask.learning.watch.drift import watch
from polymask.loaded import bank_folder
from polymask.method.contract import Method
from polymask.probe import probe_batch
from polymask.streams.stream import Task

DESCRIBED = ("method", "seed", "options", "metric", "model", "stream")


def extend(
    out: str | Path,
    task: Task,
    model: nn.Module | None = None,
    *,
    method: str | type[Method] | None = None,
    training: Training | None = None,
    objective: Objective | None = None,
) -> Learned:
    """Learn one more task on top of a finished run; the metrics of older tasks stand where the method is exact.

    The logits of the older tasks are compared on the bank's probe, as in any run. A method that has shared out all its
    weights (PackNet told the number of its tasks) warns and learns a head alone. Called again with the same task, it
    goes on where it was stopped. The task has the spare outputs of the run.

    Args:
        out: the run's folder.
        task: the new task; inputs of the same shape, another name, or that of a task that was removed.
        model: the network, untrained or not, where the bank does not know how it is built.
        method: the method's class where it is none of ``METHODS``.
        training: epochs, optimizer, device and so on; None: as the run was trained.
        objective: loss and metric; None: cross entropy and accuracy.

    Raises:
        FileNotFoundError: if there is no run.
        ValueError: if the run is not finished, or the bank needs ``model``.
        RuntimeError: if the folder is in use, or an exact method forgot.

    >>> import tempfile
    >>> from polymask.nets import MLP
    >>> from polymask.learning.learn import learn
    >>> from polymask.streams.images import digits
    >>> stream, short = digits(5), Training(epochs=1)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     _ = learn(MLP(64, (16,), 2), stream[:1], "piggyback", out=out, training=short)
    ...     later = extend(out, stream[1], MLP(64, (16,), 2))
    >>> later.tasks, later.report["source"][1], later.report["max_logit_drift"]
    (['digits/0-1', 'digits/2-3'], ['proved', 'measured'], 0.0)
    """
    path, objective = Path(out).expanduser(), objective or Objective()
    bank = Bank.open(bank_folder(path))
    about, training = bank.outline, training or training_of(path)
    fabric = make_fabric(training)
    with ExitStack() as stack:
        if fabric.is_global_zero:
            stack.enter_context(files.locked(path))
        earlier = report_of_finished(path, {task.name, *bank.removed})
        loggers = makers(training.logger, path) if fabric.is_global_zero else []
        setup = Setup(training, objective, fabric, loggers=loggers, spare=earlier.get("spare", 0))
        feeds = {task.name: setup.open(task, earlier["seed"])}
        batch = batch_of(bank.path, about["probe"])
        batch = probe_batch(feeds[task.name].example(), earlier["seed"]) if batch is None else batch
        kind = method_class(method or about["method"])
        network = network_of(about["builder"], model)
        stack.enter_context(restored(network))
        network, _ = on_device(network, None, fabric)
        learner, _ = open_learner(kind, network, batch, about["head"], earlier["seed"], about["options"], path / "bank")
        stack.enter_context(give_back(learner))
        removed = [name for name in bank.removed if name != task.name]
        results = earlier_results(path, learner, [task.name], objective.higher_is_better, removed)
        writer = bank if fabric.is_global_zero else None
        if writer is not None:
            # As a run that goes on does: an earlier call may have been killed in the middle of its commit.
            writer.sweep()
        place = Place(path, writer, {key: earlier.get(key) for key in DESCRIBED} | said_of_identities(setup.spare))
        drift = watch(learner, batch, path)
        session = Session(learner, [task], setup, place, results, drift, feeds)
        builder = None if about["builder"] is None else Builder.from_json(about["builder"])
        return Learned(learner, session.run(), bank, builder, about["options"])


def report_of_finished(path: Path, may_miss: Collection[str]) -> dict[str, Any]:
    """What a finished run reports.

    Raises:
        ValueError: if tasks other than those that may be missing are.
    """
    earlier = files.read_results(path)
    known = {*earlier.get("finished", ()), *may_miss}
    missing = [task for task in earlier.get("tasks", ()) if task not in known]
    if missing or not earlier:
        raise ValueError(
            f"expected a finished run in {path}, found {', '.join(missing) or 'nothing'} still to be learned: "
            f"finish it first (polymask run --config {path / 'config.yaml'} --out {path})"
        )
    return earlier


def training_of(path: Path) -> Training:
    """How a run was trained, from its config.yaml."""
    config = files.read_config(path / "config.yaml")
    return Training(**{field.name: config[field.name] for field in fields(Training) if field.name in config})


def network_of(builder: dict[str, Any] | None, model: nn.Module | None) -> nn.Module:
    """The network that was brought, or as the bank builds it.

    Raises:
        ValueError: if there is neither.
    """
    if model is not None:
        return model
    if builder is None:
        raise ValueError("expected a network, found a bank that does not know how it is built: bring it as model=")
    return Builder.from_json(builder).build()
