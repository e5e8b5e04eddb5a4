"""What the rows share: MNIST's permutations, a run in a folder that goes on after a stop, single images, accuracy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from polymask import Stream, Task, Training, learn
from polymask.streams import make_stream
from polymask.streams.feed import Feed

EQUAL_FROM_ZERO: dict[str, Any] = {"start": "zero", "last": 1}
"""PackNet as others have it, and as rows had it before its default draws free weights anew and gives the last more."""

MNIST, TINY_IMAGENET = "ylecun/mnist", "zh-plus/tiny-imagenet"


def permutations(data_root: str | None, tasks: int, seed: int) -> Stream:
    """Permuted MNIST; a seed has its own permutations."""
    if data_root is None:
        raise SystemExit(f"expected --data-root, a folder that holds {MNIST}, found none")
    return make_stream("permuted", [MNIST], data_root=data_root, tasks=tasks, seed=seed)


def tiny_imagenet(data_root: str | None, tasks: int, size: int, seed: int) -> list[Task]:
    """Tiny ImageNet by neighbouring classes; its labelled "valid" part is the test split, as everywhere."""
    if data_root is None:
        raise SystemExit(f"expected --data-root, a folder that holds {TINY_IMAGENET}, found none")
    how = {"tasks": tasks, "size": (size, size), "seed": seed}
    stream = make_stream("split", [TINY_IMAGENET], data_root=data_root, **how)
    return [replace(task, val=None, test=task.test or task.val) for task in stream]


def some_of(feed: Feed | None, count: int, place: int) -> Tensor:
    """So many inputs of a part of a task's data: other rows for each of neighbouring places.

    Tasks may all be made of the same images, and the first ones of each would be as many copies of few.
    """
    assert feed is not None
    parts = feed.ordered(count)
    x: Tensor = next(islice(parts, place % min(97, feed.size // count), None))[0]
    return x


def points(
    model: nn.Module,
    tasks: Sequence[Task],
    method: str,
    work: Path,
    seed: int,
    training: Training,
    options: dict[str, Any] | None = None,
) -> float:
    """The average accuracy over all tasks at the end, in points of 100; an earlier call's work is used."""
    run = learn(model, tasks, method, out=work / "run", seed=seed, training=training, options=options or {})
    return 100 * float(run.report["average_accuracy"])
