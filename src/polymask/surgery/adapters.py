"""Adapters: small modules at the end of each branch of a frozen network, which learn in its place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from polymask.parts.seeds import generator
from polymask.sites.plugs import plug
from polymask.surgery.joints import find_joints

START = 0.01
"""The deviation of an adapter's last weights: near zero, so that the host starts as it is, and above it, for ReLU."""


class Adapter(nn.Module):
    """A bottleneck beside a branch: ``x + relu(W2 relu(W1 x + b1) + b2)``, nearly ``x`` at first.

    Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP", with the second ReLU of CTR (Ke et al. 2021).

    Args:
        width: of the branch.
        bottleneck: units between.
        seed: what the weights are drawn from.

    >>> Adapter(8, 2)(torch.ones(1, 3, 8)).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, width: int, bottleneck: int, seed: str = "") -> None:
        super().__init__()
        self.arguments = {"width": width, "bottleneck": bottleneck, "seed": seed}
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        draw = generator("adapter", seed)
        with torch.no_grad():
            self.down.weight.normal_(0, width**-0.5, generator=draw)
            self.up.weight.normal_(0, START, generator=draw)
            self.down.bias.zero_()
            self.up.bias.zero_()

    def branch(self, h: Tensor) -> Tensor:
        """What is added."""
        found: Tensor = self.up(self.down(h).relu()).relu()
        return found

    def forward(self, x: Tensor) -> Tensor:
        """The branch with what is added to it."""
        return x + self.branch(x)


def add_adapters(host: nn.Module, example: Any, bottleneck: int = 256, *, seed: int = 0) -> nn.Module:
    """Plug an adapter into every joint of a network, two a layer, and freeze all else, in place.

    Methods then mask the adapters: ``HAT(host, example, sites="all")``, ``Piggyback(host, example)``.

    Args:
        host: a transformer of torch, timm or transformers whose layers are their own.
        example: an input that it accepts.
        bottleneck: units of each adapter.
        seed: what their weights are drawn from.

    Returns:
        The network, for convenience; ``polymask.sites.plugs.unplug`` takes the adapters out again.

    Raises:
        CannotPlug: if there is no such place.

    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> host = add_adapters(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), torch.zeros(1, 3, 8), 4)
    >>> [name for name, p in host.named_parameters() if p.requires_grad][:2]
    ['layers.0.dropout1.plug.down.weight', 'layers.0.dropout1.plug.down.bias']
    """
    joints = find_joints(host, example)
    made = {one.module: Adapter(one.width, bottleneck, f"{seed}/{one.module}") for one in joints}
    return plug(host, made, freeze=True)
