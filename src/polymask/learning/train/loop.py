"""The loop: one phase of one task, epoch by epoch; knows phases, not methods."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from polymask.calling import call, logits_of
from polymask.learning.evaluate import Judge, evaluate, own_outputs
from polymask.learning.fabric import fresh_precision, is_bare
from polymask.learning.folder import WAY, DamagedCheckpoint
from polymask.learning.objective import Objective
from polymask.learning.training import Plateau
from polymask.method.card import Recipe
from polymask.method.contract import Method
from polymask.parts.seeds import seed_global, seed_of
from polymask.streams.prepare import Feeds


class NotFinite(ArithmeticError):  # noqa: N818 - the name says what is wrong
    """A loss that is NaN or infinite; the open task is lost, every finished one is kept."""


@dataclass
class Progress:
    """Where a phase stands: what a checkpoint writes and a resumed run reads.

    Args:
        epoch: the next epoch, or the one that was begun.
        begun: how far that one is, if it was: batches done, the sum of their losses, the state of the draws.
        best: the best validation score so far.
        kept: the tensors that scored it.
        states: the states of optimizer, schedule and loss scale, to be loaded.
    """

    epoch: int = 0
    begun: dict[str, Any] = field(default_factory=dict)
    best: float | None = None
    kept: dict[str, Tensor] = field(default_factory=dict)
    states: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """Everything that one phase of one task trains with.

    Args:
        fabric: device, precision and processes.
        method: the learner, with the phase begun.
        feeds: the task's data.
        recipe: optimizer, epochs and batch size.
        objective: loss and metric.
        key: (seed, task, phase): what this phase's draws are keyed by.
        accumulate: batches a step.
        clip: the largest gradient norm, or None.
        log: called after every epoch with its figures.
        is_due: asked after every step whether it is time for a checkpoint.
        saved: called then, to write it.
        spare: outputs of the head beyond all labels; where there are some, the loss runs over the whole head.
    """

    fabric: Fabric
    method: Method
    feeds: Feeds
    recipe: Recipe
    objective: Objective
    key: tuple[object, ...]
    accumulate: int = 1
    clip: float | None = None
    log: Callable[[dict[str, float]], None] = lambda figures: None
    is_due: Callable[[], bool] = lambda: False
    saved: Callable[[Progress], None] = lambda progress: None
    spare: int = 0


def train_phase(
    phase: Phase,
    progress: Progress,
    make_optimizer: Callable[[Method], Optimizer],
    make_schedule: Callable[[Optimizer, int], LRScheduler],
) -> float:
    """Train one phase, select on validation, and leave the best epoch's tensors in the model.

    Returns:
        The best validation score.

    Raises:
        NotFinite: if an epoch leaves a loss or a weight that is NaN or infinite.
        DamagedCheckpoint: if the phase was begun under another kind of optimizer.
    """
    fabric, method, recipe = phase.fabric, phase.method, phase.recipe
    batches = phase.feeds.train.steps(recipe.batch_size // fabric.world_size or 1, fabric.world_size)
    steps = -(-batches // phase.accumulate)
    optimizer = make_optimizer(method)
    schedule = make_schedule(optimizer, steps * recipe.epochs)
    parts: dict[str, Any] = {"optimizer": optimizer, "schedule": schedule, "precision": fresh_precision(fabric)}
    net, stepper = _set_up(fabric, method.model, optimizer)
    refuse_other_optimizer(optimizer, progress.states)
    for name, state in progress.states.items():
        parts[name].load_state_dict(state)

    def save(batches_done: int, total: Tensor) -> None:
        progress.begun = _begun(fabric.device, batches_done, total) if batches_done else {}
        progress.states = {name: part.state_dict() for name, part in parts.items()}
        phase.saved(progress)

    for epoch in range(progress.epoch, recipe.epochs):
        if isinstance(schedule, Plateau) and schedule.over:
            break
        loss = _epoch(phase, net, stepper, schedule, progress, batches, save)
        _check_finite(phase, epoch, loss)
        # Statistics differ between processes; all of them select by the first one's score.
        score, *losses = fabric.broadcast(validated(phase, isinstance(schedule, Plateau)))
        if isinstance(schedule, Plateau):
            schedule.watch(*losses)
        if phase.objective.better(score, progress.best):
            progress.best, progress.kept = score, _snapshot(method)
        progress.epoch = epoch + 1
        phase.log({"epoch": epoch, "loss": loss, "val": score, "lr": float(schedule.get_last_lr()[0])})
        if phase.is_due():
            save(0, torch.zeros(()))
    _restore(method, progress.kept)
    assert progress.best is not None
    return progress.best


def refuse_other_optimizer(optimizer: Optimizer, states: Mapping[str, Any]) -> None:
    """Raise unless the state of an open phase is of such an optimizer: as many groups, without settings it lacks.

    Raises:
        DamagedCheckpoint: if it is not.
    """
    if "optimizer" not in states:
        return
    now, then = optimizer.param_groups, states["optimizer"]["param_groups"]
    # An older torch may have known fewer settings of the same optimizer.
    if len(now) != len(then) or any(old.keys() - new.keys() for old, new in zip(then, now, strict=True)):
        raise DamagedCheckpoint(
            f"expected the open task to have been trained by {type(optimizer).__name__} with {len(now)} rates, found "
            f"another optimizer's state (an earlier polymask had another recipe, or optimizer= is another); {WAY}"
        )


def _epoch(
    phase: Phase,
    net: nn.Module,
    optimizer: Any,
    schedule: LRScheduler,
    progress: Progress,
    batches: int,
    save: Callable[[int, Tensor], None],
) -> float:
    fabric, method, plain = phase.fabric, phase.method, is_bare(phase.fabric)
    rank, world, key = fabric.global_rank, fabric.world_size, (*phase.key, progress.epoch)
    done, total = progress.begun.get("batches", 0), torch.zeros((), device=fabric.device)
    batch_size = phase.recipe.batch_size // world or 1
    net.train()
    with _keyed(fabric.device, *key, rank):
        rest = phase.feeds.train.epoch(batch_size, key, rank, world)
        if done:
            # What was done before a stop is drawn again, so that what follows is as it would have been.
            for _ in islice(rest, done):
                pass
            total = _continued(fabric.device, progress.begun)
        for i, (x, y) in enumerate(rest, done):
            first = i - i % phase.accumulate
            summed = min(phase.accumulate, batches - first)
            last = i + 1 == first + summed
            if i == first:
                method.on_step(progress_of(i // phase.accumulate, -(-batches // phase.accumulate)))
            with _accumulating(fabric, net, not last):
                loss = _loss(phase, net, x, y)
                part = loss if summed == 1 else loss / summed
                part.backward() if plain else fabric.backward(part)
            total += loss.detach()
            if last:
                if phase.clip is not None:
                    fabric.clip_gradients(net, optimizer, max_norm=phase.clip, error_if_nonfinite=False)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                # Several processes would have to agree on the moment at every step: they wait for the epoch's end.
                # What is lost already is not saved over what is not.
                if world == 1 and i + 1 < batches and phase.is_due() and not _not_finite(method, total.item()):
                    save(i + 1, total)
    progress.begun = {}
    # All processes learn of a loss that is not finite on one of them, or the others would wait for it for ever.
    mean = total if world == 1 else fabric.all_reduce(total, reduce_op="mean")
    assert isinstance(mean, Tensor)
    return mean.item() / batches


def _begun(device: torch.device, batches: int, total: Tensor) -> dict[str, Any]:
    """How far an epoch is: the batches done, the sum of their losses, and what the next draws come from."""
    draws = {
        "cpu": torch.get_rng_state(),
        **({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}),
    }
    return {"batches": batches, "total": total.clone(), "draws": draws}


def _continued(device: torch.device, begun: Mapping[str, Any]) -> Tensor:
    """Bring the draws to where an epoch was stopped; the sum of the losses there."""
    torch.set_rng_state(begun["draws"]["cpu"].cpu())
    if "cuda" in begun["draws"]:
        torch.cuda.set_rng_state(begun["draws"]["cuda"].cpu(), device)
    total: Tensor = begun["total"]
    return total.to(device, copy=True)


def progress_of(step: int, steps: int) -> float:
    """Where in an epoch a step stands: 0 at the first, 1 at the last; an only step is the last.

    >>> progress_of(0, 3), progress_of(1, 3), progress_of(2, 3), progress_of(0, 1)
    (0.0, 0.5, 1.0, 1.0)
    """
    return step / (steps - 1) if steps > 1 else 1.0


@contextmanager
def _keyed(device: torch.device, *key: object) -> Iterator[None]:
    """Key what layers draw (dropout) for a while; the global generators are as before afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        seed_global(seed_of(*key), device.type)
        yield


