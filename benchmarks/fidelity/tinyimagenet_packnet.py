"""PackNet on ten tasks of Tiny ImageNet with the small VGG of De Lange et al. (2021): 46 to 47 %."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

from _learn import EQUAL_FROM_ZERO, points, tiny_imagenet
from _row import Target, measure

from polymask import Training
from polymask.nets import build_net

EPOCHS = 6
TARGETS = [
    Target(
        "tinyimagenet-packnet",
        "PackNet, equal shares, from zero",
        "10 tasks of 20 classes of Tiny ImageNet, VGG 64-64-64-64-128-128 and 128-128, Adam 1e-3, batch 64",
        "46-47",
        "published",
        lambda values: 45 <= mean(values["ours"]) <= 49,
        reduced=f"images of 32 x 32 instead of 64 x 64, {EPOCHS} epochs a phase instead of 15",
    )
]
TRAINING = Training(epochs=EPOCHS, optimizer="adam", lr=1e-3, batch_size=64, device="cpu", save_every=20)


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    model = build_net("vgg", (3, 32, 32), 20, seed=seed)
    tasks = tiny_imagenet(args.data_root, 10, 32, seed)
    return points(model, tasks, "packnet", work, seed, TRAINING, {"tasks": 10, **EQUAL_FROM_ZERO})


if __name__ == "__main__":
    measure(__doc__, TARGETS, arm)
