"""The small VGG of the task-incremental survey of De Lange et al. (2021), after Simonyan and Zisserman (2015)."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

LAYERS: tuple[int | None, ...] = (64, None, 64, None, 64, 64, None, 128, 128, None)
"""Channels of each 3 x 3 convolution; None is 2 x 2 max-pooling."""


@final
class VGG(nn.Module):
    """Convolutions 64-M-64-M-64-64-M-128-128-M, two fully connected layers of 128, a linear head; ReLU throughout.

    Shapes: (N, channels, size, size) -> (N, 128, size / 16, size / 16) -> (N, 128) -> (N, outputs).

    Args:
        channels: of the images.
        outputs: width of the head.
        size: side of the images, or (height, width), at least 16: 64 for Tiny ImageNet.
        norm: whether a BatchNorm follows each convolution.

    Raises:
        ValueError: the images are smaller than 16 x 16.

    >>> import torch
    >>> VGG(3, 20, size=64)(torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 20])
    """

    def __init__(
        self, channels: int = 3, outputs: int = 10, size: int | tuple[int, int] = 64, norm: bool = False
    ) -> None:
        super().__init__()
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < 16:
            raise ValueError(f"four poolings need images of 16 x 16 or more, found {height} x {width}: resize them")
        layers: list[nn.Module] = []
        before = channels
        for after in LAYERS:
            if after is None:
                layers.append(nn.MaxPool2d(2))
            else:
                norms = [nn.BatchNorm2d(after)] if norm else []
                layers += [nn.Conv2d(before, after, 3, padding=1), *norms, nn.ReLU()]
                before = after
        flat = 128 * (height // 16) * (width // 16)
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.classifier = nn.Sequential(nn.Linear(flat, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
        self.head = nn.Linear(128, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, outputs)."""
        logits: Tensor = self.head(self.classifier(self.body(x)))
        return logits
