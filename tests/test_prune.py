"""Units taken out of a network: answers stay, what is in use stays, and a wiring that lies takes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.traps import TRAPS, Net, conv, pooled
from tests.wirings import answer, found, patterns, randomised
from torch import Tensor, nn
from torch.nn import functional as F

from polymask.copies.kept import twin
from polymask.nets import build_net
from polymask.surgery import Pruned, prune
from polymask.surgery.cut import _shut
from polymask.wiring import Feed, Wiring, ask

SOME = ("batch_norm_of_a_sum", "layer_norm", "concatenation", "residual_block")
"""By default; all other traps are ``full``."""


def pruned(model: nn.Module, example: Tensor, wiring: Wiring, masks: dict[str, Tensor]) -> tuple[nn.Module, Pruned]:
    """A network with masks multiplied in, and what is left of it."""
    plain = twin(model).eval()
    _shut(plain, wiring, {**masks, **wiring.echo_masks(masks)})
    return plain, prune(plain, example, wiring, masks)


def numbers(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "name",
    [name if name in SOME else pytest.param(name, marks=pytest.mark.full) for name in TRAPS if "tied" not in name],
)
def test_a_smaller_network_answers_as_the_masked_one(name: str) -> None:
    model, wiring = found(name)
    _, example = TRAPS[name]()
    draw = torch.Generator().manual_seed(1)
    randomised(model, draw)
    for masks in patterns(wiring, draw)[4:6]:
        plain, small = pruned(model, example, wiring, masks)
        for scale in (1, 30):
            x = scale * torch.randn(example.shape, generator=draw)
            expected = answer(model, wiring, masks, x)
            torch.testing.assert_close(small.network(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        assert (numbers(small.network) < numbers(plain)) == (small.gone > 0)


def test_a_summand_in_use_keeps_the_unit_of_the_others() -> None:
    model, wiring = found("residual_block")
    masks = {site: torch.ones(size, dtype=torch.bool) for site, size in wiring.sizes.items()}
    masks["na"][0] = masks["nd"][2] = masks["nc"][1] = False
    _, small = pruned(model, TRAPS["residual_block"]()[1], wiring, masks)
    # What nc computes only d reads; na is added to b, nd to s.
    assert (small.dead, small.gone) == (3, 1)
    masks["nb"][0] = masks["ns"][2] = False
    plain, small = pruned(model, TRAPS["residual_block"]()[1], wiring, masks)
    assert (small.dead, small.gone) == (5, 5)
    assert [getattr(small.network, name).out_channels for name in "abcds"] == [3, 3, 5, 5, 5]
    assert small.network.na.num_features == 3
    assert small.network.head.in_features == 5
    assert plain.head.in_features == 6


def test_a_depthwise_channel_goes_with_the_one_that_it_reads() -> None:
    parts = {"a": conv(3, 6), "b": conv(6, 6, groups=6), "nb": nn.BatchNorm2d(6), "c": conv(6, 5, 1)}
    model = Net(
        lambda n, x: n.head(pooled(F.relu(n.c(F.relu(n.nb(n.b(F.relu(n.a(x))))))))), **parts, head=nn.Linear(5, 3)
    )
    x = torch.randn(2, 3, 6, 4)
    wiring = ask(randomised(model, torch.Generator().manual_seed(0)), x, "head", ["a.weight", "b.weight", "c.weight"])
    masks = {site: torch.ones(size, dtype=torch.bool) for site, size in wiring.sizes.items()}
    masks["a"][:3] = masks["nb"][2:5] = False
    plain, small = pruned(model, x, wiring, masks)
    assert small.gone == 2
    assert small.network.b.groups == small.network.b.in_channels == small.network.c.in_channels == 5
    torch.testing.assert_close(small.network(x), plain(x))


@pytest.mark.parametrize(
    "name", ["lenet", *[pytest.param(name, marks=pytest.mark.full) for name in ("mlp", "alexnet", "vgg", "resnet18")]]
)
def test_our_networks_become_smaller(name: str) -> None:
    shape = {"alexnet": (3, 32, 32), "vgg": (3, 16, 16)}.get(name, (1, 16, 16))
    width = {"resnet18": {"width": 4}}.get(name, {})
    model, x = build_net(name, shape, 3, **width), torch.randn(2, *shape)
    names = [f"{p}.weight" for p, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and p != "head"]
    wiring = ask(model, x, "head", names)
    masks = {site: torch.arange(size) % 2 == 0 for site, size in wiring.sizes.items()}
    plain, small = pruned(model, x, wiring, masks)
    assert small.gone == small.dead > 0
    assert not small.left
    assert numbers(small.network) < 0.6 * numbers(plain)
    torch.testing.assert_close(small.network(x), plain(x), rtol=1e-4, atol=1e-5)


def test_a_gate_that_is_almost_shut_stays_as_the_factor_that_it_is() -> None:
    model, wiring = found("sum_of_branches")
    _, example = TRAPS["sum_of_branches"]()
    gates = {"a": torch.tensor([0.0, 1e-6, 1.0, 0.5, 1.0]), "b": torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0])}
    plain, small = pruned(model, example, wiring, gates)
    assert (small.dead, small.gone) == (4, 2)
    torch.testing.assert_close(small.network(example), plain(example))


def test_a_layer_that_is_dead_as_a_whole_keeps_a_unit() -> None:
    model, wiring = found("flatten")
    masks = {site: torch.zeros(size, dtype=torch.bool) for site, size in wiring.sizes.items()}
    plain, small = pruned(model, TRAPS["flatten"]()[1], wiring, masks)
    assert [p.shape[0] for p in (small.network.a.weight, small.network.b.weight)] == [1, 1]
    x = TRAPS["flatten"]()[1]
    torch.testing.assert_close(small.network(x), plain(x))


def test_a_wiring_that_lies_takes_nothing_out() -> None:
    model, wiring = found("flatten")
    x = TRAPS["flatten"]()[1]
    masks = {site: torch.arange(size) > 0 for site, size in wiring.sizes.items()}
    head = wiring.feeds["head"][0]
    lie = replace(wiring, feeds={**wiring.feeds, "head": (Feed(head.site, head.units.flip(0)),)})
    plain, small = pruned(model, x, lie, masks)
    # Of the layer in front nothing is wrong, and its unit still goes.
    assert set(small.left) == {"b"}
    assert "answers otherwise" in small.left["b"]
    assert small.gone == 1
    torch.testing.assert_close(small.network(x), plain(x))


def test_a_unit_that_a_maximum_passes_over_by_accident_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"a": nn.Linear(6, 5), "b": nn.Linear(5, 4), "head": nn.Linear(4, 3)}
    model = Net(lambda n, x: n.head(F.relu(n.b(n.a(x))) + n.a(x).amax(-1, keepdim=True)), **parts)
    nn.init.constant_(model.a.bias, 100.0)  # a unit at 0 is never the largest, whatever goes in
    units = torch.arange(5)
    wiring = Wiring(
        {"a": -1}, {"a": 5}, {"a": "a"}, {"b": (Feed("a", units),)}, {"b": torch.zeros(5, dtype=torch.bool)}
    )
    masks = {"a": units > 1}
    plain, small = pruned(model, torch.randn(2, 6), wiring, masks)
    assert small.gone == 0
    assert "answers otherwise" in small.left["a"]
    assert numbers(small.network) == numbers(plain)
    # Under the network's own parameters alone nobody would have seen it.
    monkeypatch.setattr("polymask.surgery.cut.TRIALS", 0)
    assert pruned(model, torch.randn(2, 6), wiring, masks)[1].gone == 2


def test_what_is_tied_or_grouped_keeps_its_width() -> None:
    for name, why in (("tied_layers", "tied to another module"), ("grouped", "grouped convolution")):
        model, wiring = found(name)
        masks = {site: torch.arange(size) > 0 for site, size in wiring.sizes.items()}
        _, small = pruned(model, TRAPS[name]()[1], wiring, masks)
        assert any(why in reason for reason in small.left.values())
