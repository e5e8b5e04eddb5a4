"""The classic ways to make a stream: split the classes, permute the pixels, rotate the images, one task a data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from polymask.streams.checks import check_labels
from polymask.streams.groups import Groups, class_groups, groups_by_name, groups_of_sizes
from polymask.streams.reading import open_parts
from polymask.streams.stream import Stream, Task
from polymask.streams.view import Permutation, Rotation, View


def split(
    data: Task,
    tasks: int | Sequence[Sequence[int]] | None = None,
    *,
    groups: Groups | None = None,
    classes_per_task: Sequence[int] | None = None,
    order: Sequence[int] = (),
    seed: int = 0,
    labels: Sequence[str] | None = None,
) -> Stream:
    """A task for each group of classes, with labels 0..k-1 local to the task.

    Args:
        data: a task with labels 0..K-1; unless they are tensors, its data are read into memory.
        tasks: how many groups of K / tasks neighbouring classes, or the groups themselves; None: 5, unless one of the
            following says.
        groups: the classes of each task by name, such as cat,dog/car,truck; for several data sets parted by ";".
        classes_per_task: how many neighbouring classes each task has, such as 2 3 5.
        order: in which the tasks are learned.
        seed: recorded.
        labels: names of all K classes; None: those of ``data``, else the numbers.

    Raises:
        ValueError: the classes cannot be shared out equally, sizes do not add up, a group names none or an unknown one,
            or more than one argument says what the tasks are.

    >>> data = Task("toy", (torch.rand(8, 2), torch.arange(8) % 4))
    >>> [task.name for task in split(data, 2)]
    ['toy/0-1', 'toy/2-3']
    >>> [task.name for task in split(data, classes_per_task=[1, 3])]
    ['toy/0', 'toy/1-2-3']
    """
    if len(given := [way for way in (tasks, groups, classes_per_task) if way is not None]) > 1:
        raise ValueError(
            f"expected one of --tasks, --groups and --classes-per-task, found {' and '.join(map(str, given))}"
        )
    data, whole = views(data)
    named = labels if labels is not None else data.labels
    total = len(named) if named is not None else data.outputs or int(whole["train"].y.max()) + 1
    names = list(named) if named is not None else [str(label) for label in range(total)]
    for part, view in whole.items():
        check_labels(view.y, total, data.name, part)
    if groups is not None:
        chosen_groups = groups_by_name(groups, names, data.name)
    elif classes_per_task is not None:
        chosen_groups = groups_of_sizes(classes_per_task, total, data.name)
    else:
        chosen_groups = class_groups(5 if tasks is None else tasks, total, data.name)

    def task(group: tuple[int, ...]) -> Task:
        local = torch.full((total,), -1)
        local[list(group)] = torch.arange(len(group))
        chosen: dict[str, Any] = {part: pick(view, local) for part, view in whole.items()}
        title = [names[label] for label in group]
        called = "-".join(title) if len(title) <= 3 else f"{title[0]}..{title[-1]}"
        return replace(data, name=f"{data.name}/{called}", labels=title, outputs=None, **chosen)

    how = {"kind": "split", "groups": [list(group) for group in chosen_groups], **data.notes}
    return Stream(f"{data.name}-split", tuple(map(task, chosen_groups)), tuple(order), seed, how)


def check_count(tasks: object, what: str) -> None:
    """Check how many tasks are asked for.

    Raises:
        ValueError: it is no whole number above 0.
    """
    if not isinstance(tasks, int) or tasks < 1:
        raise ValueError(f"expected a number of {what} for tasks, found {tasks!r}")


def permute(
    data: Task, tasks: int = 10, *, order: Sequence[int] = (), seed: int = 0, first_identity: bool = False
) -> Stream:
    """The same classes seen through ``tasks`` fixed permutations of the pixels; the data are stored once.

    Args:
        data: a task; unless they are tensors, its data are read into memory.
        tasks: how many.
        order: in which the tasks are learned.
        seed: permutation i is drawn from (seed, name, i), so no two seeds share any.
        first_identity: leave the pixels of task 0 in place.

    >>> data = Task("toy", (torch.rand(4, 3), torch.tensor([0, 1, 0, 1])))
    >>> [task.name for task in permute(data, 2)]
    ['toy/permuted-0', 'toy/permuted-1']
    """
    check_count(tasks, "permutations")
    data, whole = views(data)

    def task(place: int) -> Task:
        plain = first_identity and place == 0
        changes = [] if plain else [Permutation((seed, data.name, place, "permutation"))]
        changed: dict[str, Any] = {part: view.through(*changes) for part, view in whole.items()}
        return replace(data, name=f"{data.name}/permuted-{place}", **changed)

    how = {"kind": "permuted", "first_identity": first_identity, **data.notes}
    return Stream(f"{data.name}-permuted", tuple(map(task, range(tasks))), tuple(order), seed, how)


def rotate(
    data: Task,
    tasks: int = 5,
    degrees: float | Sequence[float] = 10.0,
    *,
    order: Sequence[int] = (),
    seed: int = 0,
) -> Stream:
    """The same images turned counter-clockwise, a task for each angle; the data are stored once.

    Args:
        data: a task over images (N, C, H, W).
        tasks: how many.
        degrees: task i is turned by i * degrees, or the angles themselves.
        order: in which the tasks are learned.
        seed: recorded.

    Raises:
        ValueError: as many angles as tasks are needed.

    >>> data = Task("toy", (torch.rand(2, 1, 4, 4), torch.tensor([0, 1])))
    >>> [task.name for task in rotate(data, 3, 45)]
    ['toy/rotated-0', 'toy/rotated-45', 'toy/rotated-90']
    """
    check_count(tasks, "angles")
    angles = [degrees * i for i in range(tasks)] if isinstance(degrees, int | float) else list(degrees)
    if len(angles) != tasks:
        raise ValueError(f"{tasks} tasks need {tasks} angles, found {len(angles)}: {angles}")
    data, whole = views(data)

    def task(angle: float) -> Task:
        changed: dict[str, Any] = {part: view.through(Rotation(angle)) for part, view in whole.items()}
        return replace(data, name=f"{data.name}/rotated-{angle:g}", **changed)

    how = {"kind": "rotated", "degrees": angles, **data.notes}
    return Stream(f"{data.name}-rotated", tuple(map(task, angles)), tuple(order), seed, how)


def one_per_dataset(tasks: Iterable[Task], *, order: Sequence[int] = (), seed: int = 0) -> Stream:
    """A stream of whole data sets, each a task as it is.

    >>> pair = (torch.rand(2, 3), torch.tensor([0, 1]))
    >>> len(one_per_dataset([Task("a", pair), Task("b", pair)]))
    2
    """
    listed = tuple(tasks)
    how = {"kind": "datasets", "notes": {task.name: dict(task.notes) for task in listed}}
    return Stream("+".join(task.name for task in listed), listed, tuple(order), seed, how)


def views(task: Task) -> tuple[Task, dict[str, View]]:
    """The task and its parts in memory; data sets and folders of images are read once."""
    parts, inputs, labels = open_parts(task, cache=True)
    found = {part: view for part, view in parts.items() if isinstance(view, View)}
    kept: dict[str, Any] = {"labels": labels, "inputs": inputs} | found
    return replace(task, **kept), found


def pick(view: View, local: Tensor) -> View:
    """The examples whose class has a local label >= 0, with that label."""
    labels = local[view.y]
    chosen = view.take((labels >= 0).nonzero().squeeze(1))
    return replace(chosen, y=local[chosen.y])
