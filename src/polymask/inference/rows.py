"""A batch as its rows: how many inputs it has, each alone, and some of them."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from polymask.calling import leaves_of, tensors_of


def rows_of(x: Any) -> list[Any]:
    """A batch as batches of one row."""
    return [tensors_of(x, partial(_row, place=place)) for place in range(count_rows(x))]


def count_rows(x: Any) -> int:
    """How many inputs a batch has.

    >>> import torch
    >>> count_rows({"ids": torch.zeros(3, 5)})
    3
    """
    return next(len(t) for t in leaves_of(x) if t.ndim)


def _row(t: Tensor, place: int) -> Tensor:
    return t[place : place + 1] if t.ndim else t


def at_rows(t: Tensor, rows: Tensor) -> Tensor:
    """Some rows of a tensor; of a number, the number."""
    return t[rows.to(t.device)] if t.ndim else t
