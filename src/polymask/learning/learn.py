"""Learn a stream of tasks: one call that trains, records, evaluates, writes, and goes on where it was stopped."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from polymask.bank.bank import Bank
from polymask.bank.base import Builder
from polymask.bank.store import as_json
from polymask.calling import as_read, tensors_of
from polymask.learning import folder as files
from polymask.learning.config import arguments, description, settled
from polymask.learning.drift import Probes
from polymask.learning.fabric import make_fabric, precision_of
from polymask.learning.load import prepared
from polymask.learning.loop import narrowed
from polymask.learning.objective import Objective
from polymask.learning.options import Refused
from polymask.learning.results import Results
from polymask.learning.session import Session, opened
from polymask.learning.training import Training
from polymask.method.checks import refuse_shared
from polymask.method.contract import Method
from polymask.method.learner import without_base
from polymask.method.own import import_method
from polymask.methods import METHODS
from polymask.probe import probe_batch, run_probe
from polymask.sites.table import BASE, detach
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
        return narrowed(run_probe(plain, as_read(plain, prepared(record, x))), record.meta.outputs)

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
    example: Any = None,
    builder: Builder | None = None,
    optimizer: Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer] | None = None,
    schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
    config: Mapping[str, Any] | None = None,
    relearn: Collection[str] = (),
) -> Learned:
    """Learn a stream of tasks and forget nothing; with ``out``, go on where an earlier call was stopped.

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
        example: an input that the model accepts; None: the first inputs of the first task.
        builder: how the model is built, so that the bank can be opened without you.
        optimizer: ``named parameters -> optimizer``, called anew for every phase, with your own parameter groups.
        schedule: ``(optimizer, steps of the phase) -> schedule``.
        config: what config.yaml says instead of what follows from the other arguments; JSON.
        relearn: names of tasks to learn again although they were removed from the folder's bank.

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
    options = settled(kind, options or {}, len(tasks))
    config = config or arguments(kind, tasks, seed, options, training, head, builder)
    check_relearn(relearn, tasks)
    about = description(kind.name, tasks, seed, options, objective, "given" if builder is None else builder.name)
    fabric, path = make_fabric(training), None if out is None else Path(out)
    with ExitStack() as stack:
        if path is not None and fabric.is_global_zero:
            stack.enter_context(files.locked(path))
            files.check(path, config)
        fabric.barrier()
        feeds = {tasks[0].name: opened(tasks[0], seed, training, fabric.device)}
        example = feeds[tasks[0].name].example() if example is None else example
        model, example = placed(model, example, fabric)
        learner, old = open_learner(kind, model, example, head, seed, options, path)
        stack.enter_context(given_back(learner))
        fabric.barrier()
        bank = claimed(path, config, old, learner, builder, options) if path and fabric.is_global_zero else None
        removed = [name for name in old.removed if name not in relearn] if old is not None else []
        todo = [task for task in tasks if task.name not in removed]
        warn_removed([task.name for task in tasks if task not in todo], path)
        results = earlier_results(path, todo, learner, objective, removed)
        probes = Probes(probe_batch(example, seed), noted(path, learner))
        figures = results, probes, path, bank, about
        session = Session(learner, todo, training, objective, fabric, *figures, optimizer, schedule, feeds)
        return Learned(learner, session.run(), bank, builder, options)


def placed(model: nn.Module, example: Any, fabric: Fabric) -> tuple[nn.Module, Any]:
    """A network, and an input as it reads it, on the run's device and in its precision."""
    model = precision_of(fabric).convert_module(model.to(fabric.device))
    return model, as_read(model, tensors_of(example, lambda t: t.to(fabric.device)))


@contextmanager
def given_back(method: Method) -> Iterator[None]:
    """If learning fails, give the network back to its owner as it was before the open task, with no site on it."""
    try:
        yield
    except BaseException:
        method.abandon()
        detach(method.model)
        raise


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


