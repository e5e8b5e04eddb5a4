"""Permuted MNIST for the benchmarks: the real pictures where they are at hand, else random ones of that size."""

from __future__ import annotations

from dataclasses import replace

import torch

from polymask.streams import Stream, Task, make_stream, permute

MNIST = "ylecun/mnist"


def permuted_mnist(data_root: str | None, tasks: int, examples: int | None = None) -> Stream:
    """A stream of permuted MNIST.

    Args:
        data_root: a folder that holds ``ylecun/mnist``; None: random pictures, whose labels cannot be learned.
        tasks: how many permutations.
        examples: of the training split; None: all 60,000.
    """
    if data_root is not None:
        stream = make_stream("permuted", [MNIST], data_root=data_root, tasks=tasks)
        return stream if examples is None else shortened(stream, examples)
    draw = torch.Generator().manual_seed(0)

    def pictures(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randint(256, (count, 1, 28, 28), generator=draw, dtype=torch.uint8)
        return x, torch.randint(10, (count,), generator=draw)

    return permute(Task("random", pictures(examples or 60_000), test=pictures(10_000), outputs=10), tasks)


def shortened(stream: Stream, examples: int) -> Stream:
    """The first examples of every training split."""

    def cut(task: Task) -> Task:
        return replace(task, train=task.train.take(torch.arange(examples)))

    return replace(stream, tasks=tuple(cut(task) for task in stream.tasks))


def origin(data_root: str | None) -> str:
    return "permuted MNIST" if data_root is not None else "random tensors of MNIST's size (no --data-root)"
