"""WSN on 40 tasks of Tiny ImageNet with four convolutions of 160 and 640-640: 71.96 % at 10 % density."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _learn import points, tiny_imagenet
from _row import Target, measure, near
from torch import nn

from polymask import Training

SIZE, EPOCHS, FIRST = 32, 3, 8
PARTS = {"3 epochs": 3, "10 epochs": 10}
TARGETS = [
    Target(
        "tinyimagenet-wsn-10",
        "WSN, 10 %",
        "40 tasks of 5 classes of Tiny ImageNet, 4 convolutions of 160 (3x3, stride 2), 640-640, batch 10, 10 epochs",
        "71.96",
        "recalled",
        near(71.96, 1.0),
        reduced=f"images of {SIZE} x {SIZE} instead of 64 x 64, {EPOCHS} epochs instead of 10",
    ),
    Target(
        "tinyimagenet-wsn-10-epochs",
        "WSN, 10 %",
        f"the first {FIRST} tasks of tinyimagenet-wsn-10, its network, images of {SIZE} x {SIZE}, 3 or 10 epochs",
        "what the epochs take is reported",
        "specified",
        None,
        tuple(PARTS),
    ),
]
TRAINING = Training(epochs=EPOCHS, optimizer="adam", lr=1e-3, batch_size=10, device="auto", save_every=20)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        convolutions = [nn.Conv2d(3 if k == 0 else 160, 160, 3, stride=2, padding=1) for k in range(4)]
        body = [module for conv in convolutions for module in (conv, nn.ReLU())]
        full = [nn.Flatten(), nn.Linear(160 * (SIZE // 16) ** 2, 640), nn.ReLU(), nn.Linear(640, 640), nn.ReLU()]
        return nn.Sequential(*body, *full, nn.Linear(640, 5))


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    tasks = tiny_imagenet(args.data_root, 40, SIZE, seed)[: FIRST if name in PARTS else None]
    training = replace(TRAINING, epochs=PARTS.get(name, EPOCHS))
    return points(network(seed), tasks, "wsn", work, seed, training, {"density": 0.1})


if __name__ == "__main__":
    measure(__doc__, TARGETS, arm)
