"""A network that is full: the warning that a weight has nothing left to learn with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

Capacity = Mapping[str, Mapping[str, float]]
"""What ``Method.capacity`` reports."""


def exhausted(capacity: Capacity) -> list[str]:
    """The weights of which nothing learns any more.

    >>> exhausted({"units": {}, "free": {"a.weight": 0.0, "a.bias": 0.0, "b.weight": 0.5}})
    ['a.weight']
    """
    return [name for name, share in capacity["free"].items() if not share and not name.endswith("bias")]


def mean_free(capacity: Capacity) -> float:
    """The share of a layer that is free, for the mean layer.

    >>> mean_free({"free": {"a.weight": 0.0, "b.weight": 0.5}})
    0.25
    """
    return sum(capacity["free"].values()) / max(len(capacity["free"]), 1)


def warn_full(task: str, names: list[str]) -> None:
    """Say of which weights nothing is free after a task."""
    if names:
        warnings.warn(
            f"after task {task!r} no entry of {', '.join(names)} is free: later tasks can only reuse it. A wider "
            "layer, a larger c or fewer tasks a network would leave room",
            stacklevel=3,
        )
