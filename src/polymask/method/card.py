"""What a method says about itself, declared once on its class: the field's taxonomy, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Card:
    """A method in the field's terms; every table of methods is generated from these.

    Args:
        source: authors and year.
        masks: what is masked: "weight", "kernel", "unit", or "-".
        values: the mask's values.
        chosen: how the mask comes about: "learned" or by which rule.
        backbone: what becomes of the shared weights: "frozen", "trained", "grown", "private".
        overlap: how the masks of two tasks may overlap.
        sparsity: what makes a mask sparse.
        scenarios: task identity given (G) or not (N) at training and test, of those the method was made for.
        stores: what a task stores besides its head.
        exact: whether finished tasks keep their logits to the bit.
    """

    source: str
    masks: str
    values: str
    chosen: str
    backbone: str
    overlap: str
    sparsity: str
    scenarios: tuple[str, ...]
    stores: str
    exact: bool | float | None


@dataclass(frozen=True)
class Recipe:
    """How a phase is trained unless the caller says otherwise.

    Args:
        optimizer: which of torch's optimizers.
        lr: its learning rate.
        norm_lr: that of the norms, where they train; None: the same.
        mask_lr: that of what masks are made of, scores and gates; None: the same.
        epochs: passes over the training split.
        batch_size: examples a step.
        momentum: of SGD.
        weight_decay: of the optimizer.
        schedule: "constant", "cosine" down to 0 over the phase, "step": a tenth from its half on, or "plateau": a third
            after 5 epochs without a lower validation loss, to the end at a five-hundredth.
        warmup: epochs over which the learning rate first rises from 0; the schedule has the rest.
    """

    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "adam"
    lr: float = 1e-3
    norm_lr: float | None = None
    mask_lr: float | None = None
    epochs: int = 15
    batch_size: int = 32
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "step", "plateau"] = "constant"
    warmup: int = 0
