"""Four domains as grey images of 32 x 32, one of them in seven groups of classes, and inputs that are of none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from _learn import TINY_IMAGENET
from torch import Tensor

from polymask import Task
from polymask.parts.seeds import generator
from polymask.streams import prepare
from polymask.streams.images import load_images
from polymask.streams.inputs import Inputs

DOMAINS = ("MNIST", "FashionMNIST", "CIFAR-10 (JPEG)", "Tiny ImageNet")
WHOLE = ("ylecun/mnist", "zalando-datasets/fashion_mnist", "local/cifar10-jpeg")
GROUPS, CLASSES = 7, 10
"""Tasks of so many neighbouring classes of Tiny ImageNet; the next group of classes is never learned."""
SIZE = (32, 32)
TRAIN, TEST, HELD_OUT = 3000, 160, 50
"""Images of a task: with its validation part; asked about, whole batches of them; by which ways are chosen."""
VALIDATION, CALIBRATION = 0.2, 0.5
INPUTS = Inputs(mean=(0.5,), std=(0.5,), size=SIZE, channels=1)
"""The same for all tasks: normalised by its data set's own numbers, an image would say where it comes from."""
NOVEL, PERMUTED, NOISE = "classes never learned", "permuted pixels", "noise"


@dataclass(frozen=True)
class Images:
    """What is asked about and what it is asked by, as the network reads it.

    Args:
        train: task -> images and labels.
        held_out: likewise, of the half of the validation part that chose no epoch.
        test: likewise.
        unknown: kind -> images that are of no task.
    """

    train: Mapping[str, tuple[Tensor, Tensor]]
    held_out: Mapping[str, tuple[Tensor, Tensor]]
    test: Mapping[str, tuple[Tensor, Tensor]]
    unknown: Mapping[str, Tensor]

    @property
    def asked(self) -> dict[str, Tensor]:
        """All images that are asked about, one by one."""
        held_out, test = (torch.cat([x for x, _ in part.values()]) for part in (self.held_out, self.test))
        return {"test": test, "held out": held_out, **self.unknown}


@cache
def source(name: str, data_root: str) -> Task:
    return load_images(name, data_root, size=SIZE, channels=1)


def group(data_root: str, first: int, count: int = CLASSES) -> Task:
    """Neighbouring classes of Tiny ImageNet, with labels from 0 on."""
    data = source(TINY_IMAGENET, data_root)
    name = f"{data.name}/{first}..{first + count - 1}"
    train, test = (_classes(pair, first, count) for pair in (data.train, data.test))
    return replace(data, name=name, train=train, test=test, inputs=INPUTS, labels=None, outputs=count)


def _classes(pair: Any, first: int, count: int) -> tuple[Tensor, Tensor]:
    x, y = pair
    chosen = (y >= first) & (y < first + count)
    return x[chosen], y[chosen] - first


def some(pair: Any, count: int, *key: object) -> tuple[Tensor, Tensor]:
    """Examples drawn by a key."""
    rows = torch.randperm(len(pair[1]), generator=generator(*key))[:count]
    return pair[0][rows], pair[1][rows]


def tasks_of(data_root: str, seed: int) -> list[Task]:
    """The tasks in order; a seed has its own training and test images."""
    whole = [replace(source(name, data_root), inputs=INPUTS) for name in WHOLE]
    found = []
    for task in (*whole, *(group(data_root, CLASSES * k) for k in range(GROUPS))):
        train, test = some(task.train, TRAIN, seed, task.name, "train"), some(task.test, TEST, seed, task.name, "test")
        found.append(replace(task, train=train, val=None, test=test))
    return found


def domains() -> Tensor:
    """The domain of every task: groups of classes are of one."""
    return torch.tensor([*range(len(WHOLE)), *[len(WHOLE)] * GROUPS])


def images_of(tasks: Iterable[Task], data_root: str, seed: int) -> Images:
    """The images of tasks, parted as a run parts them, and such that are of none."""
    train: dict[str, Any] = {}
    held_out: dict[str, Any] = {}
    test: dict[str, Any] = {}
    for task in tasks:
        feeds = prepare(task, seed=seed, val_fraction=VALIDATION, calibration_fraction=CALIBRATION)
        assert feeds.test is not None
        assert feeds.calibration is not None
        train[task.name] = next(feeds.train.ordered(feeds.train.size))
        whole = next(feeds.calibration.ordered(feeds.calibration.size))
        held_out[task.name] = some(whole, HELD_OUT, seed, task.name, "held out")
        test[task.name] = next(feeds.test.ordered(feeds.test.size))
    novel, _ = some(group(data_root, CLASSES * GROUPS).test, TEST, seed, NOVEL)
    digits, _ = some(source(WHOLE[0], data_root).test, TEST, seed, PERMUTED)
    order = torch.randperm(SIZE[0] * SIZE[1], generator=generator(seed, "pixels"))
    noise = torch.rand((TEST, 1, *SIZE), generator=generator(seed, NOISE))
    unknown = {
        NOVEL: INPUTS(novel),
        PERMUTED: INPUTS(digits.flatten(1)[:, order].view_as(digits)),
        NOISE: INPUTS(noise),
    }
    return Images(train, held_out, test, unknown)
