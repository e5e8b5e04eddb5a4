"""Every layer that a batch of many tasks knows a form for, with each part that it may lack."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.contract import drive
from tests.contract.zoo import DEVICE
from tests.test_mixed import UNITS, Doubled, check, learned
from torch import Tensor, nn

from polymask import TFM
from polymask.mixed import Mixed
from polymask.mixed.own import own_of
from polymask.task import activate

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


class Scaled(Doubled):
    """It may be given more than one tensor."""

    def forward(self, x: Tensor, by: Tensor | None = None) -> Tensor:
        y = super().forward(x)
        return y if by is None else y * by


@METHODS
def test_layers_of_a_class_of_ones_own_that_have_gates_and_tensors(method: str, bias: bool) -> None:
    torch.manual_seed(0)
    between = nn.LeakyReLU()  # it passes an infinity on
    net = nn.Sequential(nn.Linear(5, 8, bias=bias), nn.ReLU(), Doubled(8, 6, bias=bias), between, nn.Linear(6, 4))
    check(learned(UNITS[method], net, torch.randn(8, 5), lr=LR), torch.randn(5, 5), 5)


class Louder(nn.BatchNorm1d):
    """A norm of a class that has no form of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@METHODS
@pytest.mark.parametrize("place", ["norm", "head"])
def test_norms_and_heads_of_a_class_of_ones_own(method: str, bias: bool, place: str) -> None:
    torch.manual_seed(0)
    norm, head = (Louder, nn.Linear) if place == "norm" else (nn.BatchNorm1d, Doubled)
    net = nn.Sequential(nn.Linear(5, 8, bias=bias), norm(8), nn.ReLU(), head(8, 4, bias=bias))
    check(learned(UNITS[method], net, torch.randn(8, 5), lr=LR), torch.randn(5, 5), 5)


@pytest.mark.parametrize("head", [nn.Linear, Doubled])
@pytest.mark.parametrize("names", [("b",), ("a", "b"), ("b", "c")])
def test_some_of_the_tasks_of_a_network_that_has_grown_since(head: type[nn.Linear], names: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), head(6, 4))
    method = learned(UNITS["tfm"], net, torch.randn(8, 5), lr=LR)
    x = torch.randn(4, 5).to(DEVICE)
    mixed = Mixed(method.sites, {name: method.records[name] for name in names})
    widest = max(method.records[name].meta.outputs for name in names)
    for name in names:
        answers, outputs = mixed(x, [name] * 4), method.records[name].meta.outputs
        assert answers.shape == (4, widest), "its width hangs on the tasks that are served, not on those of a batch"
        torch.testing.assert_close(answers[:, :outputs], drive.answer(method.plain(name), x), rtol=1e-4, atol=1e-4)
        assert torch.isneginf(answers[:, outputs:]).all()


class Twice(nn.Module):
    """A layer that is given a second tensor, by name or by place."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        self.a, self.b, self.head, self.named = nn.Linear(5, 8), Scaled(8, 6), nn.Linear(6, 4), named

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        by = h.mean(1, keepdim=True)
        return self.head((self.b(h, by=by) if self.named else self.b(h, by)).relu())


@pytest.mark.parametrize("named", [False, True])
def test_a_layer_that_is_given_two_tensors_is_refused(named: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 5)
    method = learned(UNITS["hat"], Twice(named), x, count=2, lr=LR)
    assert "b" in method.sites.units
    with pytest.raises(ValueError, match="'b', of which tasks have their own, to be called on one tensor, found 2"):
        Mixed(method.sites, method.records)(x[:2].to(DEVICE), list(method.records))


class Projected(nn.Module):
    """A head with a layer inside, both with tensors of the tasks' own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.weight = nn.Linear(8, 8), nn.Parameter(torch.randn(4, 8) / 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).relu() @ self.weight.T


def test_a_layer_in_a_layer_is_its_own_tasks_too() -> None:
    torch.manual_seed(0)
    method = learned(TFM, nn.Sequential(nn.Linear(5, 8), nn.ReLU(), Projected()), torch.randn(8, 5), lr=0.1)
    check(method, torch.randn(5, 5), 5)


def test_a_hook_on_a_layer_of_a_class_of_ones_own_runs_once() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), Doubled(8, 4))
    net[2].register_forward_hook(lambda _module, _x, y: y + 1)
    net[2].register_forward_pre_hook(lambda _module, x: (x[0] + 1,))
    check(learned(TFM, net, torch.randn(8, 5), lr=LR), torch.randn(5, 5), 5)