def earlier_results(
    path: Path | None, tasks: Sequence[Task], method: Method, objective: Objective, removed: Sequence[str]
) -> Results:
    """The figures of the tasks that an earlier process finished, in the folder's ``results.json``.

    Nothing is left of a task that was removed, also if one of its name is learned again.
    """
    names, better = [task.name for task in tasks], objective.higher_is_better
    earlier = {} if path is None else files.read_results(path)
    if not earlier:
        return Results(names, higher_is_better=better, removed=removed)
    order = dict.fromkeys([*method.records, *names, *earlier["tasks"]])
    results = Results.from_json(earlier, [name for name in order if name not in removed], better)
    return results.only(method.records, removed)


def method_class(method: str | type[Method]) -> type[Method]:
    """The class behind a name, or at an address ``package.module:Class``.

    Raises:
        ValueError: for an unknown name, or an address of no method.
    """
    if isinstance(method, str) and ":" in method:
        return import_method(method)
    if isinstance(method, str):
        if method.replace("-", "_") not in METHODS:
            names = ", ".join(METHODS)
            raise ValueError(f"expected a method of {names}, or package.module:Class, found {method!r}")
        return METHODS[method.replace("-", "_")]
    return method


def open_learner(
    kind: type[Method],
    model: nn.Module,
    example: Any,
    head: str | None,
    seed: int,
    options: Mapping[str, Any],
    out: Path | None,
) -> tuple[Method, Bank | None]:
    """The learner: fresh, or as the bank in the run's folder left it; and that bank."""
    place = None if out is None else out / "bank"
    old = Bank.open(place) if place is not None and (place / "bank.json").exists() else None
    base: dict[str, Tensor] = {}
    if old is not None and (old.tasks or old.removed):
        # Of a copy: the method is made on the network as built, and grows it again as its state says.
        attached = old.model(copy.deepcopy(model))
        base = {name: attached.base(name).clone() for name in attached.names(*BASE)}
    try:
        method = kind(model, example, head=head, seed=seed, **options)
        refuse_shared(method)
    except ValueError as error:
        detach(model)
        raise Refused(str(error)) from error
    if old is not None:
        check_roles(old, method)
    if old is not None and (old.tasks or old.removed):
        state = old.learner()
        # A method may draw its weights when it is made, over those that the finished tasks have trained.
        state["tensors"] = base
        held = old.held() if method.exact is True else None
        method.load_state_dict(state, {task: old.record(task) for task in old.tasks}, old.removed, held)
        if old.tasks:
            method.activate(old.tasks[-1])
    return method, old


def check_roles(bank: Bank, method: Method) -> None:
    """Raise unless a learner does with every tensor and unit what the one did that began a bank.

    Raises:
        Refused: if it does not; it names the first tensor or layer.
    """
    about, sites = bank.outline, method.sites
    wiring = as_json(sites.wiring.to_json(), "the wiring") if sites.wiring.sites else None
    then: dict[str, Any] = {line["name"]: line["kind"] for line in about["sites"]} | about["units"]
    now: dict[str, Any] = {name: role.kind for name, role in sites.roles.items()}
    now |= {path: site.axis for path, site in sites.units.items()}
    other = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    if not other and wiring != about["wiring"]:
        other = ["the wiring"]
    if other:
        raise Refused(
            f"expected the roles and the wiring under which {bank.path} was begun, found another for {other[0]} (an "
            "earlier polymask, or another network): its tasks go on answering, but learn new ones in a new folder"
        )


def claimed(
    path: Path,
    config: Mapping[str, Any],
    bank: Bank | None,
    method: Method,
    builder: Builder | None,
    options: Mapping[str, Any],
) -> Bank:
    """The bank in a run's folder, which is written first now: the method has accepted its options and the network."""
    files.claim(path, config)
    if bank is None:
        return make_bank(path / "bank", method, builder, options)
    # A run that was killed right after a commit had no time to.
    bank.sweep()
    return bank


def make_bank(path: Path, method: Method, builder: Builder | None, options: Mapping[str, Any]) -> Bank:
    """An empty bank for a learner."""
    return Bank.create(
        path,
        method.sites,
        method=method.name,
        options=options,
        builder=builder,
        head=method.head,
        drawn=method.drawn,
        example=method.example,
        seed=method.seed,
    )


def noted(out: Path | None, method: Method) -> dict[str, Tensor]:
    """The probe logits of tasks that an earlier process finished, as its bank keeps them."""
    if out is None or not method.records:
        return {}
    return Bank.open(out / "bank").probe_logits()
