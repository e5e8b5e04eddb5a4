"""The small AlexNet of HAT (Serra et al. 2018), GPM and WSN for 32 x 32 images, after Krizhevsky et al. (2012)."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

STAGES = ((64, 0.2), (128, 0.2), (256, 0.5))
"""Channels of each convolution, and how much of its output is dropped."""


@final
class AlexNet(nn.Module):
    """Three convolutions, each with ReLU, dropout and 2 x 2 max-pooling; two layers of ``hidden``; a linear head.

    Kernels are size / 8, size / 10 and 2 wide, without padding. Nothing but the head has biases.

    Shapes: (N, channels, 32, 32) -> (N, 64, 14, 14) -> (N, 128, 6, 6) -> (N, 256, 2, 2) -> (N, hidden) -> (N, outputs).

    Args:
        channels: of the images.
        outputs: width of the head.
        size: side of the images, or (height, width), at least 20.
        hidden: width of the two fully connected layers.
        norm: whether a BatchNorm follows every layer but the head.

    Raises:
        ValueError: the images are smaller than 20 x 20.

    >>> import torch
    >>> AlexNet(3, 10, size=32)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        channels: int = 3,
        outputs: int = 10,
        size: int | tuple[int, int] = 32,
        hidden: int = 2048,
        norm: bool = True,
    ) -> None:
        super().__init__()
        sides = (size, size) if isinstance(size, int) else size
        if min(sides) < 20:
            raise ValueError(f"three poolings need images of 20 x 20 or more, found {sides[0]} x {sides[1]}: resize")
        layers: list[nn.Module] = []
        before, kernels = channels, (min(sides) // 8, min(sides) // 10, 2)
        for (after, drop), kernel in zip(STAGES, kernels, strict=True):
            layers += [nn.Conv2d(before, after, kernel, bias=False), *([nn.BatchNorm2d(after)] if norm else [])]
            layers += [nn.ReLU(), nn.Dropout(drop), nn.MaxPool2d(2)]
            sides, before = ((sides[0] - kernel + 1) // 2, (sides[1] - kernel + 1) // 2), after
        self.body = nn.Sequential(*layers, nn.Flatten())
        before *= sides[0] * sides[1]
        layers = []
        for _ in range(2):
            layers += [nn.Linear(before, hidden, bias=False), *([nn.BatchNorm1d(hidden)] if norm else [])]
            layers += [nn.ReLU(), nn.Dropout(0.5)]
            before = hidden
        self.classifier = nn.Sequential(*layers)
        self.head = nn.Linear(before, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, outputs)."""
        logits: Tensor = self.head(self.classifier(self.body(x)))
        return logits
