"""What masks are measured against: one forgets, one learns a head alone, one is a plain network per task."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tests.contract import drive
from tests.methods.digits import accuracies, adam, fit, mlp, permuted
from torch import Tensor

from polymask.method.contract import Method
from polymask.methods import Finetune, Independent, LinearProbe

backbones = pytest.mark.parametrize("backbone", ["mlp_bn", "convnet", "timm_resnet", "encoder"])


def body(method: Method) -> dict[str, Tensor]:
    """Every tensor outside the head."""
    return {n: method.sites.tensor(n).clone() for n in method.sites.roles if not n.startswith(f"{method.head}.")}


@backbones
@pytest.mark.parametrize("kind", [Finetune, Independent, LinearProbe])
def test_ending_changes_no_answer(kind: type[Method], backbone: str) -> None:
    method, todo = drive.make(kind, backbone)
    for task in todo[:2]:
        drive.begin(method, task)
        drive.train(method, task, drive.adamw()(method), range(3))
        before = drive.answer(method.model, drive.probe(method))
        method.end(task.name)
        assert torch.equal(drive.answer(method.model, drive.probe(method)), before)


@backbones
def test_fine_tuning_moves_everything_and_forgets(backbone: str) -> None:
    method, todo = drive.make(Finetune, backbone)
    start = body(method)
    drive.learn(method, todo[:1], drive.adamw())
    first = drive.logits(method, "a")
    assert drive.differing(start, body(method)) == sorted(start)
    drive.learn(method, todo[1:], drive.adamw())
    assert method.exact is None
    assert not torch.allclose(drive.logits(method, "a"), first, atol=1e-2)
    assert set(method.record("a").private) == {n for n in method.sites.roles if n.startswith(f"{method.head}.")}


@backbones
@pytest.mark.parametrize("optimizer", ["adamw", "kept", "adversary"])
def test_a_linear_probe_moves_its_head_alone(backbone: str, optimizer: str) -> None:
    method, todo = drive.make(LinearProbe, backbone)
    start = body(method)
    plain = drive.BACKBONES[backbone]()[0].state_dict()
    assert not drive.differing(start, {n: plain[n] for n in start})
    drive.learn(method, todo, drive.OPTIMIZERS[optimizer]())
    assert not drive.differing(start, body(method))


@backbones
@pytest.mark.parametrize("optimizer", ["adamw", "kept", "adversary"])
def test_a_linear_probe_may_learn_its_backbone_from_the_first_task(backbone: str, optimizer: str) -> None:
    method, todo = drive.make(partial(LinearProbe, backbone="first-task"), backbone)
    start, make = body(method), drive.OPTIMIZERS[optimizer]()
    drive.learn(method, todo[:1], make)
    learned, first = body(method), drive.logits(method, "a")
    assert drive.differing(start, learned) == sorted(start)
    drive.learn(method, todo[1:], make)
    assert not drive.differing(learned, body(method))
    assert torch.equal(drive.logits(method, "a"), first)


@pytest.mark.parametrize("backbone", ["mlp_bn", "convnet", "encoder"])
def test_an_independent_network_is_trained_as_a_plain_one_would_be(backbone: str) -> None:
    method, todo = drive.make(Independent, backbone)
    drive.learn(method, todo[:1], drive.adamw())
    drive.begin(method, todo[1])
    plain = drive.BACKBONES[backbone]()[0]
    untouched = {n: v for n, v in plain.state_dict().items() if not n.startswith(f"{method.head}.")}
    assert not drive.differing(body(method), untouched)
    plain.load_state_dict(method.model.state_dict())
    optimizers = [torch.optim.AdamW(each.parameters(), lr=0.02) for each in (plain, method)]
    drive.train(method, todo[1], optimizers[0], range(4), model=plain)
    drive.train(method, todo[1], optimizers[1], range(4))
    method.end("b")
    assert torch.equal(drive.logits(method, "b"), drive.answer(plain, drive.probe(method)))


def test_on_permuted_digits_fine_tuning_forgets_and_probes_fall_short() -> None:
    tasks = permuted(3)
    found = {}
    for kind in (Finetune, LinearProbe, Independent):
        method = kind(mlp(64, 100, 100, 10), torch.zeros(1, 64))
        for task, data in tasks.items():
            fit(method, task, data, adam(1e-3), epochs=7)
        found[kind.name] = accuracies(method, tasks)
    assert min(found["independent"]) > 93, found
    assert found["finetune"][-1] > 93, found
    assert found["finetune"][0] < found["independent"][0] - 5, found
    assert max(found["linear_probe"]) < min(found["independent"]), found