class Slow(Doubled):
    """It lets other threads run before it reads its tensors."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.001)
        return super().forward(x)


def test_threads_do_not_answer_for_each_other_in_a_layer_of_a_class_of_ones_own() -> None:
    torch.manual_seed(0)
    method = learned(TFM, nn.Sequential(nn.Linear(5, 8), nn.ReLU(), Slow(8, 4)), torch.randn(8, 5), count=2, lr=LR)
    mixed, x, start = Mixed(method.sites, method.records), torch.randn(6, 5).to(DEVICE), threading.Barrier(2)
    served = (list("aabbab"), list("bbabaa"))
    alone = [mixed(x, tasks) for tasks in served]

    def serve(which: int) -> int:
        start.wait()
        return sum(not torch.allclose(mixed(x, served[which]), alone[which]) for _ in range(4))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(serve, range(2))) == [0, 0]


def test_the_gain_of_a_single_unit() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1), nn.Linear(1, 4))
    method = learned(TFM, net, torch.randn(8, 5), lr=LR)
    for place, (name, record) in enumerate(method.records.items()):
        masks = dict(record.masks)
        masks["2.weight"] = replace(masks["2.weight"], payload=masks["2.weight"].payload + place)
        method.records[name] = replace(record, masks=masks)
    check(method, torch.randn(5, 5), 5)


def test_a_task_without_a_mask_on_units_reads_them_all() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
    method, x = learned(UNITS["hat"], net, torch.randn(8, 5), count=2), torch.randn(4, 5).to(DEVICE)
    records = dict(method.records)
    records["b"] = replace(
        records["b"], masks={k: v for k, v in records["b"].masks.items() if k not in method.sites.units}
    )
    answers = Mixed(method.sites, records)(x, ["a", "b", "b", "a"])
    for rows, name in (([0, 3], "a"), ([1, 2], "b")):
        activate(method.sites, records[name])
        alone = drive.answer(method.model, x)[rows]
        torch.testing.assert_close(answers[rows][:, : alone.shape[1]], alone, rtol=1e-4, atol=1e-4)


class Experts(nn.Module):
    """What is negative goes through a layer of a class of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 8), Doubled(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        chosen = x[:, 0] < 0
        out = h.clone()
        out[chosen] = self.b(h[chosen])
        return self.head(out.relu())


@pytest.mark.parametrize("method", ["hat", "tfm"])
def test_a_layer_of_a_class_of_ones_own_that_is_given_no_sample(method: str) -> None:
    torch.manual_seed(0)
    learner = learned(UNITS[method], Experts(), torch.randn(8, 5), lr=LR)
    x = torch.randn(5, 5)
    x[:, 0] = x[:, 0].abs()
    check(learner, x, 5)


@pytest.mark.parametrize("head", [nn.Linear, Doubled])
@pytest.mark.parametrize("method", ["hat", "tfm", "piggyback"])
def test_a_batch_without_samples(method: str, head: type[nn.Linear]) -> None:
    torch.manual_seed(0)
    learner = learned(UNITS[method], nn.Sequential(nn.Linear(5, 8), nn.ReLU(), head(8, 4)), torch.randn(8, 5), lr=LR)
    widest = max(record.meta.outputs for record in learner.records.values())
    mixed = Mixed(learner.sites, learner.records)
    assert mixed(torch.randn(0, 5).to(DEVICE), []).shape == (0, widest)


def test_a_task_without_a_mask_on_the_rows_of_a_weight_reads_them_all() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
    learner = learned(TFM, net, torch.randn(8, 5), count=2, lr=LR)
    records = dict(learner.records)
    masks = {name: mask for name, mask in records["b"].masks.items() if name != "0.weight"}
    records["b"] = replace(records["b"], masks=masks)
    x = torch.randn(4, 5).to(DEVICE)
    answers = Mixed(learner.sites, records)(x, list("abba"))
    activate(learner.sites, records["b"])
    alone = drive.answer(learner.model, x)
    torch.testing.assert_close(answers[1:3, : alone.shape[1]], alone[1:3], rtol=1e-4, atol=1e-4)


def test_a_gate_is_of_its_layers_precision_and_open_where_a_task_has_none() -> None:
    gate = own_of(nn.Linear(3, 2).bfloat16(), {}, [], [torch.tensor([True, False]), None]).gate
    assert gate is not None
    assert gate.dtype == torch.bfloat16
    assert torch.equal(gate, torch.tensor([[1, 0], [1, 1]], dtype=torch.bfloat16))
