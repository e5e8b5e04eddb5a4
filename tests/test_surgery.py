"""Widening: which layers can grow, that their new rows and columns lie where they belong, and what is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.traps import TRAPS
from torch import Tensor, nn

from polymask.calling import call, logits_of
from polymask.nets import MLP, VGG, ConvNet, ResNet18
from polymask.sites.roles import Policy, plan
from polymask.sites.table import attach
from polymask.surgery import Axes, growable, widen

ALL = Policy("masked", "private", "private", "private")


def axes_of(net: nn.Module, x: Any, growth: int = 3, policy: Policy = ALL) -> Axes:
    return growable(net, x, plan(net, x, policy), growth)


class Joined(nn.Module):
    """Two branches side by side; only the second's columns are the last ones."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(6, 4), nn.Linear(6, 3), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(x), self.right(x)], 1).relu())


class ChannelsLast(nn.Module):
    """A flatten that puts the units of one pixel side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4 * 2 * 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().movedim(1, -1).flatten(1))


class Averaged(nn.Module):
    """A layer whose units are read one by one, and all together."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.mean = nn.Linear(6, 4), nn.Linear(4, 2), nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).relu()
        return self.head(h) + self.mean(h.mean(1, keepdim=True))


class Fixed(nn.Module):
    """A layer whose width stands in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).view(-1, 4).relu())


class Raw(nn.Module):
    """A layer that the input is added to."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.gelu(x + self.body(x)))


class Shared(nn.Module):
    """A layer that is called twice, once on its own output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body, self.head = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.body(self.first(x).relu()).relu()).relu())


class PreActivation(nn.Module):
    """A norm that reads a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        return self.head(self.norm(y + self.branch(y)).relu().mean((2, 3)))


Make = Callable[[], tuple[nn.Module, Tensor]]
NETS: dict[str, tuple[Make, int]] = {
    "mlp": (lambda: (MLP(12, (8, 6), 5), torch.randn(4, 12)), 2),
    "mlp_bn": (lambda: (MLP(12, (8, 6), 5, norm=True), torch.randn(4, 12)), 2),
    "convnet": (lambda: (ConvNet(1, 5, (4, 6), (8, 12), pool=False), torch.randn(4, 1, 8, 12)), 2),
    "resnet": (lambda: (ResNet18(3, 5, 4), torch.randn(2, 3, 16, 16)), 12),
    "vgg": (lambda: (VGG(3, 5, (16, 32)), torch.randn(2, 3, 16, 32)), 8),
    "vgg_bn": (lambda: (VGG(3, 5, (16, 32), norm=True), torch.randn(2, 3, 16, 32)), 8),
    "shared": (lambda: (Shared(), torch.randn(4, 6)), 1),
    "residual": (TRAPS["residual_block"], 3),
    "pre-activation": (lambda: (PreActivation(), torch.randn(2, 1, 5, 7)), 1),
}
"""name -> a network that grows everywhere, and its groups of layers."""


