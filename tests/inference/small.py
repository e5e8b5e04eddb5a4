"""Tasks on a small network, learned in a few steps, for whoever asks which is which."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymask.method.contract import Method
from polymask.methods import METHODS

WIDTH, OUTPUTS = 12, 9


def network(norm: bool = False) -> nn.Module:
    """Two hidden layers and a head that is wider than the labels of any task."""
    torch.manual_seed(0)
    layers = [nn.Linear(WIDTH, 20), *([nn.BatchNorm1d(20)] if norm else []), nn.ReLU(), nn.Linear(20, 16), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(16, OUTPUTS))


def inputs(task: int, rows: int = 16) -> Tensor:
    """Some inputs of a task: a half of their entries is 0, each task's own half."""
    draw = torch.Generator().manual_seed(task)
    x = torch.rand(rows, WIDTH, generator=draw)
    x[:, torch.randperm(WIDTH, generator=torch.Generator().manual_seed(100 + task))[: WIDTH // 2]] = 0
    return x


def learn_task(method: Method, task: int, steps: int = 3) -> None:
    """A task in a few steps of a loop of one's own."""
    x, y = inputs(task), torch.arange(16) % 3
    for phase in method.phases:
        method.begin(f"t{task}", phase)
        optimizer = torch.optim.Adam(method.parameters(), lr=0.05)
        for _ in range(steps):
            method.on_step(1.0)
            optimizer.zero_grad()
            (F.cross_entropy(method.model(x), y) + method.penalty()).backward()
            optimizer.step()
    method.end(f"t{task}")


def learned(name: str = "supsup", tasks: int = 3, norm: bool = False, **options: Any) -> Method:
    """A learner with some finished tasks."""
    method = METHODS[name](network(norm), torch.zeros(2, WIDTH), **options)
    for task in range(tasks):
        learn_task(method, task)
    return method
