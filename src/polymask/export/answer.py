"""What a file holds: a task's plain network from inputs, one after the other, to that task's logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polymask.calling import as_read, call, leaves_of, logits_of, tensors_of
from polymask.streams.inputs import Inputs

Takes = Literal["raw", "bytes", "prepared"]
"""What goes in: numbers as the task's data had them (images from 0 to 1) or bytes, which the graph prepares; or what
the network reads."""


class Answer(nn.Module):
    """The logits of one task, ``(batch, outputs)``: its inputs prepared, its network called, its outputs cut.

    Args:
        plain: the task's network.
        example: an input of it; its nesting, and what in it is no tensor, become part of the graph.
        outputs: how many outputs the task has.
        prepare: how raw inputs are prepared; None: they are prepared already.
        resize: whether images of any size are brought to the one that the network reads.

    >>> Answer(nn.Linear(4, 3), torch.zeros(1, 4), 2)(torch.ones(5, 4)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self, plain: nn.Module, example: Any, outputs: int, prepare: Inputs | None = None, resize: bool = False
    ) -> None:
        super().__init__()
        self.plain, self.outputs, self.prepare, self.resize = plain, outputs, prepare, resize
        self.nesting = tensors_of(example, lambda t: torch.empty(0))
        self.eval()

    def forward(self, *leaves: Tensor) -> Tensor:
        """The logits of inputs in the order of ``names_of``."""
        each = iter(leaves)
        x = tensors_of(self.nesting, lambda _: next(each))
        if self.prepare is not None:
            # Asked of no size, as it is any: a size that is right already is left to itself by the resampling.
            fitted = self.prepare.bring(x, size=True) if self.resize else self.prepare.fit(x)
            x = as_read(self.plain, self.prepare.scale(fitted))
        logits = logits_of(call(self.plain, x))
        return logits[:, : self.outputs] if logits.ndim == 2 else logits


def names_of(example: Any, name: str = "") -> list[str]:
    """What the inputs of a graph are called: by their keys in a mapping, else by their places.

    >>> names_of(torch.ones(1)), names_of({"ids": torch.ones(1), "flag": None}), names_of((torch.ones(1),) * 2)
    (['input'], ['ids'], ['input_0', 'input_1'])
    """
    if isinstance(example, Tensor):
        return [name or "input"]
    if isinstance(example, Mapping):
        return [one for key, value in example.items() for one in names_of(value, f"{name}.{key}".lstrip("."))]
    if isinstance(example, (tuple, list)):
        return [one for i, value in enumerate(example) for one in names_of(value, f"{name or 'input'}_{i}")]
    return []


def with_rows(example: Any, rows: int) -> Any:
    """An example with so many rows: its first ones, over and over; what has another first axis than most stays.

    >>> with_rows({"a": torch.tensor([1, 2]), "b": 3}, 3)
    {'a': tensor([1, 2, 1]), 'b': 3}
    """
    own = rows_of(example)
    return tensors_of(
        example, lambda t: t[torch.arange(rows, device=t.device) % own] if t.ndim and len(t) == own else t
    )


def rows_of(example: Any) -> int:
    """How many rows a batch has: the first axis of its first tensor.

    Raises:
        ValueError: if it has no tensor with an axis.
    """
    for leaf in leaves_of(example):
        if leaf.ndim and len(leaf):
            return len(leaf)
    raise ValueError("expected an example with a tensor of at least one row, found none: give one as example=")


@dataclass(frozen=True)
class Form:
    """How the inputs of a graph look.

    Args:
        names: of the inputs.
        example: a batch of them.
        free: of every input, axis -> the name of what it may measure; every other axis is as in the example.
    """

    names: list[str]
    example: Any
    free: list[dict[int, str]]

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """The example's tensors, in the order of ``names``."""
        return tuple(leaves_of(self.example))

    def batches(self) -> list[Any]:
        """Other batches of this form: the example, a single row, and two rows of another length, height and width."""
        if not any("batch" in axes.values() for axes in self.free):
            return [self.example]
        each = iter(self.free)
        two = tensors_of(with_rows(self.example, 2), lambda t: _shorter(t, next(each)))
        return [self.example, with_rows(self.example, 1), two]

    def describe(self) -> list[dict[str, Any]]:
        """Names, dtypes and shapes as JSON; an axis that may measure anything by its name."""
        return [
            {
                "name": name,
                "dtype": str(leaf.dtype).removeprefix("torch."),
                "shape": [free.get(axis, size) for axis, size in enumerate(leaf.shape)],
            }
            for name, leaf, free in zip(self.names, self.leaves, self.free, strict=True)
        ]


def _shorter(leaf: Tensor, free: Mapping[int, str]) -> Tensor:
    for axis in free.keys() - {0}:
        leaf = leaf.narrow(axis, 0, max(leaf.shape[axis] // 2, 1))
    return leaf


def form_of(example: Any, batch: int | None, resize: bool = False) -> Form:
    """The form of a graph's inputs: any number of rows, any length of a sequence of numbers of words.

    Args:
        example: a batch.
        batch: the number of rows, if it is to be this one alone; None: any.
        resize: whether images may have any height and width.
    """
    # Where any number goes, more than one: of a single row the exporter takes that it stays single.
    rows = batch or max(rows_of(example), 3)
    example = with_rows(example, rows)
    free = []
    for leaf in leaves_of(example):
        axes = {0: "batch"} if batch is None and leaf.ndim and len(leaf) == rows else {}
        if leaf.ndim == 2 and not leaf.is_floating_point():
            axes[1] = "length"
        free.append(axes | ({leaf.ndim - 2: "height", leaf.ndim - 1: "width"} if resize else {}))
    return Form(names_of(example), example, free)
