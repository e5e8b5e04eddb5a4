"""HAT on MNIST in two tasks of five digits, as its paper trains it: 99.0 % on average."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import torch
from _learn import MNIST, points
from _row import Target, measure
from torch import nn

from polymask import Training
from polymask.streams import make_stream

TARGETS = [
    Target(
        "splitmnist-hat",
        "HAT",
        "MNIST in 2 tasks (0-4, 5-9), MLP 784-2000-2000 with dropout .2 and .5, SGD .05, a third on a plateau, batch "
        "64, at most 20 epochs, s_max 400, c 0.75",
        "99.0; at least 98.7",
        "published",
        lambda values: mean(values["ours"]) >= 98.7,
    )
]
TRAINING = Training(
    epochs=20, optimizer="sgd", lr=0.05, momentum=0.0, batch_size=64, schedule="plateau", device="cpu", save_every=20
)


def network(seed: int, outputs: int = 5, width: int = 2000, dropout: bool = True) -> nn.Module:
    """784-2000-2000, dropped out as in the paper."""
    inputs, hidden = (0.2, 0.5) if dropout else (0.0, 0.0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Flatten(), nn.Dropout(inputs), nn.Linear(784, width), nn.ReLU(), nn.Dropout(hidden)]
        layers += [nn.Linear(width, width), nn.ReLU(), nn.Dropout(hidden)]
        return nn.Sequential(*layers, nn.Linear(width, outputs))


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    tasks = make_stream("split", [MNIST], data_root=args.data_root, tasks=2, seed=seed)
    return points(network(seed), tasks, "hat", work, seed, TRAINING)


if __name__ == "__main__":
    measure(__doc__, TARGETS, arm)
