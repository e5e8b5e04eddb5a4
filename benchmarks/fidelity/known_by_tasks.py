"""None of these? Single images that a SupSup of many permutations knows, and others, told apart by the margin."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _confused import area
from _found_by_tasks import First
from _learn import permutations, some_of
from _row import RESULTS, Target, Values, measure
from safetensors.torch import load_file, save
from supsup_inference import PROTOCOLS, learned
from torch import Tensor

from polymask import Inference, Task
from polymask.disk import write_file
from polymask.inference.infer import By
from polymask.inference.known import Calibration
from polymask.parts.seeds import generator
from polymask.streams import make_stream, prepare
from polymask.streams.view import View

FASHION = "zalando-datasets/fashion_mnist"
ASKED, MOST = 500, 50
"""About so many images of a kind, at most so many of a task."""
BY: dict[str, By] = {"G": "superfluous", "H": "entropy"}
KINDS = ("FashionMNIST", "another permutation", "noise")
COUNTS = (10, 250, 2500)
FIGURES = ("AUROC", "kept", "refused")
"""The area under the curve and the refused share of the kind of unknown images that is told apart worst, in %."""


def arms(count: int) -> list[str]:
    return [f"{tasks:,} tasks, {name}" for tasks in COUNTS if tasks <= count for name in FIGURES]


def told(values: Values) -> bool:
    """Whether known images come to more than unknown ones, whatever the number of tasks."""
    return all(min(found) >= 95 for name, found in values.items() if name.endswith("AUROC"))


TARGETS = [
    Target(
        f"supsup-known-{count}",
        "SupSup, threshold",
        f"{count:,} permutations of MNIST, the run of supsup-inference-{count}; {ASKED} single test images"
        f"{', half as many at 2,500' if count == 2500 else ''}; unknown: "
        "FashionMNIST under learned permutations, MNIST under others, noise, the worst of them; T times the gap of H; "
        "5 % refused by validation images, which had no epoch to choose: the last one was the best of every task",
        "AUROC at least 95, whatever the number of tasks",
        "specified",
        told,
        arms(count),
    )
    for count in (250, 2500)
]


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    """One figure under the first so many tasks, in %."""
    run = target.name.replace("known", "inference")
    count = int(name.partition(" ")[0].replace(",", ""))
    place = work.parent.parent / run / f"run-{seed}"
    # At 2,500 tasks an image takes a third of a second, and G tells unknown ones worse.
    found = {by: margins(run, by, seed, count, place, args.data_root) for by in (BY if count < 1000 else "H")}
    rows = [row for by in found for row in figures(by, count, found[by])]
    note(target.name, seed, rows)
    key = name.rpartition(" ")[2]
    return float(min(row[key] for row in rows if row["by"] == "H"))


def margins(run: str, by: str, seed: int, count: int, place: Path, data_root: str | None) -> dict[str, Tensor]:
    """What every image comes to, kind by kind; from a file where it was asked before."""
    path = place.parent / f"margins-{by}-{count}-{seed}.safetensors"
    if not path.exists():
        made, stream = learned(run, seed, place, data_root)
        refuse_a_choice(place)
        inference = Inference(First(made.method, count), "one-shot", BY[by])
        images = images_of(stream[:count], PROTOCOLS[run].tasks, seed, data_root)
        write_file(path, save({kind: inference(x).margin for kind, x in images.items()}))
    return load_file(path)


def images_of(tasks: Sequence[Task], all_tasks: int, seed: int, data_root: str | None) -> dict[str, Tensor]:
    """Images that calibrate, of tasks that are known, and of each kind that is not."""
    inputs = tasks[0].inputs
    clothes = make_stream("permuted", [FASHION], data_root=data_root, tasks=1, first_identity=True)[0].test
    others = permutations(data_root, all_tasks + len(tasks), seed)[all_tasks:]
    noise = torch.rand(ASKED if len(tasks) < 1000 else ASKED // 2, 1, 28, 28, generator=generator(seed, "noise"))
    parts: dict[str, Callable[[Task], Any]] = {
        "held out": lambda task: prepare(task, seed=seed).val,
        "known": lambda task: prepare(task, seed=seed).test,
        KINDS[0]: lambda task: prepare(replace(task, test=seen_as(task, clothes)), seed=seed).test,
    }
    found = {kind: torch.cat(list(of_each(tasks, part))) for kind, part in parts.items()}
    found[KINDS[1]] = torch.cat(list(of_each([replace(task, inputs=inputs) for task in others], parts["known"])))
    return {**found, KINDS[2]: (noise - inputs.mean[0]) / inputs.std[0]}


def of_each(tasks: Sequence[Task], part: Callable[[Task], Any]) -> Iterator[Tensor]:
    """Images of a part of some tasks, as many of each."""
    asked = ASKED if len(tasks) < 1000 else ASKED // 2
    step = max(1, len(tasks) // asked)
    each = min(MOST, max(1, asked // len(tasks)))
    for place in range(0, len(tasks), step):
        yield some_of(part(tasks[place]), each, place)


def seen_as(task: Task, images: Any) -> View:
    """Images through the permutation of a task."""
    assert isinstance(task.test, View)
    assert isinstance(images, View)
    return images.through(*task.test.changes)


def refuse_a_choice(place: Path) -> None:
    """End unless validation images chose nothing: of no task an earlier epoch than the last was best."""
    scores: dict[str, list[float]] = {}
    with (place / "epochs.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            scores.setdefault(row["task"], []).append(float(row["val"]))
    if chosen := [task for task, each in scores.items() if max(each) > each[-1]]:
        raise SystemExit(f"expected the last epoch to be the best of every task, found another for {chosen}")


def figures(by: str, count: int, found: dict[str, Tensor]) -> list[dict[str, Any]]:
    """A row for every kind of unknown images."""
    calibration = Calibration("one-shot", BY[by], 1, {"all": found["held out"]})

    def share(kind: str) -> float:
        known = calibration.known(found[kind])
        assert known is not None
        return 100 * float(known.float().mean())

    return [
        {
            "tasks": count,
            "by": by,
            "unknown": kind,
            "AUROC": area(found["known"], found[kind]),
            "kept": share("known"),
            "refused": 100 - share(kind),
        }
        for kind in KINDS
    ]


def note(name: str, seed: int, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to NAME.csv beside the results, in place of earlier ones of the same seed, tasks and objective."""
    path, key = RESULTS / f"{name}.csv", ("seed", "tasks", "by", "unknown")
    new = [{"seed": seed, **row, **{figure: f"{row[figure]:.2f}" for figure in FIGURES}} for row in rows]
    every: dict[tuple[str, ...], dict[str, Any]] = {}
    if path.exists():
        with path.open(newline="") as file:
            every = {tuple(row[k] for k in key): row for row in csv.DictReader(file)}
    every |= {tuple(str(row[k]) for k in key): row for row in new}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(new[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(every.values())


if __name__ == "__main__":
    measure(__doc__ or "", TARGETS, arm)
