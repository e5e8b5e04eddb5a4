"""Fewer texts of a task, chosen before they are tokenised."""

from __future__ import annotations

from typing import Any

from polymask.streams.holdout import drawn
from polymask.streams.reading import numbered
from polymask.streams.stream import Task


def some_texts(data: Any, task: Task, part: str, examples: int, key: tuple[object, ...]) -> Any:
    """So many texts of a part and their labels."""
    (texts, y), _ = numbered(data, None if task.labels is None else tuple(task.labels), task.name, part)
    if len(texts) <= examples:
        return data
    rows = drawn(y, examples, (*key, part)).tolist()
    return [texts[row] for row in rows], [data[1][row] for row in rows]
