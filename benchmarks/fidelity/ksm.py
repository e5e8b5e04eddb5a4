"""KSM beside all its controls: hard kernel masks, Piggyback and private norms alone, on the embedded digits."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from _row import Target, Values, measure
from digits import ADAM, changed
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))
from polymask import Training, learn
from polymask.streams.images import digits_data

NAMES = ("hard", "soft", "Piggyback, private norms", "private norms alone")
OPTIONS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "hard": ("ksm", {"soft": False}),
    "soft": ("ksm", {}),
    "Piggyback, private norms": ("piggyback", {"norms": "private", "start": "constant"}),
    "private norms alone": ("linear_probe", {"norms": "private"}),
}
CHANGES = {"inverted": lambda x: 1 - x, "rotated": lambda x: x.rot90(1, (2, 3)), "rolled": lambda x: x.roll(3, 3)}
SETTING = "digits inverted, rotated and rolled; 3 convolutions (16, 32, 32), BatchNorm, trained upright, {}; 15 epochs"


def soft_above_hard(values: Values) -> bool:
    return mean(values["soft"]) >= mean(values["hard"]) + 1


TARGETS = [
    Target("ksm-pooled", "KSM", SETTING.format("global pooling"), "a point above hard kernel masks", "specified",
           soft_above_hard, NAMES),
    Target("ksm-flattened", "KSM", SETTING.format("a flattened head"), "not below hard kernel masks", "specified",
           lambda v: mean(v["soft"]) >= mean(v["hard"]), NAMES),
]  # fmt: skip


def network(pooled: bool, seed: int) -> nn.Module:
    """The backbone, before it is trained."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for into, out in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)] if pooled else [nn.Flatten(), nn.Linear(2048, 10)]
    return nn.Sequential(*layers, *end)


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    """The average accuracy of three tasks over a backbone that upright digits trained."""
    upright, training = digits_data(), Training(epochs=15, **ADAM)
    first = learn(network(target.name == "ksm-pooled", seed), [upright], "independent", seed=seed, training=training)
    stream = [changed(upright, key, change) for key, change in CHANGES.items()]
    method, options = OPTIONS[name]
    backbone = first.method.plain(upright.name)
    report = learn(backbone, stream, method, seed=seed, training=training, options=options).report
    return 100 * float(report["average_accuracy"])


if __name__ == "__main__":
    measure(__doc__, TARGETS, arm)
