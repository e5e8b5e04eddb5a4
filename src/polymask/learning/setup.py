"""How a run learns, whatever it learns: its settings, its objective, the device, and who makes optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from polymask.learning.log.loggers import Make
from polymask.learning.log.screen import Screen
from polymask.learning.objective import Objective
from polymask.learning.training import Training, make_schedule, optimizer_of
from polymask.learning.unnamed.scenario import Scenario
from polymask.method.card import Recipe
from polymask.method.contract import Method
from polymask.streams.prepare import Feeds, prepare
from polymask.streams.stream import Task
from polymask.version import __version__


@dataclass(frozen=True)
class Setup:
    """How a run learns.

    Args:
        training: the run's settings.
        objective: loss and metric.
        fabric: device, precision and processes.
        optimizer: ``named parameters -> optimizer``, made anew for every phase; None: by the recipe.
        schedule: ``(optimizer, steps) -> schedule``; None: by the recipe.
        loggers: what makes those who are told of every epoch, on the process that tells.
        spare: outputs of the head beyond all labels, over which the loss runs as well.
        scenario: whether tasks are named at test.
    """

    training: Training
    objective: Objective
    fabric: Fabric
    optimizer: Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer] | None = None
    schedule: Callable[[Optimizer, int], LRScheduler] | None = None
    loggers: Sequence[Make] = ()
    spare: int = 0
    scenario: Scenario | None = None

    def recipe(self, method: Method, phase: str) -> Recipe:
        """The method's recipe of a phase, with the run's own settings over it."""
        return self.training.over(method.recipes[phase], phase)

    def recipes(self, method: Method) -> dict[str, Recipe]:
        """Those of all phases."""
        return {phase: self.recipe(method, phase) for phase in method.phases}

    def epochs(self, method: Method) -> int:
        """How many epochs a task takes at most."""
        return sum(recipe.epochs for recipe in self.recipes(method).values())

    def make_optimizer(self, method: Method) -> Optimizer:
        """A fresh optimizer for the phase that is open."""
        if self.optimizer is not None:
            return self.optimizer(method.named_parameters())
        return optimizer_of(method, self.recipe(method, str(method.phase)))

    def schedule_of(self, recipe: Recipe) -> Callable[[Optimizer, int], LRScheduler]:
        """What makes the schedule of a phase, given its optimizer and the number of its steps."""
        return self.schedule or (lambda optimizer, steps: make_schedule(recipe, optimizer, steps))

    def open(self, task: Task, seed: int) -> Feeds:
        """A task's data, as this run reads them."""
        training, device = self.training, self.fabric.device
        val, calibration = training.val_fraction, training.calibration_fraction
        workers = training.workers
        return prepare(
            task, seed=seed, val_fraction=val, calibration_fraction=calibration, device=device, workers=workers
        )

    def screen(self, epochs: int, tasks: int) -> Screen:
        """What is seen of the run; of several processes one shows it."""
        quiet = self.training.quiet or not self.fabric.is_global_zero
        return Screen(epochs, tasks, self.objective.metric_name, quiet, self.training.log_every)

    @cached_property
    def setting(self) -> str:
        """Under what a metric is measured, in one line; measured under another, a number may be another."""
        metric = self.objective.metric
        name = f"{self.objective.metric_name} by {metric.__module__}.{getattr(metric, '__qualname__', '')}"
        versions = f"polymask {__version__}, torch {torch.__version__}"
        return f"{name}, {self.training.precision}, {self.fabric.device.type}, {versions}"
