"""AdaHAT's own invariants: the factor of a used weight, its two forms, and what it has in common with HAT."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from tests.contract import drive
from tests.methods.test_hat import attend
from torch import Tensor, nn

from polymask.method.annealed import gates
from polymask.methods import HAT, AdaHAT
from polymask.parts.pack import unpack

forms = pytest.mark.parametrize("scales", ["gradient", "step"])


def learned(method: HAT | AdaHAT, todo: list[drive.Task]) -> HAT | AdaHAT:
    """Each task uses the first half of every layer's units."""
    for task in todo:
        drive.begin(method, task)
        attend(method)
        drive.train(method, task, drive.sgd()(method), range(2))
        attend(method)
        method.end(task.name)
    return method


def slots(method: AdaHAT) -> dict[str, Tensor]:
    slot = "rate" if method.scales == "gradient" else "gate"
    return {name: getattr(site, slot) for name, site in method.sites.weights.items()}


@forms
def test_the_factor_is_the_papers(scales: str) -> None:
    method, todo = drive.make(partial(AdaHAT, alpha=1e-2, scales=scales), "mlp_bn")
    learned(method, todo[:2])
    drive.begin(method, todo[2])
    method.on_step(0.5)
    site = method.sites.wiring.rows["3"]
    source, count = gates(method)[site], method.state["count"][site]
    taken = ((source.gate().detach() * (count == 0)).sum() / (count == 0).sum()).item()
    r = 1e-2 / (0.1 + taken)
    assert torch.equal(count, torch.tensor([2.0] * 8 + [0.0] * 8))
    found = slots(method)["3.weight"]
    assert found[0, 0].item() == pytest.approx(r / (2 + r), rel=1e-4)
    assert (found[8:] == 1).all()
    assert (found[:, 12:] == 1).all()


def test_the_factor_falls_with_use_and_rises_with_alpha() -> None:
    method, todo = drive.make(AdaHAT, "mlp_bn")
    factors = []
    for task in todo:
        learned(method, [task])
        factors.append([method._factor("3.weight", r)[0, 0].item() for r in (1e-6, 1e-3, 1.0, 1e9)])
    assert all(one < more for row in factors for one, more in pairwise(row))
    assert all(
        later < before
        for before, later in pairwise(factors)
        for before, later in zip(before[:3], later[:3], strict=True)
    )
    assert factors[-1][-1] == pytest.approx(1)


@forms
@pytest.mark.parametrize("optimizer", ["sgd", "sgd_momentum_decay", "adamw"])
def test_at_alpha_0_the_step_form_is_hats_hard_gate_under_unions(scales: str, optimizer: str) -> None:
    if scales == "gradient" and optimizer != "sgd":
        return  # scaling a gradient stops no decay and no momentum, which is what the other form is for
    found = []
    for kind in (partial(HAT, rule="unions"), partial(AdaHAT, alpha=0.0, scales=scales, c=0.75)):
        method, todo = drive.make(kind, "mlp_bn")
        learned(method, todo[:1])
        drive.begin(method, todo[1])
        drive.train(method, todo[1], drive.OPTIMIZERS[optimizer]()(method), range(4))
        found.append({name: method.sites.base(name).clone() for name in method.sites.weights})
    for name, theirs in found[0].items():
        torch.testing.assert_close(found[1][name], theirs)


@forms
def test_the_first_task_is_hats_to_the_bit(scales: str) -> None:
    found = []
    for kind in (partial(HAT, c=0.1, rule="unions"), partial(AdaHAT, c=0.1, scales=scales)):
        method, todo = drive.make(kind, "convnet")
        drive.learn(method, todo[:1], drive.adamw())
        found.append({name: method.sites.base(name).clone() for name in method.sites.weights})
    assert not drive.differing(*found)


def test_the_step_form_moves_used_weights_as_little_under_adam_as_it_says() -> None:
    moved = {}
    for scales in ("gradient", "step"):
        method, todo = drive.make(partial(AdaHAT, alpha=1e-3, scales=scales), "mlp_bn")
        learned(method, todo[:1])
        used = method.state["count"]
        before = {name: method.sites.base(name).clone() for name in method.sites.weights}
        drive.begin(method, todo[1])
        drive.train(method, todo[1], torch.optim.Adam(method.parameters(), 1e-2), range(8))
        rows, columns = used[method.sites.wiring.rows["3"]] > 0, used[method.sites.wiring.rows["0"]] > 0
        change = (method.sites.base("3.weight") - before["3.weight"]).abs()
        moved[scales] = change[rows][:, columns].max().item() / change[~rows].max().item()
    assert moved["step"] < 0.02 < 0.5 < moved["gradient"]


@forms
def test_it_never_runs_full_where_hat_does(scales: str) -> None:
    free = {}
    for kind in (HAT, partial(AdaHAT, scales=scales)):
        method, todo = drive.make(kind, "mlp_bn")
        drive.begin(method, todo[0])
        attend(method, on=1.0)
        drive.train(method, todo[0], drive.sgd()(method), range(1))
        attend(method, on=1.0)
        record = method.end("a")["a"]
        assert all(unpack(mask).all() for mask in record.masks.values())
        free[type(method)] = method.capacity()["free"].values()
    assert not any(free[HAT])
    assert all(0 < share < 1e-4 for share in free[AdaHAT])


def test_what_nothing_can_shut_counts_as_used_by_every_task() -> None:
    # Behind a softmax no unit of the second layer arrives as zero.
    layers = (nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Softmax(-1), nn.Linear(5, 3))
    method = AdaHAT(nn.Sequential(*layers), torch.randn(4, 4))
    todo = drive.tasks(method.example, 4)
    learned(method, todo[:3])
    drive.begin(method, todo[3])
    assert "2" not in method.sites.wiring.rows
    used = method.state["count"]["0"] == 3
    assert used.tolist() == [True] * 3 + [False] * 3
    assert method._factor("2.weight", 0.5)[:, used].unique().tolist() == pytest.approx([0.5 / 3.5])
