"""How a copy is disturbed and asked before a method's sites are believed, so that nothing hides a difference."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.test_agreement import Gate, Residual, WideLora, mlp
from torch import Tensor, nn
from torch.nn import functional as F

from polymask.method.agreement import Trial, make_trial, same, units_that_agree
from polymask.method.contract import Method
from polymask.methods import HAT, WSN, Piggyback
from polymask.sites.roles import Plan, Policy, plan
from polymask.wiring import Wiring

HIDDEN = {"0": -1, "2": -1, "4": -1}
"""The units of an ``mlp``: module -> axis."""


def agreed(net: nn.Module, example: Tensor, real: bool = False, units: dict[str, int] | None = None) -> set[str]:
    """Of units by hook, those that a method may mask."""
    planned = plan(net, example, Policy("frozen", "frozen", "frozen", "frozen"), None)
    found, _ = units_that_agree(net, example, planned, HIDDEN if units is None else units, Wiring(), real)
    return {*found}


class Rested(WideLora):
    """What it does beside the product starts as nothing, as LoRA does."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        nn.init.zeros_(self.up)


class Sign(nn.Linear):
    """Shut rows give 0; a gain on them is lost."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sign()


class Second(nn.Linear):
    """Of a batch of more than one row, a shut row of the weight is not a shut unit."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (x.mean(-1, keepdim=True) if len(x) > 2 else 0.0)


@pytest.fixture(autouse=True)
def fixed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", [Gate, Residual, Rested], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("example", [torch.zeros(2, 6), torch.randn(2, 6)], ids=["zeros", "drawn"])
def test_neither_a_zero_weight_nor_a_zero_input_hides_a_difference(
    kind: Callable[[int, int], nn.Module], example: Tensor
) -> None:
    net = nn.Sequential(kind(6, 9), nn.ReLU(), kind(9, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4))
    assert agreed(net, example) == {"4"}


class Told(nn.Module):
    """Refuses what it does not know: another input than its own, or weights other than it was built with."""

    def __init__(self, body: nn.Module, x: Tensor, weights: bool) -> None:
        super().__init__()
        self.body, self.weights = body, weights
        self.register_buffer("known", x)
        self.total = sum(float(p.detach().sum()) for p in body.parameters())

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.known.shape[1:] or not torch.equal(x, self.known[: len(x)]):
            raise ValueError("another input")
        if self.weights and sum(float(p.detach().sum()) for p in self.parameters()) != self.total:
            raise ValueError("other weights")
        return self.body(x)


UNITS = {"body.0": -1, "body.2": -1, "body.4": -1}


def test_a_network_that_takes_its_example_alone_is_asked_that_with_weights_drawn_anew() -> None:
    x = torch.randn(2, 6)
    assert agreed(Told(mlp(Rested), x, weights=False), x, units=UNITS) == {"body.0", "body.4"}


def test_a_network_that_takes_no_other_weights_is_asked_as_it_is() -> None:
    x = torch.randn(2, 6)
    net = Told(mlp(Gate), x, weights=True)
    planned = plan(net, x, Policy("frozen", "frozen", "frozen", "frozen"), None)
    trial = make_trial(net, x, planned, UNITS, Wiring(), False)
    own = net.state_dict().values()
    assert all(torch.equal(p, was) for p, was in zip(trial.sites.model.state_dict().values(), own, strict=True))
    assert torch.equal(trial.asked[0], x)


def test_other_inputs_that_the_network_takes_are_asked_too_and_no_others() -> None:
    net, x = mlp(Second), torch.randn(2, 6)
    policy = Policy("frozen", "frozen", "frozen", "frozen")
    planned = plan(net, x, policy, None)
    found = units_that_agree(net, x, _with(planned, torch.randn(4, 6)), HIDDEN, Wiring(), False)[0]
    assert {*found} == {"0", "4"}
    trial = make_trial(net, x, _with(planned, torch.randn(4, 7), torch.randn(4, 6)), HIDDEN, Wiring(), False)
    assert [one.shape for one in trial.asked] == [(2, 6), (4, 6)]


def _with(planned: Plan, *others: Tensor) -> Plan:
    return replace(planned, others=list(others))


def test_a_gain_that_is_lost_shuts_a_unit_only_where_masks_multiply() -> None:
    x = torch.randn(2, 6)
    assert agreed(mlp(Sign), x) == {"0", "2", "4"}
    assert agreed(mlp(Sign), x, real=True) == {"0", "4"}
    with pytest.raises(ValueError, match="'0'"):
        HAT(nn.Sequential(Sign(6, 9), nn.ReLU(), nn.Linear(9, 4)), x, soft=True)


