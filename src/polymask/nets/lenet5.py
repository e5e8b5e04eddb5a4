"""LeNet-5 (LeCun et al. 1998) as APD, GPM and WSN use it, and its strided kin for Tiny ImageNet; without norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn


@final
class LeNet(nn.Module):
    """Stages that halve the image, fully connected layers with ReLU, a linear head; nothing but the head has biases.

    A stage is a 5 x 5 convolution - ReLU - 3 x 3 max-pooling of stride 2, or without pooling a 3 x 3 convolution of
    stride 2 - ReLU.

    Shapes: (N, channels, size, size) -> (N, w_i, size / 2^i, size / 2^i) after stage i, rounded up ->
    (N, hidden[-1]) -> (N, outputs).

    Args:
        channels: of the images.
        outputs: width of the head.
        widths: channels of each stage; WSN has (64, 128) for Omniglot, and (160, 160, 160, 160) for Tiny ImageNet.
        hidden: widths of the fully connected layers; there (2500, 1500), and (640, 640).
        pool: False: strides instead of pooling, as La-MAML (Gupta et al. 2020) and WSN have for Tiny ImageNet.
        size: side of the images, or (height, width).

    >>> import torch
    >>> LeNet(3, 5, size=32)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        channels: int = 3,
        outputs: int = 10,
        widths: Sequence[int] = (20, 50),
        hidden: Sequence[int] = (800, 500),
        pool: bool = True,
        size: int | tuple[int, int] = 32,
    ) -> None:
        super().__init__()
        height, width = (size, size) if isinstance(size, int) else size
        layers: list[nn.Module] = []
        for before, after in zip([channels, *widths], widths, strict=False):
            if pool:
                conv = nn.Conv2d(before, after, 5, padding=2, bias=False)
                layers += [conv, nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
            else:
                layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.ReLU()]
            height, width = -(-height // 2), -(-width // 2)
        layers.append(nn.Flatten())
        flat = [channels, *widths][-1] * height * width
        for before, after in zip([flat, *hidden], hidden, strict=False):
            layers += [nn.Linear(before, after, bias=False), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear([flat, *hidden][-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, outputs)."""
        logits: Tensor = self.head(self.body(x))
        return logits
