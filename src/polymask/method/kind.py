"""Which kind of network one is: what some options become when they are left open."""

from __future__ import annotations

from typing import Literal

from torch import nn

NetworkKind = Literal["convolutional", "linear"]


def kind_of(model: nn.Module) -> NetworkKind:
    """Say "convolutional" if a third or more of a network's convolutions and linear layers are convolutions.

    So that one whose last layers are linear is, as AlexNet; a transformer is "linear", also one that begins with a
    convolution of patches, and so is what has neither.

    >>> kind_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)))
    'convolutional'
    """
    layers = list(model.modules())
    convolutions = sum(isinstance(layer, nn.modules.conv._ConvNd) for layer in layers)
    linear = sum(isinstance(layer, nn.Linear) for layer in layers)
    return "convolutional" if 0 < convolutions >= linear / 2 else "linear"
