"""Metrics of a network on a split of a task: every row once, in evaluation mode, over all of its logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from polymask.calling import as_read, call, logits_of
from polymask.learning.objective import Objective, accuracy, constant_answer
from polymask.probe import run_probe
from polymask.report.measured import Measured
from polymask.streams.feed import Feed
from polymask.streams.prepare import Feeds

Judge = Callable[[Tensor, Tensor], float | Tensor]


@torch.no_grad()
def evaluate(model: nn.Module, feed: Feed, judges: Sequence[Judge], outputs: int, batch_size: int) -> list[float]:
    """Metrics or losses of a model on one split, each row read once, in order, in evaluation mode."""
    logits, targets = logits_of_split(model, feed.ordered(max(batch_size, 512)))
    return [float(judge(own_outputs(logits, outputs), targets)) for judge in judges]


def score(model: nn.Module, feeds: Feeds, objective: Objective, setting: str = "") -> Measured:
    """The metrics of a model on the part that scores are of; of an accuracy also what chance is there."""
    split, feed = feeds.scored
    judges = [objective.metric, constant_answer, *objective.also.values()]
    value, chance, *others = evaluate(model, feed, judges, feeds.outputs, 512)
    known = objective.metric is accuracy and not math.isnan(chance)
    also = dict(zip(objective.also, others, strict=True))
    return Measured(value, split, setting, feed.size, chance if known else None, also)


def own_outputs(logits: Tensor, outputs: int) -> Tensor:
    """The logits ``(N, width)`` of a task's own outputs, where a shared head is wider.

    >>> own_outputs(torch.zeros(3, 5), 2).shape
    torch.Size([3, 2])
    """
    return logits[:, :outputs] if logits.ndim == 2 else logits


@torch.no_grad()
def logits_of_split(model: nn.Module, batches: Iterator[tuple[Any, Tensor]]) -> tuple[Tensor, Tensor]:
    """All logits and targets of a split, in float32 and in evaluation mode."""
    was = model.training
    model.eval()
    with parametrize.cached():
        pairs = [(logits_of(call(model, as_read(model, x))).float(), y) for x, y in batches]
    model.train(was)
    return torch.cat([logits for logits, _ in pairs]), torch.cat([y for _, y in pairs])


def check_inputs(model: nn.Module, task: str, example: Any) -> Tensor:
    """What a network answers to a task's inputs; raise a ``ValueError`` unless it accepts them."""
    try:
        return run_probe(model, as_read(model, example))
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        raise ValueError(
            f"expected inputs of task {task!r} that the network accepts, found such that it refuses ({error}): bring "
            "them to its shape (--size and --channels; from Python inputs=Inputs(size=...)), or take another network"
        ) from error
