"""A small convolutional network in the manner of LeNet (LeCun et al. 1998), with BatchNorm, ReLU and max-pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor, nn


@final
class ConvNet(nn.Module):
    """For each width: 3 x 3 convolution - BatchNorm - ReLU - 2 x 2 max-pooling; then the mean of each map, and a head.

    Shapes: (N, channels, size, size) -> (N, w_i, size / 2^i, size / 2^i) after stage i, rounded down -> (N, outputs).
    What a task has of its own is mostly its head: of pooled maps it reads ``w_n`` numbers, of flattened ones
    ``w_n * rows * columns``. The widths were chosen so that accuracy holds (``benchmarks/pool.py``).

    Args:
        channels: of the images.
        outputs: width of the head.
        widths: channels of each stage.
        size: side of the images, or (height, width); a stage halves it.
        pool: whether the head reads the mean of every map; False: the maps themselves, flattened.

    Raises:
        ValueError: the images are too small for so many stages, or a width is not positive.

    >>> import torch
    >>> ConvNet(1, 10, size=28)(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        channels: int = 1,
        outputs: int = 10,
        widths: Sequence[int] = (32, 64, 128),
        size: int | tuple[int, int] = 8,
        pool: bool = True,
    ) -> None:
        super().__init__()
        if any(width < 1 for width in widths) or not isinstance(pool, bool):
            raise ValueError(f"expected widths of 1 or more, and pool as true or false, found {widths} and {pool!r}")
        height, width = (size, size) if isinstance(size, int) else size
        rows, columns = height >> len(widths), width >> len(widths)
        if not rows * columns:
            raise ValueError(
                f"{len(widths)} stages halve images of {height} x {width} to nothing: "
                f"at least {1 << len(widths)} pixels a side, or fewer widths"
            )
        stages: list[nn.Module] = []
        for before, after in zip([channels, *widths], widths, strict=False):
            stages += [
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.body = nn.Sequential(*stages, *([nn.AdaptiveAvgPool2d(1)] if pool else []), nn.Flatten())
        self.head = nn.Linear([channels, *widths][-1] * (1 if pool else rows * columns), outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, outputs)."""
        logits: Tensor = self.head(self.body(x))
        return logits
