"""Spare outputs: those of a shared head beyond every label, which the loss pushes down and no task ever answers."""

from __future__ import annotations

from torch import nn

from polymask.learning.evaluate import check_inputs
from polymask.learning.options import Refused
from polymask.streams.prepare import Feeds


def refuse_spare(spare: int, who: str, shares: bool) -> None:
    """Raise unless a run can have so many spare outputs: none, or some where its tasks share a head.

    Raises:
        Refused: if it cannot.

    >>> refuse_spare(0, "packnet", shares=False)
    >>> refuse_spare(4, "packnet", shares=False)
    Traceback (most recent call last):
    polymask.learning.options.Refused: expected tasks that share a head for spare=4, found packnet, where each has ...
    """
    if spare < 0:
        raise Refused(f"expected spare of at least 0, found {spare}")
    if spare and not shares:
        raise Refused(
            f"expected tasks that share a head for spare={spare}, found {who}, where each has a head of its own, as "
            "wide as its labels: leave spare out, or take a method with one head for all (heads='masked')"
        )


def check_spare(model: nn.Module, task: str, feeds: Feeds, spare: int, largest: int = 0) -> None:
    """Raise unless a task's loss can run over spare outputs: its targets are labels, and the head is wide enough.

    Args:
        model: the network, which answers with its whole head.
        task: the task's name.
        feeds: its data.
        spare: how many outputs there are to be beyond the labels.
        largest: how many labels the largest task has, if this is not it.

    Raises:
        Refused: if it cannot.
    """
    if not spare:
        return
    x, y = next(feeds.train.ordered(2))
    if y.is_floating_point() or y.ndim != 1:
        raise Refused(
            f"expected a label for each example beside spare outputs, found targets of {y.dtype} and shape "
            f"{tuple(y.shape[1:])} of task {task!r}, which say nothing of a spare output: leave spare out"
        )
    logits, labels = check_inputs(model, task, x), max(feeds.outputs, largest)
    if logits.ndim != 2 or logits.shape[1] < labels + spare:
        raise Refused(
            f"expected logits (rows, {labels + spare} or more), for {labels} labels and spare={spare}, found "
            f"{tuple(logits.shape)} on task {task!r}: build the network with a head that wide, or take a smaller spare"
        )
