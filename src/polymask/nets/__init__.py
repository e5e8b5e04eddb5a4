"""The papers' own small networks, by name and with their size taken from an example."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from polymask.nets.alexnet import AlexNet
from polymask.nets.lenet import ConvNet
from polymask.nets.lenet5 import LeNet
from polymask.nets.mlp import MLP
from polymask.nets.resnet18 import ResNet18
from polymask.nets.vgg import VGG
from polymask.parts.seeds import seed_of

NETS: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "convnet": ConvNet,
    "lenet": LeNet,
    "alexnet": AlexNet,
    "vgg": VGG,
    "resnet18": ResNet18,
}

__all__ = ["MLP", "NETS", "VGG", "AlexNet", "ConvNet", "LeNet", "ResNet18", "build_net"]


def build_net(name: str, example_shape: Sequence[int], outputs: int, *, seed: int = 0, **how: Any) -> nn.Module:
    """A network for examples of a shape, with parameters drawn from ``seed`` and from nothing else.

    Args:
        name: a key of `NETS`.
        example_shape: of one example, without the batch: (C, H, W), or (F,) for the MLP.
        outputs: width of the head.
        seed: what the parameters are drawn from; the global generators stay as they are.
        how: arguments of the network, instead of those that follow from the example.

    Raises:
        ValueError: there is no such network, or it is one for images and the example is none.

    >>> net = build_net("mlp", (1, 8, 8), 10, hidden=(32,))
    >>> net.body[1]
    Linear(in_features=64, out_features=32, bias=True)
    """
    if name not in NETS:
        raise ValueError(f"no network {name!r}; there are {', '.join(NETS)}")
    if name == "mlp":
        fit: dict[str, Any] = {"inputs": math.prod(example_shape)}
    elif len(example_shape) != 3:
        raise ValueError(f"{name!r} reads images (C, H, W), found examples of shape {tuple(example_shape)}: take 'mlp'")
    else:
        fit = {"channels": example_shape[0]}
        if name != "resnet18":
            fit["size"] = tuple(example_shape[1:])
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # torch.manual_seed would also seed the accelerators, which a fork of the CPU's generator does not put back
        torch.default_generator.manual_seed(seed_of(seed, "init"))
        return NETS[name](**{"outputs": outputs, **fit, **how})
