"""HAT's forgetting ratio over a stream of data sets: MNIST, FashionMNIST and CIFAR-10 (JPEG) on its AlexNet."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from _learn import MNIST, points
from _row import Target, measure
from torch import nn

from polymask import Task, Training, learn
from polymask.disk import write_file
from polymask.learning.evaluate import evaluate
from polymask.learning.joint.prefixes import learn_joint
from polymask.learning.objective import Objective
from polymask.nets import build_net
from polymask.parts.seeds import generator
from polymask.report.metrics import hat_forgetting_ratio
from polymask.streams import prepare
from polymask.streams.images import load_images

NAMES = (MNIST, "zalando-datasets/fashion_mnist", "local/cifar10-jpeg")
ORDERS = ((0, 1, 2), (1, 2, 0), (2, 0, 1))
EXAMPLES, EPOCHS = 5000, 15
PARTS: dict[str, tuple[str, dict[str, Any], int]] = {
    "HAT": ("hat", {}, 1),
    "independent": ("independent", {}, 1),
    "HAT, c 0": ("hat", {"c": 0.0}, 1),
    "HAT, more epochs": ("hat", {}, 3),
}
"""Arm -> method, options, times the epochs."""
TARGETS = [
    Target(
        "three-data-sets-hat",
        "HAT",
        "MNIST, FashionMNIST and CIFAR-10 (JPEG) as three tasks in three orders, HAT's AlexNet without biases before "
        "its head, SGD .05, a third on a plateau, batch 64, s_max 400, c 0.75; against joint training of each prefix "
        "and an untrained network",
        "forgetting ratio up to task 2: -0.02 (eight data sets); up to task 8: -0.06",
        "published",
        lambda values: abs(mean(values["up to task 2"]) + 0.02) <= 0.05,
        ("up to task 2", "up to task 3"),
        reduced=f"three data sets instead of eight, CIFAR-10 as JPEG, {EXAMPLES} training images each, {EPOCHS} epochs "
        "instead of at most 200, three orders instead of ten (the seeds are the orders)",
    ),
    Target(
        "three-data-sets-hat-parts",
        "HAT",
        f"CIFAR-10 (JPEG) alone, {EXAMPLES} training images, the network and training of three-data-sets-hat; "
        f"{EPOCHS} epochs, or three times as many; without a penalty on gates; without gates",
        "which part of the distance gates, their penalty and epochs take before a second task comes is reported",
        "specified",
        None,
        tuple(PARTS),
    ),
]
TRAINING = Training(
    epochs=EPOCHS,
    optimizer="sgd",
    lr=0.05,
    momentum=0.0,
    batch_size=64,
    schedule="plateau",
    device="cpu",
    val_fraction=0.15,
    save_every=20,
)


def network(seed: int) -> nn.Module:
    return build_net("alexnet", (3, 32, 32), 10, norm=False, seed=seed)


def tasks_of(seed: int, data_root: str | None) -> list[Task]:
    """The data sets in an order, with some of their training images."""
    if data_root is None:
        raise SystemExit(f"expected --data-root, a folder that holds {', '.join(NAMES)}, found none")
    found = []
    for place in ORDERS[seed]:
        task = load_images(NAMES[place], data_root, size=(32, 32), channels=3)
        x, y = task.train
        rows = torch.randperm(len(y), generator=generator(seed, task.name))[:EXAMPLES]
        found.append(replace(task, train=(x[rows], y[rows])))
    return found


def untrained(seed: int, tasks: list[Task]) -> list[float]:
    """The test accuracy of every task before any training."""
    net = network(seed)
    feeds = [prepare(task, seed=seed) for task in tasks]
    return [evaluate(net, feed.test or feed.val, [Objective().metric], 10, 512)[0] for feed in feeds]


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    if target.name.endswith("parts"):
        return alone(name, seed, work, args)
    shared, tasks, last = work.parents[1] / "three-data-sets-runs", tasks_of(seed, args.data_root), int(name[-1])
    how: dict[str, Any] = {"seed": seed, "training": replace(TRAINING, device=args.device)}
    place = f"{seed}-{args.device}"
    ours = kept(shared / f"hat-{place}", lambda out: learn(network(seed), tasks, "hat", out=out, **how).report)
    joint = kept(shared / f"joint-{place}", lambda out: learn_joint(network(seed), tasks, out=out, **how))
    return hat_forgetting_ratio(ours[last - 1][:last], untrained(seed, tasks)[:last], joint[last - 1][:last])


def alone(name: str, seed: int, work: Path, args: Any) -> float:
    """The accuracy on CIFAR-10 of a network that learns nothing else."""
    method, own, times = PARTS[name]
    (cifar,) = [task for task in tasks_of(seed, args.data_root) if "cifar" in task.name]
    training = replace(TRAINING, device=args.device, epochs=times * EPOCHS)
    return points(network(seed), [cifar], method, work, seed, training, own)


def kept(folder: Path, run: Callable[[Path], Mapping[str, Any]]) -> list[list[float]]:
    """The accuracies of a run, from the file that its first end left behind; the rows share runs."""
    file = folder.with_suffix(".json")
    if not file.exists():
        write_file(file, json.dumps(run(folder)["accuracy"]).encode())
    found: list[list[float]] = json.loads(file.read_text())
    return found


if __name__ == "__main__":
    measure(__doc__, TARGETS, arm, gpu=True)
