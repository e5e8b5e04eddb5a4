"""Layers without a single entry, as searched and pruned networks have them: they are left alone, the rest is served."""

from __future__ import annotations

import pytest
import torch
from tests.contract import drive
from tests.contract.zoo import placed
from torch import Tensor, nn

from polymask import METHODS

QUICK = ("hat", "ksm", "wsn", "apd")
"""Methods that went wrong, each in another way."""


class NoInput(nn.Module):
    """A side branch that reads no feature."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.side, self.out = nn.Linear(4, 8), nn.Linear(0, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.first(x) + self.side(x[:, :0])).relu())


class NoOutput(nn.Module):
    """A side branch that has no unit."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.side, self.out = nn.Linear(4, 8), nn.Linear(8, 0), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        return self.out(torch.cat([h, self.side(h)], 1))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
@pytest.mark.parametrize("network", [NoInput, NoOutput])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.full) for name in METHODS]
)
def test_layers_without_entries_are_left_alone(name: str, network: type[nn.Module]) -> None:
    model, example = placed(network(), torch.zeros(2, 4))
    method, todo = METHODS[name](model, example), drive.tasks(example, 2)
    assert method.sites.roles["side.weight"].why == "it has no entries"
    drive.learn(method, todo[:1], drive.adamw())
    before = drive.logits(method, "a")
    drive.learn(method, todo[1:], drive.adamw())
    assert torch.isfinite(drive.logits(method, "b")).all()
    if method.exact is True:
        assert torch.equal(before, drive.logits(method, "a"))