def _loss(phase: Phase, net: nn.Module, x: Any, y: Tensor) -> Tensor:
    logits = logits_of(call(net, x))
    loss = phase.objective.loss(logits if phase.spare else own_outputs(logits, phase.feeds.outputs), y)
    return loss if type(phase.method).penalty is Method.penalty else loss + phase.method.penalty()


def _check_finite(phase: Phase, epoch: int, loss: float) -> None:
    if found := _not_finite(phase.method, loss):
        raise NotFinite(
            f"expected finite numbers, found {found} in epoch {epoch} of {phase.key[2]!r} on task {phase.key[1]!r}: "
            "lower the learning rate, clip gradients, or look at the data. Finished tasks are kept"
        )


def _not_finite(method: Method, loss: float) -> str:
    """What is NaN or infinite, in words; nothing where all is finite."""
    if not math.isfinite(loss):
        return f"a loss of {loss}"
    bad = [name for name, p in method.named_parameters() if not p.isfinite().all()]
    return f"NaN or infinity in {', '.join(bad)}" if bad else ""


def _set_up(fabric: Fabric, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Any]:
    if is_bare(fabric):
        return model, optimizer
    with warnings.catch_warnings():
        # torch renames the option that Fabric's strategy is given by; both names are understood.
        warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
        net = fabric.setup_module(model)
    return net, fabric.setup_optimizers(optimizer)


def _accumulating(fabric: Fabric, net: nn.Module, enabled: bool) -> AbstractContextManager[Any]:
    if not enabled or is_bare(fabric):
        return nullcontext()
    return fabric.no_backward_sync(net, enabled=True)  # type: ignore[arg-type]


def validated(phase: Phase, with_loss: bool = False) -> list[float]:
    """The metric on the validation split, and behind it the loss if it is asked for."""
    objective, feeds = phase.objective, phase.feeds
    judges: list[Judge] = [objective.metric, *([objective.loss] if with_loss else [])]
    return evaluate(phase.method.model, feeds.val, judges, feeds.outputs, phase.recipe.batch_size)


def _snapshot(method: Method) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in _learning(method).items()}


@torch.no_grad()
def _restore(method: Method, kept: dict[str, Tensor]) -> None:
    for name, tensor in _learning(method).items():
        tensor.copy_(kept[name])


def _learning(method: Method) -> dict[str, Tensor]:
    """What an epoch changes: all that the optimizer may touch, scores among them, and the statistics that follow."""
    sites = method.sites
    statistics = {name: sites.tensor(name) for name in sites.names(*method.learning)}
    return {**statistics, **dict(method.named_parameters())}
