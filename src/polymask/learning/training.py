"""How a run trains: what the caller sets, over the method's recipe; optimizers and schedules made from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from polymask.method.card import Recipe
from polymask.method.contract import Method
from polymask.parts.narrow import BITS
from polymask.sites.roles import is_norm

Name = Literal["sgd", "adam", "adamw", "rmsprop"]
Course = Literal["constant", "cosine", "step", "plateau"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Measure = Literal["new", "all"]
Precision = Literal["32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true"]
LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")
"""The loggers that have a name; others have an address."""

CHOICES: dict[str, tuple[Any, ...]] = {
    "optimizer": get_args(Name),
    "schedule": get_args(Course),
    "device": get_args(Device),
    "precision": get_args(Precision),
    "measure": get_args(Measure),
    "private_bits": BITS,
}
MakeOptimizer = Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer]


@dataclass(frozen=True)
class Training:
    """Settings of a run; None leaves the choice to the method's recipe.

    Args:
        epochs: passes over the training split, for every phase.
        optimizer: which of torch's optimizers.
        lr: its learning rate.
        norm_lr: that of the norms, where they train; None: the same.
        mask_lr: that of what masks are made of, scores and gates; None: the recipe's, or the same where it has none.
        batch_size: examples a step, over all devices.
        momentum: of SGD.
        weight_decay: of the optimizer.
        schedule: "constant", "cosine" down to 0 over a phase, "step": a tenth from its half on, or "plateau": a third
            after 5 epochs without a lower validation loss, to the end at a five-hundredth.
        warmup: epochs over which the learning rate first rises from 0; the schedule has the rest.
        phases: settings of single phases, which go before those above: {"retrain": {"epochs": 10, "lr": 1e-4}}.
        accumulate: batches whose gradients are summed into one step.
        clip: the largest norm of a step's gradient; None: any.
        device: "auto", "cpu", "cuda" or "mps".
        devices: how many of them, one process each.
        precision: Fabric's names: "32-true", "bf16-mixed", "16-mixed", "bf16-true".
        workers: processes that read data which do not live on the device.
        val_fraction: the part of the training split held out where a task brings no validation split.
        calibration_fraction: the part of the validation split that chooses no epoch: by it a run calibrates how it
            tells which of its tasks an input belongs to, or none; None: nothing is held out, measured or kept for that.
        private_bits: 16 or 8: what a task has of its own (head, norms) is rounded to so many bits an entry before it is
            proved and stored, and what that costs is said; None: it stays as it is, in 32.
        save_every: seconds after which the open phase is saved, also in the middle of an epoch.
        measure: "new": after every task its own metric, where the method is exact and what finished tasks read is
            proved unchanged, so that theirs stand; "all": every finished task anew.
        logger: who is told of every epoch besides epochs.csv: csv, tensorboard, wandb, mlflow, or package.module:Class
            of Fabric's interface; None: tensorboard.
        log_every: epochs of a phase after which a line on stderr tells of it; None: a line a phase, without a terminal.
        quiet: no bar and no lines, only warnings, and what was found in the end.

    Raises:
        ValueError: if a value is out of range.

    >>> Training(epochs=3).over(Recipe(lr=0.1)).epochs
    3
    """

    epochs: int | None = None
    optimizer: Name | None = None
    lr: float | None = None
    norm_lr: float | None = None
    mask_lr: float | None = None
    batch_size: int | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: Course | None = None
    warmup: int | None = None
    phases: dict[str, dict[str, Any]] | None = None
    accumulate: int = 1
    clip: float | None = None
    device: Device = "auto"
    devices: int = 1
    precision: Precision = "32-true"
    workers: int = 0
    val_fraction: float = 0.1
    calibration_fraction: float | None = None
    private_bits: int | None = None
    save_every: float = 60.0
    measure: Measure = "new"
    logger: Sequence[str] | str | None = None
    log_every: int | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        for name, least in (
            ("epochs", 1),
            ("batch_size", 1),
            ("accumulate", 1),
            ("devices", 1),
            ("workers", 0),
            ("warmup", 0),
            ("log_every", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"expected {name} of at least {least}, found {value}")
        for name in ("lr", "norm_lr", "mask_lr", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"expected {name} above 0, found {value}")
        for name in ("momentum", "weight_decay", "save_every"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"expected {name} of at least 0, found {value}")
        self._check_fractions()
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) is not None and value not in known:
                raise ValueError(f"expected {name} to be one of {', '.join(map(str, known))}, found {value!r}")
        self._check_loggers()
        self._check_phases()

    def over(self, recipe: Recipe, phase: str | None = None) -> Recipe:
        """A recipe with this run's own settings put over it, and over these those of the phase.

        Under another kind of optimizer than the recipe's, its rates of masks and norms mean nothing, and are left out.
        """
        mine = {field.name: getattr(self, field.name) for field in fields(Recipe)}
        mine |= (self.phases or {}).get(phase or "", {})
        if is_adaptive(mine["optimizer"] or recipe.optimizer) != is_adaptive(recipe.optimizer):
            recipe = replace(recipe, mask_lr=None, norm_lr=None)
        return replace(recipe, **{name: value for name, value in mine.items() if value is not None})

    def check_phases(self, name: str, known: Collection[str]) -> None:
        """Refuse settings of a phase that what learns does not have.

        Raises:
            ValueError: if there are such.
        """
        if unknown := [phase for phase in self.phases or {} if phase not in known]:
            raise ValueError(f"expected phases of {name} ({', '.join(known) or 'it has none'}), found {unknown[0]!r}")

    def _check_fractions(self) -> None:
        for name in ("val_fraction", "calibration_fraction"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"expected {name} between 0 and 1, found {value}")

    def _check_loggers(self) -> None:
        names = self.logger.split(",") if isinstance(self.logger, str) else self.logger or ()
        if unknown := [name for name in names if name.strip() not in LOGGERS and ":" not in name]:
            known = ", ".join(LOGGERS)
            raise ValueError(f"expected a logger of {known}, or package.module:Class, found {unknown[0]!r}")

    def _check_phases(self) -> None:
        known = [field.name for field in fields(Recipe)]
        for phase, own in (self.phases or {}).items():
            if unknown := [name for name in own if name not in known]:
                raise ValueError(f"expected settings of phase {phase!r} ({', '.join(known)}), found {unknown[0]!r}")
            try:
                replace(self, phases=None, **own)
            except (ValueError, TypeError) as error:
                raise ValueError(f"in phase {phase!r}: {error}") from error


def make_optimizer(
    recipe: Recipe,
    named: Iterable[tuple[str, nn.Parameter]],
    norms: Collection[str] = (),
    masks: Collection[str] = (),
) -> Optimizer:
    """A fresh optimizer over the parameters of one phase.

    Args:
        recipe: which optimizer, and its settings.
        named: what trains.
        norms: the names to which ``recipe.norm_lr`` applies, if there is one.
        masks: those to which ``recipe.mask_lr`` does.
    """
    parameters, lr, decay = dict(named), recipe.lr, recipe.weight_decay
    own = {name: rate for names, rate in ((norms, recipe.norm_lr), (masks, recipe.mask_lr)) if rate for name in names}
    rates = {name: own.get(name, lr) for name in parameters}
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in parameters.items() if rates[name] == rate], "lr": rate}
        for rate in dict.fromkeys([lr, *rates.values()])
        if rate in rates.values()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr, recipe.momentum, weight_decay=decay)
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr, weight_decay=decay)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr, weight_decay=decay)


def optimizer_of(method: Method, recipe: Recipe) -> Optimizer:
    """A fresh optimizer over what the open phase of a method offers: norms and masks at their own rates."""
    named, sites = dict(method.named_parameters()), method.sites
    norms = {name for name in sites.roles if any(is_norm(spot.module) for spot in sites.spots(name))}
    return make_optimizer(recipe, named.items(), norms, named.keys() - sites.roles.keys())


def make_schedule(recipe: Recipe, optimizer: Optimizer, steps: int) -> LRScheduler:
    """The learning rate's course over the ``steps`` of a phase.

    >>> optimizer = make_optimizer(Recipe(optimizer="sgd", schedule="cosine"), [("w", nn.Parameter(torch.ones(1)))])
    >>> make_schedule(Recipe(schedule="cosine"), optimizer, 10).get_last_lr()
    [0.001]
    """
    warm = steps * min(recipe.warmup, recipe.epochs) // recipe.epochs
    if recipe.schedule == "plateau":
        return Plateau(optimizer, warm)
    course = COURSES[recipe.schedule]

    def factor(step: int) -> float:
        return (step + 1) / warm if step < warm else course(min(step, steps) - warm, max(steps - warm, 1))

    return LambdaLR(optimizer, factor)


COURSES: dict[str, Callable[[int, int], float]] = {
    "constant": lambda done, steps: 1.0,
    "cosine": lambda done, steps: 0.5 * (1 + math.cos(math.pi * done / steps)),
    "step": lambda done, steps: 1.0 if 2 * done < steps else 0.1,
}
"""What the learning rate is multiplied by after ``done`` of ``steps`` steps."""


class Plateau(LambdaLR):
    """The rate falls to a third after 5 epochs without a lower validation loss; at a five-hundredth all is over.

    From 0.05 to 1e-4, as Serra et al. 2018 (appendix B) train HAT.

    Args:
        optimizer: whose rate it sets.
        warm: steps over which the rate first rises from 0.
    """

    PATIENCE, FACTOR, LEAST = 5, 1 / 3, 1 / 500

    def __init__(self, optimizer: Optimizer, warm: int = 0) -> None:
        self.lowest, self.waited, self.share = math.inf, 0, 1.0
        super().__init__(optimizer, lambda step: self.share * min(1.0, (step + 1) / max(warm, 1)))

    def watch(self, loss: float) -> None:
        """Take note of an epoch's validation loss."""
        self.waited = 0 if loss < self.lowest else self.waited + 1
        self.lowest = min(self.lowest, loss)
        if self.waited == self.PATIENCE:
            self.waited, self.share = 0, self.share * self.FACTOR
            for group in self.optimizer.param_groups:
                group["lr"] *= self.FACTOR

    @property
    def over(self) -> bool:
        """Whether the rate is too small for another epoch."""
        return self.share < self.LEAST


def is_adaptive(optimizer: str) -> bool:
    """Whether an optimizer's steps have the size of its rate, whatever the gradient's."""
    return optimizer != "sgd"