@torch.no_grad()
def answer(net: nn.Module, x: Tensor) -> Tensor:
    return logits_of(call(net.eval(), x))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.full if name in ("resnet", "vgg", "vgg_bn") else ()) for name in NETS]
)
def test_old_values_stay_and_new_units_arrive_where_they_belong(name: str) -> None:
    (net, x), groups = NETS[name][0](), NETS[name][1]
    axes = axes_of(net, x)
    assert not axes.left
    assert len(axes.groups) == groups
    before = {key: value.clone() for key, value in net.state_dict().items()}
    logits, trained = answer(net, x), [key for key, p in net.named_parameters() if p.requires_grad]
    widen(net, axes, 3, ("key",))
    after = net.state_dict()
    assert list(after) == list(before)
    assert [key for key, p in net.named_parameters() if p.requires_grad] == trained
    for key, was in before.items():
        assert torch.equal(after[key][tuple(slice(size) for size in was.shape)], was)
        rows, columns = axes.steps.get(key, (0, 0))
        assert list(after[key].shape[:2]) == [n + 3 * s for n, s in zip(was.shape[:2], (rows, columns), strict=False)]
    assert not torch.allclose(answer(net, x), logits)
    with torch.no_grad():
        for key, (_, columns) in axes.steps.items():
            if columns:
                net.get_parameter(key)[:, before[key].shape[1] :] = 0
    torch.testing.assert_close(answer(net, x), logits, rtol=1e-4, atol=1e-5)
    for layer in (layer for group in axes.groups for layer in group):
        module = net.get_submodule(layer)
        assert module.weight.shape[0] == getattr(module, "out_features", getattr(module, "out_channels", 0))
    net.train()(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_layers_that_a_sum_adds_up_grow_as_one() -> None:
    assert axes_of(*TRAPS["residual_block"]()).groups == (("a", "b"), ("c",), ("d", "s"))


@pytest.mark.full
def test_layers_that_the_sums_of_a_whole_resnet_add_up_grow_as_one() -> None:
    axes = axes_of(ResNet18(3, 5, 4), torch.randn(2, 3, 16, 16))
    assert ("conv", "blocks.0.conv2", "blocks.1.conv2") in axes.groups
    assert ("blocks.2.conv2", "blocks.2.shortcut.0", "blocks.3.conv2") in axes.groups
    assert ("blocks.0.conv1",) in axes.groups


def test_a_flatten_gives_each_unit_a_block_of_columns() -> None:
    net = ConvNet(1, 5, (4, 6), (8, 12), pool=False)
    axes = axes_of(net, torch.randn(2, 1, 8, 12))
    assert axes.steps["head.weight"] == (0, 2 * 3)
    assert axes.block("head.weight", net.head.weight.shape, 2) == (5, 36 + 2 * 6)
    assert axes.growth("head.weight", (9, 36 + 2 * 6)) == 2


class Aided(nn.Module):
    """A second head that is asked in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.aid, self.head = nn.Linear(6, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).relu()
        return self.head(h) + self.aid(h) if self.training else self.head(h)


class Endless(nn.Sequential):
    """Answers that are not finite: logarithms of what may be below 0."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).log()


@pytest.mark.parametrize(
    ("net", "x", "layer", "why"),
    [
        (Endless(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 6), "0", "answers are not finite"),
        (Aided(), torch.randn(2, 6), "body", "in training the network does not accept it wider (mat1"),
        (Joined(), torch.randn(2, 6), "left", "its columns in 'head' are not the last ones"),
        (ChannelsLast(), torch.randn(2, 1, 4, 5), "conv", "its columns in 'head' are not the last ones"),
        (Averaged(), torch.randn(2, 6), "body", "its units mix"),
        (Fixed(), torch.randn(2, 6), "body", "the network does not accept it wider"),
        (Raw(), torch.randn(2, 6), "body", "do not arrive there as zero"),
        (nn.Sequential(nn.Linear(6, 1), nn.ReLU(), nn.Linear(1, 2)), torch.randn(2, 6), "0", "a single unit"),
        (
            nn.Sequential(nn.Linear(6, 4), nn.Sigmoid(), nn.Linear(4, 2)),
            torch.randn(2, 6),
            "0",
            "do not arrive there as zero",
        ),
        (
            nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(16, 2)),
            torch.randn(2, 2, 4, 4),
            "0",
            "a grouped convolution",
        ),
        (
            nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)),
            torch.randn(2, 2, 4, 4),
            "0",
            "",
        ),
        (nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 6), "0", ""),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, nn.Module) else None,
)
def test_what_cannot_grow_is_left_alone_with_the_reason(net: nn.Module, x: Tensor, layer: str, why: str) -> None:
    axes = axes_of(net, x)
    assert why in axes.left[layer]
    assert layer not in [one for group in axes.groups for one in group]
    before = {key: value.shape for key, value in net.state_dict().items()}
    widen(net, axes, 3)
    assert net.state_dict()[f"{layer}.weight"].shape == before[f"{layer}.weight"]
    assert answer(net, x).shape == (2, 2)


def test_the_last_part_of_a_concatenation_grows() -> None:
    assert axes_of(Joined(), torch.randn(2, 6)).groups == (("right",),)


def test_what_a_task_could_not_read_a_part_of_keeps_its_width() -> None:
    net = MLP(12, (8, 6), 5)
    axes = axes_of(net, torch.randn(2, 12), policy=Policy("masked", "private", "private", "frozen"))
    assert axes.left == {
        "body.1": "'body.1.bias' is frozen as it is",
        "body.3": "'body.3.bias' is frozen as it is",
    }


def test_widening_is_to_a_width_and_keyed_by_name() -> None:
    nets = [MLP(12, (8, 6), 5) for _ in range(3)]
    x = torch.randn(2, 12)
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    axes = axes_of(nets[0], x)
    for net, key in zip(nets, ("a", "a", "b"), strict=True):
        widen(net, axes, 2, (key,))
        widen(net, axes, 2, ("again",))
    one, same, other = (net.body[1].weight for net in nets)
    assert torch.equal(one, same)
    assert one.shape == other.shape == (10, 12)
    assert torch.equal(one[:8], other[:8])
    assert not torch.equal(one[8:], other[8:])
    assert one[8:].abs().max() <= 12**-0.5
    with pytest.raises(ValueError, match="no larger than"):
        widen(nets[0], axes, 1)


def test_an_attached_network_grows_in_what_is_held_too() -> None:
    net, x = MLP(12, (8, 6), 5, norm=True), torch.randn(4, 12)
    planned = plan(net, x, ALL)
    axes = growable(net, x, planned)
    sites = attach(net, planned.roles)
    for name in sites.weights:
        sites.keep_learned(name)
    before = sites.base("body.4.weight").clone()
    widen(sites, axes, 2)
    for name, site in sites.weights.items():
        assert site.kept is not None
        assert torch.equal(site.kept, sites.tensor(name))
    assert torch.equal(sites.base("body.4.weight")[:6, :8], before)
    assert sites.tensor("body.2.running_var").tolist() == [1.0] * 10
    assert answer(net, x).shape == (4, 5)


@pytest.mark.parametrize("seed", range(30))
def test_units_that_rest_under_one_draw_are_not_taken_for_unmixed(seed: int) -> None:
    torch.manual_seed(seed)
    assert "its units mix" in axes_of(Averaged(), torch.randn(2, 6)).left["body"]
