"""KSM beside Piggyback with private norms on ImageNet's EfficientNet-Lite0 and FashionMNIST: most kernels are 1 x 1."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from _learn import points
from _row import Target, measure
from backbone_study import EPOCHS, FASHION, MASKS, NORM_LR, SIZE, TEST, TRAIN, TRAINING, images, network

from polymask import KSM

TARGETS = [
    Target(
        "ksm-efficientnet-fashion",
        "KSM",
        f"FashionMNIST over ImageNet's EfficientNet-Lite0, {SIZE} x {SIZE}, norms of the task's own; 1 x 1 kernels "
        "are a share of all masked weights, given in %, and KSM's bytes a share of a bit a weight",
        "not below Piggyback with private norms",
        "specified",
        lambda v: mean(v["ksm"]) >= mean(v["Piggyback, private norms"]),
        ("ksm", "Piggyback, private norms", "1 x 1 kernels", "bytes of KSM's masks by Piggyback's"),
        reduced=f"{TRAIN} training images, a tenth for validation, {TEST} test images, {EPOCHS} epochs",
    )
]
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {"ksm": ("ksm", {}), "Piggyback, private norms": ("piggyback", MASKS)}


def single() -> tuple[float, float]:
    """The share of masked weights that stand in kernels of one entry, and KSM's bytes by a bit a weight, in %."""
    rows = KSM(network(0, pretrained=True), torch.zeros(2, 3, SIZE, SIZE)).sizes()
    count = {True: 0, False: 0}
    for row in rows:
        count[bool(row["single"])] += int(str(row["weights"]))
    bytes_of = {key: sum(int(str(row[key])) for row in rows) for key in ("stored", "a bit a weight")}
    return 100 * count[True] / sum(count.values()), 100 * bytes_of["stored"] / bytes_of["a bit a weight"]


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    """An arm's accuracy on FashionMNIST, or a share."""
    if name not in OPTIONS:
        return single()[0 if name == "1 x 1 kernels" else 1]
    method, options = OPTIONS[name]
    training = replace(TRAINING, norm_lr=NORM_LR["pretrained"])
    task = images(args.data_root, FASHION, seed)
    return points(network(seed, pretrained=True), [task], method, work, seed, training, options)


if __name__ == "__main__":
    measure(__doc__ or "", TARGETS, arm)
