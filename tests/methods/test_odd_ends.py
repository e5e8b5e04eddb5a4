"""Networks and arguments at the edge of what methods take: complex ones, odd heads, names that are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymask import HAT, KSM, AdaHAT, Finetune, LinearProbe, Method, PackNet, SupSup
from polymask.probe import probe_batch

COMPLEX = torch.complex64


class Complex(nn.Module):
    """A residual sum of complex layers, in which an input of zeros looks like a law."""

    def __init__(self, shifted: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6, dtype=COMPLEX), nn.Linear(6, 8, dtype=COMPLEX)
        self.head = nn.Linear(8, 3, dtype=COMPLEX)
        self.by = nn.Parameter(torch.zeros(6, dtype=COMPLEX)) if shifted else None

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x.to(COMPLEX)))
        h = x + h if self.by is None else h + self.by
        logits: Tensor = self.head(torch.tanh(self.b(h))).abs()
        return logits


def learn(method: Method, task: str, draw: Callable[[], Tensor], steps: int = 8) -> None:
    for phase in method.phases:
        method.begin(task, phase)
        optimizer = torch.optim.AdamW(method.parameters(), lr=0.05)
        for step in range(steps):
            method.on_step(step / (steps - 1))
            logits = method.model.train()(draw())
            loss = F.cross_entropy(logits, torch.arange(len(logits)) % 3) + method.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    method.end(task)


@pytest.mark.parametrize(
    ("net", "example"),
    [(Complex, torch.zeros(2, 6, dtype=COMPLEX)), (lambda: Complex(shifted=True), torch.randn(2, 6))],
    ids=["zeros", "shifted"],
)
def test_what_is_complex_is_exact_whatever_the_example(net: Callable[[], nn.Module], example: Tensor) -> None:
    torch.manual_seed(0)
    method = HAT(net(), example)
    x = torch.randn(8, 6, dtype=example.dtype)
    learn(method, "a", lambda: torch.randn(8, 6, dtype=example.dtype))
    before = method.plain("a")(x)
    for task in "bc":
        learn(method, task, lambda: torch.randn(8, 6, dtype=example.dtype))
    assert torch.equal(method.plain("a")(x), before)


def test_a_probe_of_complex_entries_is_drawn_like_the_example() -> None:
    batch = probe_batch(torch.full((2, 5), 2 + 1j), 0)
    assert (batch.shape, batch.dtype) == ((8, 5), torch.complex64)
    assert batch.real.min() >= 1
    assert batch.imag.max() <= 2
    assert len(torch.view_as_real(batch).unique()) == 80


class Cosine(nn.Module):
    """A head with a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.weight = nn.Parameter(torch.tensor(10.0)), nn.Parameter(torch.randn(4, 8))
        self.shift = nn.Parameter(torch.tensor([4.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1)) + self.shift


def test_a_temperature_of_a_head_stays_one_number() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Cosine())
    method = PackNet(net, torch.randn(2, 6))
    method.begin("a", outputs=3)
    head = net[2]
    assert (head.scale.item(), head.shift.tolist(), head.weight.shape) == (10.0, [4.0], (3, 8))
    assert net(torch.randn(2, 6)).shape == (2, 3)


@pytest.mark.parametrize("kind", [PackNet, HAT, Finetune, LinearProbe])
def test_a_head_without_weights_of_its_own_is_refused(kind: type[Method]) -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)))
    for head, way in (("2", r"take the last one in it, '2\.2'"), ("1", "and none in it")):
        with pytest.raises(ValueError, match=rf"a layer with weights, found '{head}' without its own.*{way}"):
            kind(net, torch.randn(2, 6), head=head)
    kind(net, torch.randn(2, 6), head="2.2")


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (lambda method: method.begin(0), TypeError, "expected a task's name, found 0: give a string, such as '0'"),
        (lambda method: method.begin("a", outputs=0), ValueError, "expected an output or more, found 0"),
        (lambda method: method.begin("a", outputs=-1), ValueError, "expected an output or more, found -1"),
        (lambda method: PackNet(method.model, torch.randn(2, 6)), ValueError, r"polymask\.detach\(model\) first"),
    ],
)
def test_what_is_no_name_no_width_and_no_plain_network_is_refused(
    wrong: Callable[[Any], Any], error: type[Exception], said: str, request: pytest.FixtureRequest
) -> None:
    if error is TypeError and not request.config.getoption("untyped"):
        pytest.skip("annotations are checked, and refuse it first")
    method = PackNet(net(), torch.randn(2, 6))
    with pytest.raises(error, match=said):
        wrong(method)
    method.begin("a", outputs=2)


@pytest.mark.parametrize("kind", [HAT, AdaHAT])
def test_numbers_that_are_not_finite_are_refused(kind: type[Method]) -> None:
    with pytest.raises(ValueError, match="expected a finite s_max above 1, found inf"):
        kind(net(), torch.randn(2, 6), s_max=float("inf"))


def test_a_method_that_cannot_be_made_leaves_the_network_as_it_was() -> None:
    plain = net()
    before = {name: t.clone() for name, t in plain.state_dict().items()}

    class Refusing(SupSup):
        def _prepare(self) -> None:
            super()._prepare()
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Refusing(plain, torch.randn(2, 6))
    assert all(torch.equal(t, before[name]) for name, t in plain.state_dict().items())
    assert all(parameter.requires_grad for parameter in plain.parameters())
    SupSup(plain, torch.randn(2, 6))


@pytest.mark.parametrize("option", ["biases", "norms"])
def test_groups_of_kernels_beside_masked_vectors(option: str) -> None:
    conv = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    method = KSM(conv, torch.randn(2, 2, 6, 6), granularity="group", **{option: "masked"})
    method.begin("a")
    assert conv(torch.randn(2, 2, 6, 6)).shape == (2, 2)
