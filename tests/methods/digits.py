"""The embedded 8x8 digits as tasks, and the shortest loop that learns them: for the papers' claims in small."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from polymask.method.contract import Method
from polymask.parts.seeds import generator

Split = tuple[Tensor, Tensor, Tensor, Tensor]
"""Inputs and labels of the training split, then of the test split."""


@cache
def images() -> Split:
    """The digits, standardised, ``(n, 1, 8, 8)``; every fifth of a shuffled order is for testing."""
    data = load_digits()
    x = torch.from_numpy(data.images).float()[:, None]
    y = torch.from_numpy(data.target).long()
    order = torch.randperm(len(x), generator=generator("digits", "split"))
    x, y = ((x - x.mean()) / x.std())[order], y[order]
    test = torch.arange(len(x)) % 5 == 0
    return x[~test], y[~test], x[test], y[test]


def changed(change: Callable[[Tensor], Tensor]) -> Split:
    """The digits with their images changed."""
    x, y, x_test, y_test = images()
    return change(x), y, change(x_test), y_test


def permuted(count: int) -> dict[str, Split]:
    """``count`` tasks ``p0``, ``p1``, ...: the flat digits, their pixels in another fixed order each."""
    orders = {f"p{k}": torch.randperm(64, generator=generator("permuted", k)) for k in range(count)}
    return {name: changed(lambda x, order=order: x.flatten(1)[:, order]) for name, order in orders.items()}


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them, the same weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
    return nn.Sequential(*[module for pair in layers for module in pair][:-1])


def fit(
    method: Method, task: str, data: Split, make: Callable[[Method], torch.optim.Optimizer], *, epochs: int
) -> None:
    """Learn one task, the same epochs in every phase."""
    for phase in method.phases:
        method.begin(task, phase, outputs=10)
        descend(method.model, data, make(method), epochs=epochs, key=f"{task} {phase}")
    method.end(task)


def adam(lr: float, scores: float | None = None) -> Callable[[Method], torch.optim.Optimizer]:
    """Adam, with a learning rate of its own for scores if one is given."""

    def make(method: Method) -> torch.optim.Optimizer:
        named = list(method.named_parameters())
        ours = {"params": [p for name, p in named if name.endswith(".scores")], "lr": scores or lr}
        return torch.optim.Adam([{"params": [p for name, p in named if not name.endswith(".scores")]}, ours], lr)

    return make


def descend(model: nn.Module, data: Split, optimizer: torch.optim.Optimizer, *, epochs: int, key: str) -> None:
    """Minimise the cross-entropy in batches of 64."""
    x, y, *_ = data
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=generator("order", key, epoch))
        for rows in order.split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows])[:, :10], y[rows]).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: Split) -> float:
    """Points of 100 on the test split."""
    model.eval()
    return 100 * float((model(data[2])[:, :10].argmax(1) == data[3]).float().mean())


def accuracies(method: Method, tasks: dict[str, Split]) -> list[float]:
    """The accuracy of every task, each activated."""
    found = []
    for name, data in tasks.items():
        method.activate(name)
        found.append(accuracy(method.model, data))
    return found
