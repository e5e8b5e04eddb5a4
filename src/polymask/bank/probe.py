"""Proof by behaviour, on disk: the batch of a bank's probe, and the logits and the setting that it met."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from polymask.bank.nest import flatten_state, nest_state
from polymask.bank.store import digest_of, read_tensors, write_tensors
from polymask.probe import describe, draw, run_twice, setting


def ask(folder: Path, example: Any, batch: Any, seed: int) -> dict[str, Any] | None:
    """The probe of a bank, as JSON: how it is drawn, or the file of the batch that the user gave.

    Args:
        folder: the bank's folder.
        example: an input, to draw the probe from; None: there is none.
        batch: a batch of the user's, which goes into a file; None: the probe is drawn.
        seed: the seed.
    """
    if batch is not None:
        return {"file": write_tensors(folder, flatten_state({"batch": batch}))}
    return None if example is None else {"file": None, "spec": describe(example), "seed": seed}


def batch_of(folder: Path, asked: Mapping[str, Any] | None) -> Any:
    """The batch of a bank's probe; None if it has none."""
    if asked is None:
        return None
    if asked["file"]:
        return nest_state(read_tensors(folder, asked["file"]))["batch"]
    return draw(asked["spec"], asked["seed"])


def prove(folder: Path, plain: nn.Module, batch: Any) -> dict[str, Any] | None:
    """Write the logits of a task's plain model, and note, as JSON, where and whether they are stable.

    Args:
        folder: the bank's folder.
        plain: the task's baked model.
        batch: the probe; None: there is none, and nothing to prove.
    """
    if batch is None:
        return None
    logits, stable = run_twice(plain, batch)
    return {
        "logits": write_tensors(folder, {"logits": logits}),
        "stable": stable,
        "batch": name_of(batch),
        "setting": setting(plain, batch),
    }


def name_of(batch: Any) -> str:
    """A batch's digest: another torch may draw another one from the same seed."""
    return digest_of(flatten_state({"batch": batch}))
