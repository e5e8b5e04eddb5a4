"""KSM beside Piggyback with private norms on EfficientNet-Lite0 and FashionMNIST, where most kernels are 1 x 1."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from _row import Target, measure

sys.path.insert(0, str(Path(__file__).parents[1]))
from torch import nn

from _measure import with_torchvision
from polymask import KSM, Task, Training, learn
from polymask.nets.by_name import build_model
from polymask.streams import make_stream
from polymask.streams.view import View

DATA = ("ylecun/mnist", "zalando-datasets/fashion_mnist")
IMAGES, EPOCHS = 10_000, 3
TARGETS = [
    Target(
        "ksm-efficientnet-fashion",
        "KSM",
        "FashionMNIST over EfficientNet-Lite0 trained on MNIST, 32 x 32; 1 x 1 kernels are a share of all weights, "
        "given in %",
        "not below Piggyback with private norms",
        "specified",
        lambda v: mean(v["ksm"]) >= mean(v["Piggyback, private norms"]),
        ("ksm", "Piggyback, private norms", "1 x 1 kernels", "bytes of KSM's masks by Piggyback's"),
        reduced=f"{IMAGES:,} training images, {EPOCHS} epochs, a backbone from MNIST instead of ImageNet",
    )
]
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "ksm": ("ksm", {}),
    "Piggyback, private norms": ("piggyback", {"norms": "private"}),
}


def tasks(data_root: str | None) -> list[Task]:
    """MNIST and FashionMNIST, cut to the first images of each."""
    if data_root is None:
        raise SystemExit(f"expected --data-root, a folder that holds {' and '.join(DATA)}, found none")
    stream = make_stream("datasets", list(DATA), data_root=data_root, size=(32, 32), channels=1)
    return [replace(task, train=cut(task.train)) for task in stream]


def cut(train: Any) -> tuple[Any, Any]:
    assert isinstance(train, View)
    x, y = train.x, train.y
    return x[:IMAGES], y[:IMAGES]


def network(seed: int) -> nn.Module:
    with_torchvision()
    return build_model("efficientnet_lite0", (1, 32, 32), 10, seed=seed)


def single(seed: int) -> tuple[float, float]:
    """The share of weights that stand in kernels of one entry, and KSM's bytes by a bit a weight, in %."""
    import torch

    rows = KSM(network(seed), torch.zeros(2, 1, 32, 32)).sizes()
    count = {True: 0, False: 0}
    for row in rows:
        count[bool(row["single"])] += int(str(row["weights"]))
    bytes_of = {key: sum(int(str(row[key])) for row in rows) for key in ("stored", "a bit a weight")}
    return 100 * count[True] / sum(count.values()), 100 * bytes_of["stored"] / bytes_of["a bit a weight"]


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    """An arm's accuracy on FashionMNIST, over a backbone that MNIST trained once a seed; or a share."""
    if name not in OPTIONS:
        return single(seed)[0 if name == "1 x 1 kernels" else 1]
    digits, clothes = tasks(args.data_root)
    training = Training(epochs=EPOCHS, batch_size=64, lr=1e-3, optimizer="adam", device="cpu", save_every=20)
    first = learn(
        network(seed), [digits], "independent", out=work.parent / f"mnist-{seed}", seed=seed, training=training
    )
    method, how = OPTIONS[name]
    backbone = first.method.plain(digits.name)
    run = learn(backbone, [clothes], method, out=work / "run", seed=seed, training=training, options=how)
    return 100 * float(run.report["average_accuracy"])


if __name__ == "__main__":
    measure(__doc__ or "", TARGETS, arm)