def test_two_patterns_are_tried_of_units(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = mlp(nn.Linear), torch.randn(2, 6)
    planned = plan(net, x, Policy("frozen", "frozen", "frozen", "frozen"), None)
    trial = make_trial(net, x, planned, HIDDEN, Wiring(), False)
    for good in (0, 1):
        monkeypatch.setattr(Trial, "_once", lambda self, units, weights, turn, good=good: turn == good)
        assert not trial.agrees(["0"], [])
    assert not trial.agrees([], ["0.weight"])


class Restless(nn.Module):
    """Rounds otherwise each time."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * (1 + random.random() * 2e-7)


def test_rounding_otherwise_each_time_hides_nothing_where_masks_multiply() -> None:
    assert agreed(Restless(mlp(Gate)), torch.randn(2, 6), real=True, units=UNITS) == {"body.0", "body.4"}


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        (torch.tensor([3, 4]), torch.tensor([3, 4]), True),
        (torch.tensor([3, 4]), torch.tensor([3, 5]), False),
        (torch.tensor([1.0]).bfloat16(), torch.tensor([1.0 + 2**-5]).bfloat16(), True),
        (torch.tensor([1.0]).bfloat16(), torch.tensor([1.0 + 2**-3]).bfloat16(), False),
    ],
    ids=str,
)
def test_how_near_is_near(a: Tensor, b: Tensor, alike: bool) -> None:
    assert same(a, b, real=True) is alike


def test_what_was_agreed_on_of_some_roles_is_not_taken_for_others() -> None:
    """Of one build, first the frozen network, then the one whose weights are masked."""
    x = torch.randn(2, 6)

    def masked(patterns: list[str] | None) -> Method:
        torch.manual_seed(0)
        return WSN(mlp(Spoiled), x, masked=patterns)

    masked(["0.weight", "4.weight"])
    with pytest.raises(ValueError, match=r"expected a network that reads '\d\.weight' under a mask as a plain one"):
        masked(None)


class Spoiled(nn.Linear):
    """Reads its weight otherwise where that is computed."""

    def forward(self, x: Tensor) -> Tensor:
        own = "weight" in self._parameters
        return F.linear(x, self.weight if own else self.weight * 1.5, self.bias)


def closed(kind: type[nn.Module]) -> nn.Module:
    """A network like no other: it holds a closure."""
    net = mlp(kind)
    net.note = lambda: kind
    return net


def test_nothing_is_remembered_of_a_network_like_no_other() -> None:
    x = torch.randn(2, 6)
    assert agreed(closed(nn.Linear), x) == {"0", "2", "4"}
    assert agreed(closed(Gate), x) == {"0", "4"}


class Wide(nn.Linear):
    """Does more than the product where its input is wide."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (x.mean() if x.ndim > 2 else 0.0)


def test_what_was_agreed_on_for_an_example_is_not_taken_for_one_of_another_shape() -> None:
    assert agreed(mlp(Wide), torch.randn(2, 6)) == {"0", "2", "4"}
    assert agreed(mlp(Wide), torch.randn(2, 5, 6)) == {"0", "4"}


def test_units_by_hook_that_agree_stay_and_others_go() -> None:
    torch.manual_seed(0)
    made = Piggyback(mlp(Gate), torch.randn(2, 6), granularity="unit")
    assert {*made.sites.units} == {"0", "4"}


class Later(nn.Module):
    """Its units mix only after the first forward in training mode, which sets a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 4)
        self.register_buffer("mix", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mix = self.mix * 0.5 + 0.5
        h = self.a(x).relu()
        return self.head(self.b(h + self.mix * h.roll(1, -1)).relu())


def test_what_a_buffer_hides_at_first_is_found() -> None:
    assert {*HAT(Later(), torch.randn(4, 6)).sites.units} == {"b"}
    net, x = Later(), torch.randn(4, 6)
    planned = plan(net, x, Policy("frozen", "frozen", "frozen", "frozen"), None)
    assert {*planned.later} == {"mix"}
    trial = make_trial(net, x, planned, {}, Wiring(), False)
    assert trial.sites.model.mix.any()


def test_units_of_the_layers_that_are_named_alone() -> None:
    made = Piggyback(mlp(nn.Linear), torch.randn(2, 6), granularity="unit", masked=["2.weight"])
    assert {*made.sites.units} == {"2"}


def test_layers_behind_a_norm_that_echoes_are_tried_as_well() -> None:
    parts = [nn.Linear(6, 9), nn.LayerNorm(9), nn.ReLU(), Gate(9, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU()]
    made = HAT(nn.Sequential(*parts, nn.Linear(8, 4)), torch.randn(3, 6))
    assert ({*made.sites.wiring.sites}, {*made.sites.wiring.echoes}) == ({"0", "5"}, {"1"})
