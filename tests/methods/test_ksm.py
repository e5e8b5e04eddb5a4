"""KSM's own invariants: the values of a mask, its gradient, its granularities, what it stores and leaves alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from polymask import detach
from polymask.methods import KSM, Piggyback
from polymask.parts.pack import Packed, pack_soft, unpack
from polymask.parts.soft import repeat_groups, soft_mask, soft_payload

TAU = 0.005


def conv_net(channels: int = 3, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=groups), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def train(method: KSM | Piggyback, task: str, seed: int, steps: int = 6, lr: float = 4e-3) -> None:
    draw = torch.Generator().manual_seed(seed)
    method.begin(task)
    method.model.train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=lr)
    for step in range(steps):
        method.on_step(step / steps)
        x, y = torch.randn(8, 3, 6, 6, generator=draw), torch.randint(3, (8,), generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(method.model(x), y).backward()
        optimizer.step()
    method.end(task)


def by_hand(scores: Tensor) -> Tensor:
    """The specification's words, entry by entry, in double precision."""
    flat, tau = scores.double().flatten().tolist(), float(torch.tensor(TAU))
    b = [float(r >= tau) for r in flat]
    a = [r * (1 - on) for r, on in zip(flat, b, strict=True)]
    lo, hi = min(a), max(a)
    graded = [1.0] * len(a) if hi == lo else [0.0 if v == 0 else (v - lo) / (hi - lo) for v in a]
    return torch.tensor([1 if on else 0.5 * v for on, v in zip(b, graded, strict=True)]).view(scores.shape)


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("start", [0.005, 0.02, -0.01], ids=["around tau", "all above", "all below"])
def test_the_mask_is_the_specifications_and_survives_its_bytes(bits: int, start: float) -> None:
    scores = start + 0.004 * torch.randn(5, 7, 1, 1, generator=torch.Generator().manual_seed(bits))
    scores[0, 0], scores[0, 1] = 0.0, TAU
    mask = soft_mask(scores, TAU, bits)
    assert (mask - by_hand(scores)).abs().max() <= (0 if bits == 32 else 0.5 / (2**bits - 1)) + 1e-6
    assert bool(((mask == 1) | ((mask >= 0) & (mask <= 0.5))).all())
    packed = pack_soft(mask, bits)
    assert torch.equal(unpack(packed), mask)
    assert packed.nbytes == math.ceil(35 / 8) + int((scores < TAU).sum()) * bits // 8


def test_where_all_scores_are_equal_the_mask_is_a_half_or_one_and_never_nan() -> None:
    for value, expected in ((0.001, 0.5), (0.0, 0.5), (-1.0, 0.5), (0.01, 1.0)):
        assert torch.equal(soft_mask(torch.full((2, 3), value), TAU), torch.full((2, 3), expected))


@pytest.mark.parametrize("damage", ["cut", "longer", "bits"])
def test_a_damaged_payload_is_one_clear_error(damage: str) -> None:
    payload = soft_payload(soft_mask(torch.randn(3, 5) / 100, TAU), 8)
    wrong = {"cut": payload[:-1], "longer": torch.cat([payload, payload[:1]]), "bits": payload}[damage]
    with pytest.raises(ValueError, match="damaged record"):
        unpack(Packed("soft", (3, 5), wrong, 7 if damage == "bits" else 8))
    with pytest.raises(ValueError, match="2 groups of 8 along axis 1"):
        repeat_groups(torch.ones(3, 3), (3, 9))


@pytest.mark.parametrize(
    ("granularity", "shape"),
    [
        ("element", (6, 3, 3, 3)),
        ("kernel", (6, 3, 1, 1)),
        ("input", (1, 3, 1, 1)),
        ("output", (6, 1, 1, 1)),
        ("group", (6, 1, 1, 1)),
    ],
)
def test_scores_have_the_shape_of_their_granularity_and_the_network_starts_as_it_was(
    granularity: str, shape: tuple[int, ...]
) -> None:
    net = conv_net().eval()
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    before = net(x)
    method = KSM(net, x, granularity=granularity)
    method.begin("a")
    assert tuple(method.scores["0.weight"].shape) == shape
    assert torch.equal(net.eval()(x)[:, :0], before[:, :0])
    assert torch.equal(net[0](x), nn.functional.conv2d(x, net[0].weight, net[0].bias, padding=1))
    assert torch.equal(net[0].weight, method.sites.base("0.weight"))


