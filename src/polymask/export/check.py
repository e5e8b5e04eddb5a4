"""What was written is loaded again and asked: no file stays that answers otherwise than the task does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymask.calling import as_read, leaves_of
from polymask.export.answer import Answer, Form
from polymask.probe import rounding, run_probe
from polymask.streams.inputs import Inputs


@dataclass(frozen=True)
class Checked:
    """How what was written compares with the task.

    Args:
        by: who answered.
        difference: the largest of any logit.
        tolerance: what it may be: ``sqrt(eps) * max(1, max |logits|)``.
        shapes: of the batches that were asked.
    """

    by: str
    difference: float
    tolerance: float
    shapes: Sequence[Sequence[int]]

    def __str__(self) -> str:
        shapes = ", ".join(str(tuple(shape)) for shape in self.shapes)
        difference = f"largest difference {self.difference:.2g} (tolerance {self.tolerance:.2g})"
        return f"checked: {self.by} on {shapes}, {difference}"


@dataclass(frozen=True)
class Reference:
    """What a task answers to raw inputs: prepared by the record's own rule, its whole network, its outputs.

    Args:
        plain: the task's network, as the bank has it.
        outputs: how many it has.
        prepare: how inputs are prepared; None: they are.
    """

    plain: nn.Module
    outputs: int
    prepare: Inputs | None

    def __call__(self, x: Any) -> Tensor:
        """The logits."""
        logits = run_probe(self.plain, as_read(self.plain, x if self.prepare is None else self.prepare(x)))
        return logits[:, : self.outputs] if logits.ndim == 2 else logits


def compare(reference: Reference, form: Form, by: str, answer: Callable[[Sequence[Tensor]], Tensor]) -> Checked:
    """Ask the task and what was written of it, under several batches.

    Args:
        reference: the task.
        form: of the inputs.
        by: who answers.
        answer: what was written, loaded again.

    Raises:
        ValueError: if any answer differs by more than rounding.
    """
    worst, tolerance, shapes = 0.0, 0.0, []
    for x in form.batches():
        expected, found = reference(x), answer(leaves_of(x))
        difference, most = gap(expected, found), rounding(expected, "")
        if not difference <= most:
            raise ValueError(
                f"expected {by} to answer as the task does, within {most:.2g}, found one {difference:.2g} off; "
                "no file is written: leave --fold and --prune out if they were given, or choose another --to"
            )
        worst, tolerance = max(worst, difference), max(tolerance, most)
        shapes.append(list(leaves_of(x)[0].shape))
    return Checked(by, worst, tolerance, shapes)


def gap(expected: Tensor, found: Tensor) -> float:
    """The largest difference of any logit; infinity where the shapes differ, NaN where only one of two is a number.

    >>> gap(torch.tensor([1.0, float("inf")]), torch.tensor([1.5, float("inf")]))
    0.5
    """
    if expected.shape != found.shape:
        return float("inf")
    # Equal infinities differ by nothing, though their difference is no number.
    same = (expected == found) | (expected.isnan() & found.isnan())
    return float(torch.where(same, 0.0, (expected.double() - found.double()).abs()).max()) if expected.numel() else 0.0


def by_network(network: Answer) -> Callable[[Sequence[Tensor]], Tensor]:
    """A network in this process as what was written."""

    def run(leaves: Sequence[Tensor]) -> Tensor:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            answer: Tensor = network(*leaves)
        return answer

    return run
