"""Which kind of network one is: what some options become when they are left open."""

from __future__ import annotations

from typing import Literal

from torch import nn

NetworkKind = Literal["convolutional", "linear"]


def kind_of(model: nn.Module) -> NetworkKind:
    """Say "convolutional" if more of a network's layers are convolutions than linear ones, else "linear".

    A transformer is "linear", also one that begins with a convolution of patches.

    >>> kind_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 2)))
    'convolutional'
    """
    layers = list(model.modules())
    convolutions = sum(isinstance(layer, nn.modules.conv._ConvNd) for layer in layers)
    return "convolutional" if convolutions > sum(isinstance(layer, nn.Linear) for layer in layers) else "linear"
