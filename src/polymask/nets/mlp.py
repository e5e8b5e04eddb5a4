"""A multi-layer perceptron, the LeNet-300-100 of LeCun et al. (1998) among others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn


@final
class MLP(nn.Module):
    """Flatten, then Linear (- BatchNorm) - ReLU for each hidden width, then a linear head.

    Shapes: (N, ...) with ``inputs`` values an example -> (N, outputs).

    Args:
        inputs: values of an example, such as 784 for 28 x 28 pixels.
        hidden: widths of the hidden layers.
        outputs: width of the head.
        norm: whether a BatchNorm follows each hidden linear layer.

    >>> import torch
    >>> MLP(64, (300, 100), 10)(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(self, inputs: int, hidden: Sequence[int] = (100, 100), outputs: int = 10, norm: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for before, width in zip([inputs, *hidden], hidden, strict=False):
            layers += [nn.Linear(before, width), *([nn.BatchNorm1d(width)] if norm else []), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear([inputs, *hidden][-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, outputs)."""
        logits: Tensor = self.head(self.body(x))
        return logits
