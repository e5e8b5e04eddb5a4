"""Thirty tasks of two classes on a narrow ResNet-18: is a shortlist as right as asking all of them, and faster?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from _learn import TINY_IMAGENET
from _row import Target, measure
from torch import Tensor

from polymask import Inference, Task, Training, learn
from polymask.inference.beside import shortlist_in, statistics_in
from polymask.learning.learn import Learned
from polymask.nets import build_net
from polymask.streams import make_stream, prepare

TASKS, ASKED, WIDTH, SIZE = 30, 20, 20, 32
COUNTS = (8, 5, 4)
ARMS = ("all", *(f"{count} asked" for count in COUNTS), "first alone", *(f"time of {count}" for count in COUNTS))
"""Single images whose task is found by statistics of all tasks, of the nearest few, and of the first stage alone, in
%; the time that a few take by that of all, in %."""


def holds(values: Mapping[str, list[float]]) -> bool:
    """Whether some count loses little and takes a fifth of the time, where all find a task more often than chance."""
    every = mean(values["all"])
    return every > 2 * 100 / TASKS and any(
        every - mean(values[f"{count} asked"]) <= 2 and mean(values[f"time of {count}"]) <= 20 for count in COUNTS
    )


TARGETS = [
    Target(
        "shortlist",
        "SupSup, threshold",
        f"{TASKS} tasks of 2 classes of Tiny ImageNet, ResNet-18 of width {WIDTH}, norms of the task's own, "
        f"{SIZE} x {SIZE}, Adam 1e-2; {ASKED} single images of each task; the time of a few by that of all",
        "a shortlist within 2 points of all tasks, in a fifth of their time",
        "specified",
        holds,
        ARMS,
        reduced="3 epochs of 800 images a task",
    )
]


def learned(seed: int, place: Path, data_root: str | None) -> tuple[Learned, Any]:
    if data_root is None:
        raise SystemExit(f"expected --data-root, a folder that holds {TINY_IMAGENET}, found none")
    groups = [[2 * k, 2 * k + 1] for k in range(TASKS)]
    stream = make_stream("split", [TINY_IMAGENET], data_root=data_root, tasks=groups, size=(SIZE, SIZE))
    net = build_net("resnet18", (3, SIZE, SIZE), 2, width=WIDTH, seed=seed)
    training = Training(
        epochs=3,
        lr=1e-2,
        batch_size=64,
        device="cpu",
        val_fraction=0.2,
        calibration_fraction=0.5,
        save_every=20,
        quiet=True,
    )
    how = {"select": "threshold", "heads": "private"}
    return learn(net, stream, "supsup", out=place, seed=seed, training=training, options=how), stream


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    """A share of images in %, or the ratio of times in %, the median over images."""
    place = work.parent / f"run-{seed}"
    run, stream = learned(seed, place, args.data_root)
    records = run.method.records
    statistics, few = statistics_in(place, records), shortlist_in(place, records)
    assert few is not None
    asks = {"all": Inference(run.method, "statistics", statistics=statistics)}
    for count in COUNTS:
        listed = replace(few, count=count)
        asks[str(count)] = Inference(run.method, "statistics", statistics=statistics, shortlist=listed)
    images = {task.name: some_of(task, seed) for task in stream}
    kind = name.split(" ")
    if kind[0] == "time":
        return 100 * ratio(asks[kind[-1]], asks["all"], next(iter(images.values())))
    found, first = [], run.method.plain(few.reference)
    for task, x in images.items():
        if name == "first alone":
            _, near = few.chosen(first, x, tuple(records), together=False)
            found += [list(records)[place] == task for place in near.argmax(-1).tolist()]
        else:
            found += [choice == task for choice in asks[kind[0]](x).choice]
    return 100 * sum(found) / len(found)


def some_of(task: Task, seed: int) -> Tensor:
    """Test images of a task, as the network reads them."""
    test = prepare(task, seed=seed).test
    assert test is not None
    x: Tensor = next(test.ordered(ASKED))[0]
    return x


def ratio(one: Inference, other: Inference, x: Tensor) -> float:
    """How long one takes for a single image by what the other takes, in turns; the median."""
    found = []
    for row in x[:10]:
        times = []
        for inference in (one, other):
            start = time.perf_counter()
            inference(row[None])
            times.append(time.perf_counter() - start)
        found.append(times[0] / times[1])
    return sorted(found)[len(found) // 2]


if __name__ == "__main__":
    measure(__doc__ or "", TARGETS, arm)
