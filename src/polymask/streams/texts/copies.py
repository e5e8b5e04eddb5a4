"""Texts that stand in two parts of a task: what was learned by heart must not be asked as if it were new."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from warnings import warn

from polymask.streams.stream import Task

MANY = 0.5
"""Which share of a part may stand among the training texts without a word: short texts come twice by nature."""


def without_copies(task: Task) -> Task:
    """A task whose training texts stand in no other part.

    Raises:
        ValueError: none is left.

    >>> task = Task("toy", (["a", "b"], ["x", "y"]), (["b"], ["y"]), labels=["x", "y"])
    >>> without_copies(task).train
    (['a'], ['x'])
    """
    asked = {text for part in (task.val, task.test) for text in _texts(part)}
    data: Any = task.train
    texts, labels = data
    kept = [place for place, text in enumerate(texts) if text not in asked]
    if not kept:
        raise ValueError(
            f"expected training texts of task {task.name!r} of their own, found all of them in other parts"
        )
    return replace(task, train=([texts[place] for place in kept], [labels[place] for place in kept]))


def warn_of_copies(task: Task) -> None:
    """Warn where half of a part or more stands among the training texts.

    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as said:
    ...     warnings.simplefilter("always")
    ...     warn_of_copies(Task("toy", (["a", "b"], ["x", "y"]), (["b"], ["y"]), labels=["x", "y"]))
    >>> str(said[0].message)[:58]
    "1 of 1 texts of val of task 'toy' are training texts too: "
    """
    learned = set(_texts(task.train))
    for part in ("val", "test"):
        asked = _texts(getattr(task, part))
        twice = sum(text in learned for text in asked)
        if asked and twice >= MANY * len(asked):
            warn(
                f"{twice} of {len(asked)} texts of {part} of task {task.name!r} are training texts too: what is "
                "measured there is partly learned by heart; leave them out of one of the two",
                stacklevel=2,
            )


def _texts(part: Any) -> list[Any]:
    """The texts of a part; of one that is missing none."""
    return [] if part is None else list(part[0])
