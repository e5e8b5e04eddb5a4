"""Proof by behaviour, on disk: the batch of a bank's probe, and the logits and the setting that it met."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from polymask.bank.store import digest_of, read_state, write_tensors
from polymask.parts.nest import flatten_state
from polymask.probe import describe, draw, run_probe, run_twice, setting
from polymask.sites.table import bake


def make_probe(model: nn.Module, example: Any, batch: Any, seed: int) -> dict[str, Any] | None:
    """The probe of a bank, as JSON: how it is drawn, or the digest of the batch that the user gave.

    Eight rows are drawn, or as many as the example has where the network takes no other number of them.

    Args:
        model: the network; it is asked on a copy.
        example: an input, to draw the probe from; None: there is none.
        batch: a batch of the user's, which goes into a file; None: the probe is drawn.
        seed: the seed.

    Raises:
        ValueError: if the network refuses what is drawn.
    """
    if batch is not None:
        return {"file": digest_of_batch(batch)}
    if example is None:
        return None
    probe = {"file": None, "spec": describe(example), "seed": seed}
    plain = bake(model)
    if _refusal(plain, _draw_batch(probe)) is None:
        return probe
    own = {**probe, "rows": "own"}
    if refusal := _refusal(plain, _draw_batch(own)):
        raise ValueError(
            f"expected a network that answers a batch drawn from the example's shapes and range, found that it refuses "
            f"({refusal}): give a batch that it takes as probe=, or example=None for no proof by behaviour"
        )
    return own


def _refusal(plain: nn.Module, batch: Any) -> str | None:
    try:
        run_probe(plain, batch)
    except (RuntimeError, ValueError, LookupError, TypeError, AssertionError, AttributeError, ArithmeticError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def write_batch(folder: Path, batch: Any) -> None:
    """Write a batch of the user's as the file that ``make_probe`` names."""
    if batch is not None:
        write_tensors(folder, flatten_state({"batch": batch}))


def batch_of(folder: Path, probe: Mapping[str, Any] | None) -> Any:
    """The batch of a bank's probe; None if it has none."""
    return probe and (read_state(folder, probe["file"])["batch"] if probe["file"] else _draw_batch(probe))


def _draw_batch(probe: Mapping[str, Any]) -> Any:
    return draw(probe["spec"], probe["seed"], None if probe.get("rows") == "own" else 8)


def prove(folder: Path, plain: nn.Module, batch: Any) -> tuple[dict[str, Any], Tensor]:
    """Write the logits of a task's plain model, and note, as JSON, where and whether they are stable.

    Args:
        folder: the bank's folder.
        plain: the task's baked model.
        batch: the probe.

    Returns:
        What was noted, and the logits.
    """
    logits, stable = run_twice(plain, batch)
    proof = {
        "logits": write_tensors(folder, {"logits": logits}),
        "stable": stable,
        "batch": digest_of_batch(batch),
        "setting": setting(plain, batch),
    }
    return proof, logits


def digest_of_batch(batch: Any) -> str:
    """A batch's digest: another torch may draw another one from the same seed."""
    return digest_of(flatten_state({"batch": batch}))
