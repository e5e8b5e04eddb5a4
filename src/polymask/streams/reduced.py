"""Fewer examples of a task, drawn class by class: rows of many data sets are sorted by their labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.utils.data import Subset

from polymask.streams.holdout import drawn
from polymask.streams.reading import known_labels, open_parts, read_labels
from polymask.streams.stream import Task
from polymask.streams.texts.fewer import some_texts
from polymask.streams.texts.text import holds_texts
from polymask.streams.view import View


def reduced(task: Task, examples: int | None, seed: int) -> Task:
    """A task with at most so many examples to train on and to choose by; the test part stays whole.

    Args:
        task: whose.
        examples: how many; None: all.
        seed: the choice is drawn from (seed, task name), a share of each class.

    Raises:
        ValueError: there are fewer than one for each class.

    >>> import torch
    >>> task = Task("toy", (torch.rand(9, 2), torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1])))
    >>> reduced(task, 3, seed=0).train.y.tolist()
    [0, 0, 1]
    """
    if examples is None:
        return task
    key = (seed, task.name, "examples")
    if holds_texts(task.train[0]) if isinstance(task.train, tuple) else False:
        # before they are tokenised, which takes longer than all else
        parts = {part: data for part in ("train", "val") if (data := getattr(task, part)) is not None}
        return replace(task, **{part: some_texts(data, task, part, examples, key) for part, data in parts.items()})
    views, inputs, labels = open_parts(task, cache=False)
    found: dict[str, Any] = {}
    for part, source in views.items():
        if part == "test" or len(source) <= examples:  # type: ignore[arg-type]
            found[part] = source
            continue
        y = known_labels(source)
        rows = drawn(read_labels(source, 0) if y is None else y, examples, (*key, part))
        found[part] = source.take(rows) if isinstance(source, View) else Subset(source, rows.tolist())
    return replace(task, labels=labels, inputs=inputs, **found)
