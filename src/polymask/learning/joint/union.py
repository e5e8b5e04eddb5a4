"""Training on the union of several tasks: one network, a head per task, their batches interleaved by a keyed draw."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from polymask.calling import call, logits_of
from polymask.learning.evaluate import Judge, evaluate, score
from polymask.learning.log.journal import Journal
from polymask.learning.objective import Objective
from polymask.learning.train.loop import NotFinite
from polymask.learning.training import Plateau, Training, make_optimizer, make_schedule
from polymask.method.card import Recipe
from polymask.parts.seeds import generator, seed_global, seed_of
from polymask.report.measured import Measured
from polymask.streams.prepare import Feeds


class Heads(nn.Module):
    """One head per task; ``active`` says whose answers are given.

    Args:
        head: what every head is a copy of, drawn anew at its own width.
        outputs: the width of each.
        seed: heads are drawn from it and their names.
        names: the tasks' names.

    >>> heads = Heads(nn.Linear(4, 10), [2, 3], 0, ["a", "b"])
    >>> heads.active = 1
    >>> heads(torch.zeros(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(self, head: nn.Module, outputs: Sequence[int], seed: int, names: Sequence[str]) -> None:
        super().__init__()
        self.active = 0
        self.each = nn.ModuleList(
            new_head(head, width, generator(seed, name, "head")) for width, name in zip(outputs, names, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The active task's logits."""
        logits: Tensor = self.each[self.active](x)
        return logits


def new_head(head: nn.Module, outputs: int, draw: torch.Generator) -> nn.Module:
    """A copy of a head with another width, uniform in ``1 / sqrt(fan_in)`` as a method's private heads are."""
    new = copy.deepcopy(head)
    parameters = dict(new.named_parameters(recurse=False))
    fan_in = next((math.prod(p.shape[1:]) for p in parameters.values() if p.ndim >= 2), 1)
    for name, old in parameters.items():
        value = torch.empty(outputs, *old.shape[1:]).uniform_(
            -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in), generator=draw
        )
        setattr(new, name, nn.Parameter(value.to(old)))
    return new


@dataclass(frozen=True)
class Union:
    """What one prefix is trained with: its tasks' data, how, and what its draws are keyed by."""

    fabric: Fabric
    tasks: Sequence[str]
    feeds: Sequence[Feeds]
    recipe: Recipe
    training: Training
    objective: Objective
    seed: int

    def batches(self, epoch: int) -> Iterator[tuple[int, Any, Tensor]]:
        """Every batch of every task once, the tasks interleaved by a draw keyed by (seed, last task, epoch)."""
        key, size = (self.seed, self.tasks[-1], "joint", epoch), self.recipe.batch_size
        owners = torch.cat([torch.full((feed.train.steps(size),), i) for i, feed in enumerate(self.feeds)])
        streams = [f.train.epoch(size, (*key, task)) for f, task in zip(self.feeds, self.tasks, strict=True)]
        for owner in owners[torch.randperm(len(owners), generator=generator(*key))].tolist():
            yield owner, *next(streams[owner])

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return sum(feed.train.steps(self.recipe.batch_size) for feed in self.feeds)


def learn_union(model: nn.Module, place: str, union: Union, journal: Journal) -> dict[str, Measured]:
    """Train one network on all tasks of a union and keep its best epoch; the score of every task."""
    parent, _, leaf = place.rpartition(".")
    heads = Heads(model.get_submodule(place), [feed.outputs for feed in union.feeds], union.seed, union.tasks)
    model.get_submodule(parent).register_module(leaf, heads)
    fabric, recipe = union.fabric, union.recipe
    optimizer = make_optimizer(recipe, model.named_parameters())
    steps = -(-union.steps // union.training.accumulate)
    schedule = make_schedule(recipe, optimizer, steps * recipe.epochs)
    net, stepper = fabric.setup_module(model), fabric.setup_optimizers(optimizer)
    best, kept = None, model.state_dict()
    for epoch in range(recipe.epochs):
        if isinstance(schedule, Plateau) and schedule.over:
            break
        loss = _epoch(union, net, heads, stepper, schedule, epoch)
        judges: list[Judge] = [
            union.objective.metric,
            *([union.objective.loss] if isinstance(schedule, Plateau) else []),
        ]
        value, *losses = map(mean, zip(*validate_tasks(model, heads, union, judges), strict=True))
        if isinstance(schedule, Plateau):
            schedule.watch(*losses)
        if union.objective.better(value, best):
            best, kept = value, copy.deepcopy(model.state_dict())
        figures = {"epoch": epoch, "loss": loss, "val": value, "lr": float(schedule.get_last_lr()[0])}
        journal.epoch(union.tasks[-1], "joint", figures, recipe.epochs)
    model.load_state_dict(kept)
    found = {}
    for i, (task, feeds) in enumerate(zip(union.tasks, union.feeds, strict=True)):
        heads.active = i
        found[task] = score(model, feeds, union.objective)
    return found


def validate_tasks(model: nn.Module, heads: Heads, union: Union, judges: Sequence[Judge]) -> list[list[float]]:
    """Metrics or losses of every task on its validation part."""
    found = []
    for i, feeds in enumerate(union.feeds):
        heads.active = i
        found.append(evaluate(model, feeds.val, judges, feeds.outputs, 512))
    return found


def _epoch(union: Union, net: Any, heads: Heads, optimizer: Any, schedule: Any, epoch: int) -> float:
    fabric, training, total, batches = union.fabric, union.training, 0.0, union.steps
    net.train()
    with torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []):
        seed_global(seed_of(union.seed, union.tasks[-1], "joint", epoch), fabric.device.type)
        for i, (owner, x, y) in enumerate(union.batches(epoch)):
            heads.active = owner
            loss = union.objective.loss(logits_of(call(net, x)), y)
            first = i - i % training.accumulate
            fabric.backward(loss / min(training.accumulate, batches - first))
            total += loss.item()
            if i + 1 in (first + training.accumulate, batches):
                if training.clip is not None:
                    fabric.clip_gradients(net, optimizer, max_norm=training.clip, error_if_nonfinite=False)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    if not math.isfinite(total):
        raise NotFinite(
            f"expected a finite loss, found {total / batches} in epoch {epoch} of joint training up to task "
            f"{union.tasks[-1]!r}: lower the learning rate, clip gradients, or look at the data"
        )
    return total / batches