def test_a_group_is_eight_neighbouring_input_channels_and_the_last_has_fewer() -> None:
    net = conv_net(11)
    method = KSM(net, torch.zeros(2, 11, 6, 6), granularity="group")
    method.begin("a")
    scores = method.scores["0.weight"]
    assert tuple(scores.shape) == (6, 2, 1, 1)
    with torch.no_grad():
        scores[:, 1] = 0.001
    assert torch.equal(net[0].weight[:, :8], method.sites.base("0.weight")[:, :8])
    assert torch.equal(net[0].weight[:, 8:], method.sites.base("0.weight")[:, 8:] * 0.5)


@pytest.mark.parametrize("granularity", ["input", "group"])
def test_input_channels_of_a_layer_of_groups_are_refused_in_a_sentence(granularity: str) -> None:
    with pytest.raises(ValueError, match=r"expected a layer of one group .* found '3.weight' with 2"):
        KSM(conv_net(groups=2), torch.zeros(2, 3, 6, 6), granularity=granularity)
    KSM(conv_net(groups=2), torch.zeros(2, 3, 6, 6))


def test_a_transposed_convolution_has_its_axes_the_other_way() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2))
    shapes = {}
    for granularity in ("input", "output"):
        method = KSM(net, torch.zeros(2, 3, 6, 6), granularity=granularity)
        method.begin("a")
        shapes[granularity] = tuple(method.scores["0.weight"].shape)
        method.abandon()
        detach(net)
    assert shapes == {"input": (3, 1, 1, 1), "output": (1, 5, 1, 1)}


def test_the_gradient_is_that_of_a_sigmoid_and_none_passes_the_graded_part() -> None:
    net = conv_net()
    method = KSM(net, torch.zeros(2, 3, 6, 6), beta=1200, temperature=100)
    method.begin("a")
    scores = method.scores["0.weight"]
    with torch.no_grad():
        scores.copy_(TAU + 0.01 * torch.randn(scores.shape, generator=torch.Generator().manual_seed(0)))
    weight = torch.randn(net[0].weight.shape, generator=torch.Generator().manual_seed(1))
    (net[0].weight * weight).sum().backward()
    slope = torch.sigmoid(12 * (scores - TAU))
    kernel = (method.sites.base("0.weight") * weight).sum((2, 3), keepdim=True)
    assert torch.allclose(scores.grad, 12 * slope * (1 - slope) * kernel, rtol=1e-5)


@pytest.mark.parametrize("soft", [True, False])
def test_for_kernels_of_one_weight_kernel_and_element_are_the_same(soft: bool) -> None:
    found = []
    for granularity in ("kernel", "element"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
        method = KSM(net, torch.zeros(2, 3, 6, 6), granularity=granularity, soft=soft)
        train(method, "a", 0)
        found.append(unpack(method.records["a"].masks["0.weight"]))
    assert torch.equal(*found)
    assert bool((found[0] != 1).any())


def test_the_backbone_never_moves_and_norms_are_the_tasks_own() -> None:
    net = conv_net()
    method = KSM(net, torch.zeros(2, 3, 6, 6))
    base = {name: method.sites.base(name).clone() for name in ("0.weight", "0.bias", "3.weight", "3.bias")}
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(5))
    train(method, "a", 0)
    first = method.plain("a")(x)
    train(method, "b", 1)
    assert all(torch.equal(method.sites.base(name), value) for name, value in base.items())
    assert not torch.equal(method.records["a"].private["1.weight"], method.records["b"].private["1.weight"])
    method.activate("a")
    once = net(x)
    method.activate("b")
    method.activate("a")
    assert torch.equal(net(x), once)
    assert torch.equal(method.plain("a")(x), first)


def test_sizes_are_those_that_a_task_then_takes() -> None:
    method = KSM(conv_net(), torch.zeros(2, 3, 6, 6))
    train(method, "a", 0)
    for row in method.sizes():
        packed = method.records["a"].masks[str(row["weight"])]
        off = int((unpack(packed) != 1).sum())
        assert packed.nbytes == int(str(row["hard"])) + off
        share = 1 - off / int(str(row["scores"]))
        (again,) = (other for other in method.sizes(share) if other["weight"] == row["weight"])
        assert again["stored"] == packed.nbytes
    assert [row["single"] for row in method.sizes()] == [False, False]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"init": 0.001}, "init of at least tau"),
        ({"bits": 7}, "8, 16 or 32 bits"),
        ({"beta": 0.0}, "beta and temperature above 0"),
    ],
)
def test_an_option_out_of_range_is_one_clear_error(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        KSM(conv_net(), torch.zeros(2, 3, 6, 6), **wrong)
