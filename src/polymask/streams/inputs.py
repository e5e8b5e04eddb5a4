"""What is done to an example before the network sees it: one description, used in training and in serving."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

RULE = "uint8/255; grey to colour: repeat; RGB to grey: ITU-R 601; resize: bilinear, antialias"
"""How bytes, channels and sizes are converted; written into every record, so that a reader can refuse another."""

ITU_R_601 = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Inputs:
    """Size, channels, augmentation and normalisation of a task's inputs, described in full.

    A batch of images (N, C, H, W) is resized to ``size`` and brought to ``channels``; while training a random part of
    at least ``area`` is enlarged to the whole, then padded by ``crop`` black pixels, cut back at a random place and
    mirrored at random; then

        x = (x / 255 if x is uint8 else x);   x = (x - mean[c]) / std[c].

    Anything but images goes through with the defaults, which change nothing except bytes to 0..1.

    Args:
        mean: one number for each channel, or one for all; None subtracts nothing.
        std: like ``mean``; None divides by nothing.
        crop: pixels of padding for random crops while training.
        flip: mirror left and right at random while training.
        size: (H, W) that every image is resized to; None keeps the size.
        channels: channels that every image is brought to; None keeps them.
        area: smallest share of the image that a random part has while training, its sides from 3:4 to 4:3; 1 keeps all.

    Raises:
        ValueError: a number is out of range.

    >>> inputs = Inputs(mean=(0.5,), std=(0.25,))
    >>> inputs(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)).unique()
    tensor([2.])
    >>> Inputs.from_json(inputs.to_json()) == inputs
    True
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: int = 0
    flip: bool = False
    size: tuple[int, int] | None = None
    channels: int | None = None
    area: float = 1.0

    def __post_init__(self) -> None:
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError(f"std must be above 0 in every channel, found {self.std}; leave it None for none")
        if self.crop < 0:
            raise ValueError(f"crop is a number of pixels, 0 or more, found {self.crop}")
        if self.size is not None and not all(side > 0 for side in self.size):
            raise ValueError(f"size is (height, width) in pixels, found {self.size}")
        if not 0 < self.area <= 1:
            raise ValueError(f"area is a share of the image, above 0 and at most 1, found {self.area}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and self.channels is not None and len(values) not in (1, self.channels):
                raise ValueError(f"{name} has one number, or one for each of {self.channels} channels, found {values}")

    def __call__(self, x: Tensor) -> Tensor:
        """What the network reads of a batch, without augmentation."""
        return self.scale(self.fit(x))

    @property
    def augments(self) -> bool:
        """Whether training sees something drawn at random."""
        return self.crop > 0 or self.flip or self.area < 1

    def fit(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) at ``channels`` and ``size``; bytes stay bytes, rounded.

        Raises:
            ValueError: the channels cannot be converted, or x is no batch of images.
        """
        right_size = self.size is None or (x.ndim == 4 and x.shape[-2:] == self.size)
        right_channels = self.channels is None or (x.ndim == 4 and x.shape[1] == self.channels)
        return x if right_size and right_channels else self.bring(x, size=not right_size)

    def bring(self, x: Tensor, size: bool) -> Tensor:
        """Images as ``fit`` makes them, resampled or not without asking what size they have, as a graph cannot ask.

        Args:
            x: a batch of images (N, C, H, W).
            size: whether to resample them to ``size``.

        Raises:
            ValueError: the channels cannot be converted, or x is no batch of images.
        """
        check_images(x, "size and channels")
        values = x if x.is_floating_point() else x.float()
        if self.channels is not None and x.shape[1] != self.channels:
            values = recolour(values, self.channels)
        if size:
            values = F.interpolate(values, self.size, mode="bilinear", antialias=True, align_corners=False)
        return values if x.is_floating_point() else values.round().clamp(0, 255).to(x.dtype)

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Random parts and mirror images of (N, C, H, W), drawn on the CPU so that every device sees the same.

        Raises:
            ValueError: x is no batch of images.
        """
        if not self.augments:
            return x
        check_images(x, "crop, flip and area")
        if self.area < 1:
            x = enlarge(x, random_boxes(len(x), self.area, generator))
        (n, _, height, width), span = x.shape, 2 * self.crop + 1
        top, left = torch.randint(span, (2, n, 1), generator=generator)
        mirrored = torch.rand(n, 1, generator=generator) < (0.5 if self.flip else 0.0)
        rows = top + torch.arange(height)
        columns = left + torch.where(mirrored, torch.arange(width - 1, -1, -1), torch.arange(width))
        # one gather does both, over the padded image laid out flat
        flat = (rows[:, :, None] * (width + 2 * self.crop) + columns[:, None, :]).view(n, 1, -1).to(x.device)
        padded = F.pad(x, [self.crop] * 4).flatten(2)
        return padded.gather(2, flat.expand(-1, x.shape[1], -1)).view_as(x)

    def scale(self, x: Tensor) -> Tensor:
        """Bytes to 0..1, then (x - mean) / std along dimension 1; other integers (token ids) are left alone."""
        if x.dtype == torch.uint8:
            x = x.float() / 255
        if self.mean is not None:
            x = x - along_channels(self.mean, x)
        return x if self.std is None else x / along_channels(self.std, x)

    def to_json(self) -> dict[str, Any]:
        """Numbers, lists and strings only, the conversion rule included."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()} | {
            "rule": RULE
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Inputs:
        """What ``to_json`` wrote.

        Raises:
            ValueError: the record follows another conversion rule.
        """
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in record.items()
        }
        if (rule := values.pop("rule", RULE)) != RULE:
            raise ValueError(f"inputs are converted by the rule {RULE!r}, the record says {rule!r}")
        return cls(**values)


def random_boxes(n: int, area: float, generator: torch.Generator) -> Tensor:
    """Parts of n images as rows (centre x, centre y, half width, half height), the image going from -1 to 1.

    The share is uniform from ``area`` to 1 and the logarithm of width / height uniform from 3:4 to 4:3, both drawn up
    to ten times until the part lies within the image, else the whole is taken: the crops that ImageNet networks train
    on (Szegedy et al. 2015).

    >>> boxes = random_boxes(100, 0.25, torch.Generator().manual_seed(0))
    >>> bool((boxes[:, :2].abs() + boxes[:, 2:] <= 1 + 1e-6).all() and (boxes[:, 2] * boxes[:, 3] >= 0.25 - 1e-6).all())
    True
    """
    share = area + (1 - area) * torch.rand(n, 10, generator=generator)
    ratio = torch.exp(math.log(4 / 3) * (2 * torch.rand(n, 10, generator=generator) - 1))
    sides = torch.stack([(share * ratio).sqrt(), (share / ratio).sqrt()], -1)
    fits = (sides <= 1).all(-1)
    first = fits.int().argmax(1)
    half = torch.where(fits.any(1)[:, None], sides[torch.arange(n), first], torch.ones(n, 2))
    centre = (2 * torch.rand(n, 2, generator=generator) - 1) * (1 - half)
    return torch.cat([centre, half], 1)


def enlarge(x: Tensor, boxes: Tensor) -> Tensor:
    """A part of each image (N, C, H, W) enlarged to the whole, bilinear; bytes stay bytes, rounded.

    >>> image = torch.tensor([[[[0.0, 0.0, 1.0, 1.0]] * 4]])
    >>> enlarge(image, torch.tensor([[0.5, 0.0, 0.5, 1.0]])).unique()
    tensor([0.7500, 1.0000])
    """
    boxes = boxes.to(x.device)
    theta = torch.zeros(len(x), 2, 3, device=x.device)
    theta[:, :, 2], theta[:, 0, 0], theta[:, 1, 1] = boxes[:, :2], boxes[:, 2], boxes[:, 3]
    values = x if x.is_floating_point() else x.float()
    grid = F.affine_grid(theta, list(x.shape), align_corners=False).to(values.dtype)
    found = F.grid_sample(values, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found if x.is_floating_point() else found.round().to(x.dtype)


def along_channels(values: tuple[float, ...], x: Tensor) -> Tensor:
    """The values as a tensor that broadcasts along dimension 1 of x."""
    return torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, *[1] * (x.ndim - 2))


def recolour(x: Tensor, channels: int) -> Tensor:
    """Float images (N, C, H, W) with another number of channels: grey is repeated, RGB becomes its luma.

    Raises:
        ValueError: neither grey to colour nor RGB to grey.

    >>> recolour(torch.ones(1, 3, 2, 2), 1).shape
    torch.Size([1, 1, 2, 2])
    """
    if x.shape[1] == 1:
        return x.expand(-1, channels, -1, -1)
    if x.shape[1] == 3 and channels == 1:
        return (x * along_channels(ITU_R_601, x)).sum(1, keepdim=True)
    raise ValueError(f"no rule to bring {x.shape[1]} channels to {channels}: 1 to any number, or 3 to 1")


def check_images(x: Tensor, wish: str) -> None:
    """Refuse what has not the shape of a batch of images.

    Raises:
        ValueError: there are other than four dimensions.
    """
    if x.ndim != 4:
        raise ValueError(f"{wish} need images (N, C, H, W), found a batch of shape {tuple(x.shape)}")
