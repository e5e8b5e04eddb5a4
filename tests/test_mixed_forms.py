"""Every layer that a batch of many tasks knows a form for, with each part that it may lack."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from tests.test_mixed import UNITS, check, learned
from torch import Tensor, nn

LR = 0.03
"""Small enough for units to survive HAT, large enough for tasks to differ."""
DEFAULT = {("hat", False), ("tfm", True)}
NORMS: dict[str, Callable[[], nn.Module]] = {
    "group": partial(nn.GroupNorm, 2, 8),
    "group, other eps": partial(nn.GroupNorm, 4, 8, eps=0.5),
    "group, plain": partial(nn.GroupNorm, 2, 8, affine=False),
    "batch": partial(nn.BatchNorm2d, 8),
    "batch, plain": partial(nn.BatchNorm2d, 8, affine=False),
    "instance": partial(nn.InstanceNorm2d, 8, affine=True),
    "prelu": partial(nn.PReLU, 8),
}
FLAT: dict[str, Callable[[], nn.Module]] = {
    "layer": partial(nn.LayerNorm, 8),
    "layer, other eps": partial(nn.LayerNorm, 8, eps=0.5),
    "layer, no bias": partial(nn.LayerNorm, 8, bias=False),
    "layer, plain": partial(nn.LayerNorm, 8, elementwise_affine=False),
    "rms": partial(nn.RMSNorm, 8),
}
METHODS = pytest.mark.parametrize(
    ("method", "bias"),
    [
        pytest.param(method, bias, marks=() if (method, bias) in DEFAULT else (pytest.mark.full,))
        for method in ("hat", "tfm", "piggyback")
        for bias in (True, False)
    ],
)


class Image(nn.Module):
    """Convolutions, with or without biases, and a norm between them."""

    def __init__(self, norm: nn.Module, bias: bool) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(2, 8, 3, bias=bias), norm, nn.Conv2d(8, 6, 3, bias=bias)
        self.head = nn.Linear(6, 4, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.norm(self.a(x)).relu()).relu().mean((2, 3)))


class Flat(nn.Module):
    """Products, with or without biases, and a norm between them."""

    def __init__(self, norm: nn.Module, bias: bool) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(5, 8, bias=bias), norm, nn.Linear(8, 6, bias=bias)
        self.head = nn.Linear(6, 4, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.norm(self.a(x)).relu()).relu())


@METHODS
@pytest.mark.parametrize("norm", NORMS)
def test_layers_of_images(method: str, norm: str, bias: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 2, 8, 8)
    check(learned(UNITS[method], Image(NORMS[norm](), bias), x, lr=LR), torch.randn(5, 2, 8, 8), 5)


@METHODS
@pytest.mark.parametrize("norm", FLAT)
def test_layers_of_features(method: str, norm: str, bias: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 5)
    check(learned(UNITS[method], Flat(FLAT[norm](), bias), x, lr=LR), torch.randn(5, 5), 5)
