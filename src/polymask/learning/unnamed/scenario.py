"""What a run scores where nobody says at test which task an input is of: GNu and GNs beside GG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from polymask.calling import as_read, call, logits_of
from polymask.inference.infer import By, Inference, Way
from polymask.learning.evaluate import own_outputs
from polymask.learning.objective import Objective, accuracy
from polymask.learning.options import Refused
from polymask.learning.watch.twin import Twin
from polymask.method.contract import Method
from polymask.streams.prepare import Feeds
from polymask.streams.stream import Task

if TYPE_CHECKING:
    from polymask.learning.setup import Setup

Scenario = Literal["GG", "GNu", "GNs"]
"""Tasks named at training and at test; at training alone, labels unshared, or shared (Wortsman et al. 2020)."""
ASKED = ("GNu", "GNs")
"""Those in which it has to be found out which task an input is of."""
ROWS = 128
"""Inputs of one task that are asked about together, as in the paper."""


def check_scenario(scenario: str | None, labels: Sequence[Sequence[str] | None], objective: Objective) -> None:
    """Raise unless tasks with these names of labels can be scored so.

    Raises:
        Refused: for an unknown scenario, one of no accuracy, or shared labels of tasks that have others.
    """
    if scenario not in (None, "GG", *ASKED):
        raise Refused(f"expected a scenario of GG, GNu or GNs, found {scenario!r}")
    if scenario in ASKED and objective.metric is not accuracy:
        raise Refused(
            f"expected accuracy to be scored in {scenario}, found {objective.metric_name}: leave scenario out"
        )
    if scenario == "GNs" and len({tuple(names or ()) for names in labels}) > 1:
        raise Refused(
            "expected tasks with the same labels for GNs, where a label counts whatever the task, found others: GNu "
            "scores such"
        )


def refuse_joint(scenario: str | None, joint: bool) -> None:
    """Raise where one network learns all tasks at once, and has no masks to ask by.

    Raises:
        Refused: for a scenario in which tasks are not named.
    """
    if joint and scenario in ASKED:
        raise Refused(f"expected a method with masks for the scenario {scenario}, found joint training: leave it out")


def score_scenario(method: Method, tasks: Sequence[Task], setup: Setup) -> dict[str, Any]:
    """What a run scores in its scenario; nothing where tasks are named."""
    if setup.scenario not in ASKED:
        return {}
    open_feeds = partial(setup.open, seed=method.seed)
    return score_unnamed(method, tasks, open_feeds, setup.scenario, by="superfluous" if setup.spare else None)


def score_unnamed(
    method: Method,
    tasks: Sequence[Task],
    open_feeds: Callable[[Task], Feeds],
    scenario: Scenario,
    *,
    rows: int = ROWS,
    way: Way | None = None,
    by: By | None = None,
) -> dict[str, Any]:
    """Accuracies over the part that scores are of, in batches of one task each: which it is is asked once a batch.

    "inference" is the share of batches whose task was found, "given" the accuracy with the task named, "inferred" that
    under the task found: of GNu a batch of another task scores 0, of GNs its labels count (SupSup, Wortsman et al.
    2020, table 1).

    Args:
        method: the learner.
        tasks: the finished tasks.
        open_feeds: opens a task's data.
        scenario: which.
        rows: inputs that are asked about together.
        way: how to ask, see ``Inference``; None: as fits the tasks.
        by: what tells the right task in a mixture; None: the entropy.
    """
    way = way or Inference(method).way
    inference, twin = Inference(method, way, None if way == "every-mask" else by), Twin(method)
    each: dict[str, dict[str, float]] = {}
    for task in tasks:
        feed, found = open_feeds(task).scored[1], []
        for x, y in feed.ordered(rows):
            choice = inference(x, together=True).choice[0]
            given = _right(twin, method, task.name, x, y)
            right = given if choice == task.name else 0 * given
            if scenario == "GNs" and choice != task.name:
                right = _right(twin, method, choice, x, y)
            found.append((float(choice == task.name), float(given.sum()), float(right.sum()), len(y)))
        named, given_right, right_found, count = (sum(column) for column in zip(*found, strict=True))
        shares = {"inference": named / len(found), "inferred": right_found / count, "given": given_right / count}
        each[task.name] = shares
    means = {key: mean(one[key] for one in each.values()) for key in ("inference", "inferred", "given")}
    about = {"scenario": scenario, "way": inference.way, "by": inference.by, "rows": rows}
    return {**about, **means, "per_task": each}


@torch.no_grad()
def _right(twin: Twin, method: Method, task: str, x: Any, y: Tensor) -> Tensor:
    """Which rows one task labels rightly."""
    network = twin.answering(task)
    logits = own_outputs(logits_of(call(network, as_read(network, x))), method.records[task].meta.outputs)
    return (logits.argmax(-1) == y).double()
