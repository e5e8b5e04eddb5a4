"""What an example does not show: norms of another domain, experts of other flags, what is hidden or quiet under it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from tests.contract import drive
from tests.test_agreement import Standard
from torch import Tensor, nn
from torch.nn import functional as F

from polymask.method.contract import Method
from polymask.methods import HAT, TFM, PackNet, Piggyback
from polymask.sites.roles import Policy, plan
from polymask.sites.state import moving
from polymask.surgery import growable
from polymask.wiring.other_paths import other_paths

FROZEN = Policy("masked", "frozen", "frozen", "frozen")
MASKED = Policy("masked", "private", "private", "private")
ZERO, ONE = torch.tensor(0), torch.tensor(1)
told = pytest.mark.filterwarnings("ignore:masked units were seen", "ignore:task '.' ends although these never moved")


class Running(nn.Module):
    """A running variance, by which it divides; its class does not say that it is a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("spread", torch.ones(8))

    def forward(self, h: Tensor) -> Tensor:
        if self.training:
            self.spread.lerp_(h.detach().var(0), 0.1)
        return h / (self.spread + 1e-3).sqrt()


class Domains(nn.Module):
    """Two layers, between them one of two modules, by a flag; and a head."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.one, self.other = one, other

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        h = self.a(x).relu()
        return self.head(self.b(self.one(h) if flag == 0 else self.other(h)).relu())


class ByFlag(drive.Task):
    """A task whose batches are given under both flags in turn."""

    def inputs(self, step: int) -> tuple[Tensor, Tensor]:
        x, _ = super().inputs(step)
        return x, torch.tensor(step % 2)


def domains(kind: Callable[[], nn.Module]) -> Domains:
    torch.manual_seed(0)
    return Domains(kind(), kind())


def learned(method: Callable[..., Method], net: nn.Module) -> tuple[Method, dict[str, list[Tensor]]]:
    """Three tasks under both flags, and what each answered when it had ended, baked and activated."""
    example = (torch.randn(4, 6), ZERO)
    made, x, seen = method(net, example), torch.randn(5, 6), {}
    for name in "abc":
        drive.learn(made, [ByFlag(name, example)], drive.adamw())
        seen[name] = [drive.answer(made.plain(name), (x, flag)) for flag in (ZERO, ONE)]
        for flag, was in zip((ZERO, ONE), seen[name], strict=True):
            assert torch.equal(drive.logits(made, name, (x, flag)), was)
    for name, was in seen.items():
        now = [drive.answer(made.plain(name), (x, flag)) for flag in (ZERO, ONE)]
        assert all(torch.equal(a, b) for a, b in zip(was, now, strict=True)), name
    return made, seen


def test_inputs_that_take_another_path_are_found() -> None:
    found = other_paths(domains(Running), (torch.randn(4, 6), ZERO))
    assert {0, 1} <= {int(flag) for _, flag in found}
    assert int(found[0][1]) != 0


@told
@pytest.mark.parametrize("method", [PackNet, HAT, partial(TFM, growth=2)])
@pytest.mark.parametrize("kind", [Running, partial(nn.BatchNorm1d, 8)])
def test_the_statistics_of_another_domain_are_a_tasks_own(
    method: Callable[..., Method], kind: Callable[[], nn.Module]
) -> None:
    made, _ = learned(method, domains(kind))
    for name in ("one.spread", "other.spread") if kind is Running else ():
        assert made.sites.roles[name].kind == "private"


@told
@pytest.mark.parametrize("method", [HAT, partial(Piggyback, granularity="unit")])
def test_a_layer_that_is_more_than_its_product_is_seen_in_another_domain(method: Callable[..., Method]) -> None:
    torch.manual_seed(0)
    made, _ = learned(method, Domains(nn.Identity(), Standard(8, 8)))
    assert "other" not in made.sites.units


class Past(nn.Module):
    """Reads a weight past its site, where a maximum hides it, or under a flag."""

    def __init__(self, hidden: bool) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 4)
        self.kept, self.hidden = [self.b.weight], hidden

    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        h = self.a(x) + (self.b(x) + F.linear(x, self.kept[0]) if self.hidden or flag else self.b(x))
        return self.head(F.one_hot(h.argmax(-1), 8).float() if self.hidden else h)


@pytest.mark.parametrize("hidden", [True, False])
def test_a_weight_that_is_read_past_its_site_out_of_sight_is_refused(hidden: bool) -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"expected every read of 'b\.weight' to be of the module's attribute"):
        plan(Past(hidden), (torch.randn(4, 6), ZERO), FROZEN)


def test_a_closure_over_the_model_is_refused_where_another_flag_alone_reads_it() -> None:
    """A baked copy would read the live network's table, as whatever task it is then."""
    net = Domains(nn.Identity(), nn.Identity())
    net.other = Read(lambda h: h + net.table(torch.zeros(len(h), dtype=torch.long)))
    net.table = nn.Embedding(1, 8)
    with pytest.raises(ValueError, match=r"expected every read of 'table\.weight' to be of the module's attribute"):
        plan(net, (torch.randn(4, 6), ZERO), FROZEN)


class Read(nn.Module):
    """Does what it is told."""

    def __init__(self, do: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.do = do

    def forward(self, h: Tensor) -> Tensor:
        return self.do(h)


class Largest(nn.Module):
    """Remembers the largest number that it was given, beyond 50."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 8), nn.Linear(8, 4)
        self.register_buffer("peak", torch.tensor(50.0))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if self.training:
            self.peak.copy_(torch.maximum(self.peak, h.detach().abs().max()))
        return self.head(h / self.peak)


def test_what_moves_only_when_it_is_loud_is_found() -> None:
    assert moving(Largest(), torch.randn(4, 6)).training == {"peak"}


class Winner(nn.Module):
    """Of its hidden units the largest alone goes on: one more may take its place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 40), nn.Linear(40, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.head(h * (h == h.amax(-1, keepdim=True)))


def test_a_layer_of_which_the_largest_unit_goes_on_cannot_grow() -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        net, x = Winner(), torch.randn(1, 6)
        assert not growable(net, x, plan(net, x, MASKED)).steps
