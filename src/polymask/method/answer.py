"""What a network answers to the guard's small probe, always asked in one way, and whether two answers are one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymask.calling import as_read, leaves_of
from polymask.method.agreement import rounding_alike, same
from polymask.parts.seeds import seed_global
from polymask.probe import Setting, differences, probe_batch, rounding, run_probe, same_bits, setting

LARGE = 1000
"""Numbers in a row from which on one row is enough to see a change, and cheap enough to be asked at every verb."""

CRASHES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError)
"""What a network raises that was changed so that it no longer runs."""


@dataclass(frozen=True)
class Answer:
    """Logits, and the setting in which they are bit-equal."""

    logits: Tensor
    setting: Setting


def draw_probe(model: nn.Module, example: Any, seed: int) -> Any:
    """The batch of the small probe: rows like the example's, or the example where a network takes no others."""
    large = any(t.ndim > 1 and len(t) and t[0].numel() > LARGE for t in leaves_of(example))
    try:
        batch = probe_batch(example, seed, rows=1 if large else 4)
        answer_probe(model, batch)
    except CRASHES:
        return example
    return batch


def answer_probe(model: nn.Module, batch: Any) -> Answer:
    """What a network answers to a batch; its random state is always the same, and no autocast reaches it."""
    device = next(iter((*model.parameters(), *model.buffers())), torch.zeros(())).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.autocast(device.type, enabled=False):
        seed_global(0, device.type)
        # Baked or masked, a network must round in one way.
        with rounding_alike(model):
            return Answer(run_probe(model, as_read(model, batch)), setting(model, batch))


def same_answer(was: Answer, now: Answer, real: bool = False) -> bool:
    """Whether two answers are one: to the bit, or within rounding where another setting rounds otherwise.

    Args:
        was: as it was.
        now: as it is.
        real: whether masks on units multiply, which a baked network does before the sum and a masked one after it.
    """
    if same_bits(was.logits, now.logits):
        return True
    if real and same(was.logits, now.logits, real):
        return True
    changed = differences(was.setting, now.setting)
    if not changed or was.logits.shape != now.logits.shape or was.logits.dtype != now.logits.dtype:
        return False
    return torch.allclose(was.logits, now.logits, rtol=0.0, atol=rounding(was.logits, changed), equal_nan=True)
