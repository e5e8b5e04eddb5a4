"""Everything that is checked about a task's data before anything is learned from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from warnings import warn

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate

from polymask.streams.view import View, leaves

PARTS = ("train", "val", "test")


def check_view(view: View, task: str, part: str) -> None:
    """Refuse tensors that nothing can be learned from.

    Raises:
        ValueError: there is no example, x and y differ in length, or a value is NaN or infinite.
    """
    if len(view.y) == 0:
        raise ValueError(f"task {task!r} is empty: {part} holds no example")
    for name, tensor in leaves(view.x).items():
        examples = len(tensor) if view.rows is None else len(view.rows)
        if examples != len(view.y):
            raise ValueError(f"{part} of task {task!r} has {examples} examples in {name} but {len(view.y)} in y")
        if not tensor.is_floating_point() or tensor.isfinite().all():
            continue
        check_finite(tensor if view.rows is None else tensor[view.rows], f"{name} of task {task!r} ({part})")
    check_finite(view.y, f"y of task {task!r} ({part})")


def check_finite(values: Tensor, where: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        ValueError: a value is not finite.
    """
    if not values.is_floating_point() or values.isfinite().all():
        return
    bad = (~values.isfinite()).nonzero()
    first = tuple(bad[0].tolist())
    raise ValueError(
        f"{len(bad)} of {values.numel()} values in {where} are NaN or infinite, the first is {values[first].item()} "
        f"at {first}; clean or drop those examples"
    )


def check_labels(y: Tensor, outputs: int, task: str, part: str) -> None:
    """Refuse class labels that are not 0..outputs-1, and rows of float targets of another width.

    Raises:
        ValueError: a label is outside, labels are not whole numbers of 64 bits, or targets have other columns.
    """
    if y.is_floating_point():
        if y.ndim == 2 and y.shape[1] != outputs:
            raise ValueError(f"task {task!r} has {outputs} outputs, but {part} has {y.shape[1]} targets an example")
        return
    if y.ndim == 1 and y.dtype != torch.int64:
        raise ValueError(f"class labels are int64, {part} of task {task!r} has {y.dtype}: pass y.long()")
    outside = y[(y < 0) | (y >= outputs)]
    if outside.numel():
        raise ValueError(
            f"labels of task {task!r} go from 0 to {outputs - 1}, found {outside[0].item()} in {part} "
            f"({outside.numel()} of {y.numel()} are outside)"
        )


def warn_of_classes(y: Tensor, outputs: int, names: Sequence[str] | None, task: str, counted: bool) -> None:
    """Warn of labels that can be learned and are probably not what was meant.

    Args:
        y: the labels of the training data.
        outputs: how many outputs the task has.
        names: of the outputs.
        task: its name.
        counted: whether ``outputs`` is the largest label and one, as nobody has said.
    """
    if y.is_floating_point() or y.ndim != 1:
        return
    present = y.unique().tolist()
    if len(present) == 1:
        called = present[0] if names is None else repr(names[present[0]])
        warn(
            f"task {task!r} has examples of one class alone ({called}): always answering it scores 1, and nothing "
            "is learned. Give it another class, or leave it out",
            stacklevel=2,
        )
    elif counted and (missing := [label for label in range(outputs) if label not in present]):
        warn(
            f"the labels of task {task!r} skip numbers: no example has {', '.join(map(str, missing[:5]))}"
            f"{', ...' if len(missing) > 5 else ''}, and still its head has {outputs} outputs. Number the classes "
            f"0..{len(present) - 1}, or say that it is meant: outputs={outputs}",
            stacklevel=2,
        )


def warn_of_few(y: Tensor, names: Sequence[str] | None, task: str) -> None:
    """Warn of classes of which none can be held out for validation, since there is one example of each.

    Raises:
        ValueError: all classes are such.
    """
    if y.dtype != torch.int64 or y.ndim != 1 or len(y) < 2:
        return
    labels, counts = y.unique(return_counts=True)
    single = [str(label) if names is None else names[label] for label in labels[counts == 1].tolist()]
    if single and len(single) == len(labels):
        raise ValueError(
            f"expected two examples or more of a class of task {task!r}, found one of each: none can be held out to "
            "choose the epoch by. Give more, or a validation part (val=, a folder val/ beside train/)"
        )
    if single:
        warn(
            f"task {task!r} has one example of {', '.join(single[:5])}{', ...' if len(single) > 5 else ''}: it is "
            "trained on, and the validation part holds none of it. Give more, or a validation part",
            stacklevel=2,
        )


def check_alike(one: View, other: View, task: str, part: str) -> None:
    """Refuse a part whose examples have another shape or type than those of the training data.

    Named whole numbers in rows, such as tokens, may be longer or shorter: what reads them says what it takes.

    Raises:
        ValueError: they differ.
    """
    expected, found = (
        {name: (shape_of(t, isinstance(view.x, Mapping)), t.dtype) for name, t in leaves(view.x).items()}
        | {"y": (tuple(view.y.shape[1:]), view.y.dtype)}
        for view in (one, other)
    )
    if expected != found:
        raise ValueError(f"task {task!r}: an example of train is {expected}, of {part} {found}; they must be alike")


def shape_of(t: Tensor, named: bool) -> tuple[int | str, ...]:
    """The shape of an example, but of the length of a row of tokens."""
    return ("any",) if named and t.ndim == 2 and not t.is_floating_point() else tuple(t.shape[1:])


def check_pairs(dataset: Dataset[Any], task: str, part: str) -> None:
    """Refuse a data set that gives no pairs (x, y) by number.

    Raises:
        ValueError: it is iterable-style, empty, or an example is no pair of things that make a batch.
    """
    if isinstance(dataset, IterableDataset):
        raise ValueError(
            f"{part} of task {task!r} is iterable-style: a data set with __len__ and __getitem__ is needed"
        )
    if len(dataset) == 0:  # type: ignore[arg-type]
        raise ValueError(f"task {task!r} is empty: {part} holds no example")
    example = dataset[0]
    if not isinstance(example, tuple | list) or len(example) != 2:
        raise ValueError(f"an example of {part} of task {task!r} must be a pair (x, y), found {str(example)[:200]}")
    if isinstance(example[1], str):
        raise ValueError(
            f"labels of {part} of task {task!r} are words, such as {example[1]!r}: let the data set give whole numbers "
            "0..k-1, and give the words as labels=[...]"
        )
    if isinstance(example[0], str):
        raise ValueError(
            f"inputs of {part} of task {task!r} are texts, such as {example[0][:80]!r}: say how they are tokenised, "
            "Task(..., inputs=Text(tokenizer))"
        )
    try:
        default_collate([example])
    except TypeError as error:
        raise ValueError(f"examples of {part} of task {task!r} make no batch: {error}") from error
