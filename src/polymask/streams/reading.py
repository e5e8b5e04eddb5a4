"""Opening a task's data: tensors become views, folders data sets of images; everything is checked on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from polymask.parts.seeds import generator
from polymask.streams.checks import PARTS, check_alike, check_pairs, check_view
from polymask.streams.folder import ImageFolder
from polymask.streams.inputs import Inputs
from polymask.streams.loader import Keyed, collate
from polymask.streams.stream import Task
from polymask.streams.texts.text import Text
from polymask.streams.texts.tokens import tokenised
from polymask.streams.view import View


def open_parts(
    task: Task, cache: bool, workers: int = 0
) -> tuple[dict[str, Dataset[Any]], Inputs | Text, tuple[str, ...] | None]:
    """The parts that the task has, checked; its inputs and labels with what a folder of images settles of them."""
    task = tokenised(task)
    inputs, names = task.inputs or Inputs(), None if task.labels is None else tuple(task.labels)
    parts: dict[str, Dataset[Any]] = {}
    for part, data in ((part, getattr(task, part)) for part in PARTS):
        if data is None:
            continue
        if isinstance(data, tuple):
            data, names = numbered(data, names, task.name, part)
        source = View(*data) if isinstance(data, tuple) else data
        if isinstance(source, str | Path):
            source = ImageFolder(source, names, images_of(inputs, task.name))
        if isinstance(source, ImageFolder) and isinstance(inputs, Inputs):
            inputs = replace(inputs, size=source.inputs.size, channels=source.inputs.channels)
            names = names or source.labels
        if not isinstance(source, View):
            check_pairs(source, task.name, part)
            source = in_memory(source, workers) if cache else source
        parts[part] = source
        if isinstance(source, View):
            check_view(source, task.name, part)
            if isinstance(parts["train"], View):
                check_alike(parts["train"], source, task.name, part)
    return parts, inputs, names


def images_of(inputs: Inputs | Text, task: str) -> Inputs:
    """How a folder of images is read.

    Raises:
        ValueError: the task is said to be of texts.
    """
    if isinstance(inputs, Text):
        raise ValueError(f"expected texts for task {task!r}, whose inputs are {inputs}, found a folder of images")
    return inputs


def numbered(
    data: tuple[Any, Any], names: tuple[str, ...] | None, task: str, part: str
) -> tuple[tuple[Any, Tensor], tuple[str, ...] | None]:
    """Inputs and labels with labels as a tensor, and the classes' names: words are numbered in their order.

    Args:
        data: inputs, and labels as a tensor, as numbers, or as words.
        names: of the classes, if they are known; else those of the first part that has words.
        task: for the message.
        part: likewise.

    Raises:
        ValueError: a word is no class.

    >>> numbered((torch.rand(3, 2), ["dog", "cat", "dog"]), None, "pets", "train")[0][1:], ("cat", "dog")
    ((tensor([1, 0, 1]),), ('cat', 'dog'))
    """
    x, y = data
    if isinstance(y, Tensor):
        return data, names
    listed = list(y)
    words = [isinstance(label, str) for label in listed]
    if len({*words}) > 1 or any(label is None for label in listed):
        odd = None if all(words) or not any(words) else listed[words.index(not words[0])]
        raise ValueError(f"expected labels of one kind for task {task!r}, words or numbers, found {odd!r} in {part}")
    if not any(words):
        return (x, torch.as_tensor(y)), names
    names = tuple(sorted(set(listed))) if names is None else names
    if unknown := sorted({*listed} - {*names}):
        raise ValueError(
            f"{part} of task {task!r} has labels {unknown[:5]} that are not among its classes {list(names)}"
        )
    place = {name: number for number, name in enumerate(names)}
    return (x, torch.tensor([place[str(name)] for name in listed])), names


def in_memory(dataset: Dataset[Any], workers: int = 0) -> View:
    """Every example of a data set, read once and kept.

    >>> from torch.utils.data import TensorDataset
    >>> in_memory(TensorDataset(torch.zeros(3, 2), torch.arange(3))).x.shape
    torch.Size([3, 2])
    """
    loader = DataLoader(
        Keyed(dataset, ("memory",)), 256, num_workers=workers, collate_fn=collate, generator=generator("memory")
    )
    batches: list[tuple[Any, Tensor]] = list(loader)
    xs, ys = [x for x, _ in batches], torch.cat([y for _, y in batches])
    if isinstance(xs[0], Tensor):
        return View(torch.cat(xs), ys)
    if isinstance(xs[0], Mapping):
        return View({key: torch.cat([x[key] for x in xs]) for key in xs[0]}, ys)
    return View(tuple(torch.cat(column) for column in zip(*xs, strict=True)), ys)


def known_labels(source: Dataset[Any]) -> Tensor | None:
    """All labels, where they are at hand without reading any input."""
    return source.y if isinstance(source, View | ImageFolder) else None


def read_labels(dataset: Dataset[Any], workers: int) -> Tensor:
    """All labels of a data set, which has to be read for them."""
    loader = DataLoader(
        Keyed(dataset, ("labels",)),
        256,
        num_workers=workers,
        collate_fn=only_labels,
        generator=generator("labels"),
    )
    return torch.cat(list(loader))


def only_labels(examples: list[tuple[Any, Any]]) -> Tensor:
    """The labels of a batch of examples."""
    y: Tensor = default_collate([y for _, y in examples])
    return y
