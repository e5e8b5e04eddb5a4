"""Joint training: for every prefix of a stream a fresh network, trained on all of its tasks at once."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from torch import nn

from polymask.learning import folder as files
from polymask.learning.config import description
from polymask.learning.fabric import make_fabric
from polymask.learning.joint.union import Union, learn_union
from polymask.learning.log.journal import Journal
from polymask.learning.log.loggers import makers
from polymask.learning.objective import Objective
from polymask.learning.results import Results
from polymask.learning.setup import Setup
from polymask.learning.training import Training
from polymask.method.card import Recipe
from polymask.report.metrics import as_json
from polymask.sites.roles import head_of
from polymask.streams.prepare import Feeds
from polymask.streams.stream import Task

RECIPE = Recipe()
WITHOUT = {
    "calibration_fraction": "its networks have no masks to tell tasks apart by",
    "private_bits": "no task of it is stored",
    "mask_lr": "its networks have no masks",
}
"""What joint training has no use for, and why."""


def learn_joint(
    model: nn.Module,
    tasks: Sequence[Task],
    *,
    out: str | Path | None = None,
    seed: int = 0,
    training: Training | None = None,
    objective: Objective | None = None,
    head: str | None = None,
    example: Any = None,
    prefixes: Literal["all", "last"] = "all",
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train on the union of tasks 1..t, for every t; what sequential learning is measured against.

    Row ``t`` of the accuracy matrix belongs to a network of its own, a fresh copy of ``model`` with a head per task.
    With ``out``, finished prefixes are not trained again.

    Args:
        model: any module; left as it is.
        tasks: a stream, or any sequence of tasks.
        out: the run's folder: results.json, config.yaml and epochs.csv; None: nothing is written.
        seed: key of every random draw.
        training: epochs, optimizer, device and so on; what is None follows the baselines' recipe.
        objective: loss and metric; None: cross entropy and accuracy.
        head: the name of the head module; None: the last weight read before the output.
        example: an input that the model accepts; None: the first inputs of the first task.
        prefixes: "all", or "last": the whole stream alone.
        config: what config.yaml says; JSON.

    Returns:
        What ``results.json`` says.

    Raises:
        ValueError: for more than one device, for what only masks or banks have, or a folder of another configuration.

    >>> from polymask.nets import MLP
    >>> from polymask.streams.images import digits
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> report = learn_joint(MLP(64, (32,), 2), digits(5)[:2], training=Training(epochs=3))
    >>> report["average_accuracy"] > 0.9, report["accuracy"][0][1]
    (True, None)
    """
    training, objective = training or Training(), objective or Objective()
    training.check_phases("joint training", ())
    if training.devices > 1:
        raise ValueError(f"expected one device for joint training, found {training.devices}: leave --devices out")
    for name, why in WITHOUT.items():
        if (value := getattr(training, name)) is not None:
            raise ValueError(
                f"expected no {name.replace('_', ' ')} for joint training, found {value}: {why}, leave "
                f"--{name.replace('_', '-')} out"
            )
    path, names = None if out is None else Path(out), [task.name for task in tasks]
    about = description("joint", tasks, seed, {"prefixes": prefixes}, objective, type(model).__name__)
    with ExitStack() as stack:
        if path is not None:
            stack.enter_context(files.locked(path))
            files.check(path, config or about)
        fabric = make_fabric(training)
        setup = Setup(training, objective, fabric, loggers=makers(training.logger, path))
        feeds = [setup.open(task, seed) for task in tasks]
        example = feeds[0].example() if example is None else example
        place = head_of(model.to(fabric.device), example, head)
        results = Results(names, higher_is_better=objective.higher_is_better)
        if path is not None:
            files.claim(path, config or about)
            if earlier := files.read_results(path):
                results = Results.from_json(earlier, names, objective.higher_is_better)
        todo = [name for name in (names if prefixes == "all" else names[-1:]) if name not in results.rows]
        epochs = len(todo) * training.over(RECIPE).epochs
        screen, params = setup.screen(epochs, len(todo)), {**about, **asdict(training)}
        is_past = lambda task, *_: task in results.rows  # noqa: E731
        journal = stack.enter_context(Journal(path, screen, is_past, setup.loggers, params))
        for name in todo:
            start, count = time.perf_counter(), names.index(name) + 1
            union = Union(fabric, names[:count], feeds[:count], training.over(RECIPE), training, objective, seed)
            found = learn_union(copy.deepcopy(model), place, union, journal)
            results.add(name, found)
            results.seconds[name] = time.perf_counter() - start
            screen.phase(todo.index(name) + 1, name, "joint", found[name].value, results.seconds[name])
            journal.score(name, f"{found[name].split} {objective.metric_name}", found[name].value, count)
            if path is not None:
                files.write_results(path, whole_report(results, about, model, place, feeds))
    return whole_report(results, about, model, place, feeds)


def whole_report(
    results: Results, about: Mapping[str, Any], model: nn.Module, place: str, feeds: Sequence[Feeds]
) -> dict[str, Any]:
    """The report, with the bytes that one network and its heads take; nothing drifts, as nothing is learned later."""
    inside = f"{place}."
    state = model.state_dict()
    body = sum(t.numel() * t.element_size() for name, t in state.items() if not name.startswith(inside))
    head = [t for name, t in state.items() if name.startswith(inside)]
    per_task = {
        task: sum(feed.outputs * t[0].numel() * t.element_size() for t in head if t.ndim)
        for task, feed in zip(results.tasks, feeds, strict=True)
    }
    report = results.as_json(about, {"backbone": body, "per_task": per_task})
    last = results.rows.get(results.tasks[-1])
    if last is not None:
        report["average_accuracy"] = as_json(sum(entry.value for entry in last.values()) / len(last))
    return report
