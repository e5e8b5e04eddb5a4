"""ResNet-18 for small images (He et al. 2016): a 3 x 3 stem without pooling; full or narrow (Lopez-Paz 2017)."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn


@final
class Block(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm, added to the input or to its 1 x 1 projection.

    Shapes: (N, before, H, W) -> (N, after, H / stride, W / stride), rounded up.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.relu2 = nn.ReLU()
        same = stride == 1 and before == after
        project = (nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.shortcut = nn.Identity() if same else nn.Sequential(*project)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y)) + self.shortcut(x)
        out: Tensor = self.relu2(y)
        return out


@final
class ResNet18(nn.Module):
    """A stem, four stages of two blocks with w, 2w, 4w and 8w channels, mean over the image, a linear head.

    Shapes: (N, channels, H, W) -> (N, w, H, W) -> ... -> (N, 8w, H / 8, W / 8) -> (N, 8w) -> (N, outputs).

    Args:
        channels: of the images.
        outputs: width of the head.
        width: w; 64 is the full network, 20 the narrow one that continual learning uses.

    >>> import torch
    >>> ResNet18(3, 5, width=20)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 5])
    """

    def __init__(self, channels: int = 3, outputs: int = 10, width: int = 64) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        blocks: list[nn.Module] = []
        before = width
        for stage in range(4):
            after = width << stage
            blocks += [Block(before, after, 1 if stage == 0 else 2), Block(after, after, 1)]
            before = after
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(before, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, outputs)."""
        y = self.blocks(self.relu(self.norm(self.conv(x))))
        logits: Tensor = self.head(self.pool(y))
        return logits
