"""Devices, precision and processes, from the run's settings."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision.amp import MixedPrecision
from lightning_fabric.plugins.precision.precision import Precision
from lightning_fabric.strategies.ddp import DDPStrategy

from polymask.learning.training import Training

HERE: dict[str, Callable[[], bool]] = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}


def make_fabric(training: Training) -> Fabric:
    """A launched Fabric; with several devices every process runs the same program.

    Slots are equal on all processes, so DDP does not broadcast buffers in every forward.

    Raises:
        ValueError: for a device that this machine does not have, or a precision that the device does not have.
    """
    accelerator = training.device
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator in HERE and not HERE[accelerator]():
        raise ValueError(f"expected a device that this machine has, found {accelerator!r}: leave the device out")
    if accelerator == "cpu" and training.precision == "16-mixed":
        raise ValueError(
            "expected a precision that a CPU has, found 16-mixed: use bf16-mixed, or a GPU (device='cuda')"
        )
    strategy = DDPStrategy(broadcast_buffers=False) if training.devices > 1 else "auto"
    with warnings.catch_warnings():
        # Fabric tells what precision it uses by a warning-like banner and warns of idle GPUs; neither is news here.
        warnings.simplefilter("ignore")
        fabric = Fabric(
            accelerator=accelerator, devices=training.devices, strategy=strategy, precision=training.precision
        )
        if training.devices > 1:
            fabric.launch()
    return fabric


def precision_of(fabric: Fabric) -> Precision:
    """What casts weights, inputs and losses; Fabric keeps it to itself, and tells no other way what it does."""
    precision: Precision = fabric._precision
    return precision


def is_bare(fabric: Fabric) -> bool:
    """Whether a bare module computes the same: one process, float32. Fabric's wrapper costs 7 % of a small step."""
    return fabric.world_size == 1 and type(precision_of(fabric)) is Precision


def fresh_precision(fabric: Fabric) -> Precision:
    """The precision with its loss scale as at the start, so that a phase does not depend on those before it."""
    precision = precision_of(fabric)
    if isinstance(precision, MixedPrecision) and precision.scaler is not None:
        precision.scaler = torch.amp.GradScaler(precision.device)
    return precision
