"""ExSSNeT's own invariants: what tasks train is disjoint and never moves again, and a related task is found."""

from __future__ import annotations

from functools import partial
from statistics import mean
from typing import Any

import pytest
import torch
from tests.contract import drive
from tests.methods.digits import accuracies, adam, descend, mlp, permuted
from torch import Tensor

from polymask.method.contract import Method
from polymask.methods import ExSSNeT, SupSup
from polymask.parts.binarize import kept_count, top_k
from polymask.parts.pack import unpack
from polymask.parts.seeds import generator

backbones = pytest.mark.parametrize("backbone", ["mlp_bn", "convnet", "encoder"])
optimizers = pytest.mark.parametrize("optimizer", list(drive.OPTIMIZERS))


def weights(method: Method) -> dict[str, Tensor]:
    return {name: method.sites.base(name).clone() for name in method.sites.weights}


def masks(method: Method, task: str) -> dict[str, Tensor]:
    return {name: unpack(mask) for name, mask in method.record(task).masks.items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: before[name] != after[name] for name in before}


@backbones
@optimizers
def test_what_tasks_train_is_disjoint_and_inside_their_masks(backbone: str, optimizer: str) -> None:
    method, todo = drive.make(ExSSNeT, backbone, density=0.3)
    make, trained = drive.OPTIMIZERS[optimizer](), []
    for task in todo:
        before = weights(method)
        drive.learn(method, [task], make)
        trained.append(moved(before, weights(method)))
        assert all(not (trained[-1][name] & ~mask).any() for name, mask in masks(method, task.name).items())
    for name in trained[0]:
        count = torch.stack([one[name] for one in trained]).sum(0)
        assert count.max() <= 1, f"{name}: two tasks trained one weight"
    assert any(one.any() for one in trained[0].values())


@optimizers
def test_weights_do_not_move_while_the_mask_is_sought(optimizer: str) -> None:
    method, todo = drive.make(ExSSNeT, "convnet")
    make = drive.OPTIMIZERS[optimizer]()
    drive.learn(method, todo[:1], make)
    before = weights(method)
    drive.begin(method, todo[1], "mask")
    drive.train(method, todo[1], make(method), range(6))
    assert not drive.differing(before, weights(method))


@backbones
@pytest.mark.parametrize("density", [0.02, 0.1, 0.5, 1.0])
def test_the_count_of_every_layer_is_exact(backbone: str, density: float) -> None:
    method, todo = drive.make(ExSSNeT, backbone, density=density)
    drive.learn(method, todo[:2])
    for task in ("a", "b"):
        for mask in masks(method, task).values():
            assert int(mask.sum()) == kept_count(mask.numel(), density)


def test_the_second_phase_trains_under_the_mask_that_the_first_found() -> None:
    method, todo = drive.make(ExSSNeT, "mlp_bn", density=0.2)
    drive.begin(method, todo[0], "mask")
    drive.train(method, todo[0], drive.adamw()(method), range(5))
    found = {name: top_k(scores, kept_count(scores.numel(), 0.2)) for name, scores in method.scores.items()}
    drive.begin(method, todo[0], "weights")
    drive.train(method, todo[0], drive.adamw()(method), range(5))
    method.end("a")
    assert not drive.differing(found, masks(method, "a"))


def test_later_tasks_find_fewer_fresh_weights_as_independent_masks_would() -> None:
    method, rho = ExSSNeT(mlp(64, 300, 300, 10), torch.zeros(2, 64), density=0.3), 0.3
    todo = drive.tasks(torch.zeros(2, 64), count=4)
    total = sum(w.numel() for w in weights(method).values())
    for t, task in enumerate(todo, start=1):
        read = {name: seen.clone() for name, seen in method.state["read"].items()}
        drive.learn(method, [task], drive.sgd())
        fresh = sum(int((mask & ~read[name]).sum()) for name, mask in masks(method, task.name).items())
        assert fresh / total == pytest.approx(rho * (1 - rho) ** (t - 1), rel=0.05)


def test_ssnet_trains_what_earlier_tasks_read_and_forgets() -> None:
    drifts = {}
    for exclusive in (True, False):
        method, todo = drive.make(ExSSNeT, "mlp_bn", density=0.3, exclusive=exclusive)
        assert method.exact is (True if exclusive else None)
        drive.learn(method, todo[:1], drive.adamw())
        before = drive.answer(method.plain("a"), drive.probe(method))
        drive.learn(method, todo[1:], drive.adamw())
        drifts[exclusive] = float((drive.answer(method.plain("a"), drive.probe(method)) - before).abs().max())
    assert drifts[True] == 0
    assert drifts[False] > 1e-3


def batches_of(data: Any) -> list[tuple[Tensor, Tensor]]:
    return list(zip(data[0].split(16), data[1].split(16), strict=True))


def test_the_related_task_is_found_and_its_mask_comes_back() -> None:
    tasks = permuted(3)
    method = ExSSNeT(mlp(64, 100, 100, 10), torch.zeros(2, 64), density=0.1, transfer="knn")
    for name, data in tasks.items():
        for phase in method.phases:
            method.begin(name, phase, outputs=10, batches=batches_of(data))
            descend(method.model, data, adam(1e-3, 1e-2)(method), epochs=2, key=name)
        method.end(name)
    for name, data in tasks.items():
        method.begin(f"{name} again", "mask", outputs=10, batches=batches_of(data))
        start = {site: top_k(s, kept_count(s.numel(), 0.1)) for site, s in method.scores.items()}
        assert not drive.differing(start, masks(method, name)), f"expected {name} to be recognised"


def test_transfer_needs_labels_that_are_classes() -> None:
    method, todo = drive.make(ExSSNeT, "mlp_bn", transfer="knn")
    drive.learn(method, todo[:1])
    with pytest.raises(ValueError, match="expected class labels of at least 3 examples"):
        method.begin("b", batches=[(todo[1].inputs(0), torch.rand(4))])
    assert method.task is None


@pytest.mark.full
def test_it_beats_the_mask_alone_at_ten_per_cent() -> None:
    points: dict[str, list[float]] = {"exssnet": [], "supsup": []}
    for seed in (0, 1):
        tasks = permuted(3)
        build = partial(mlp, 64, 100, 100, 10)
        for name, kind, own in (("exssnet", ExSSNeT, {}), ("supsup", SupSup, {"heads": "private"})):
            method = kind(build(), torch.zeros(2, 64), density=0.1, seed=seed, **own)
            for task, data in tasks.items():
                for phase in method.phases:
                    method.begin(task, phase, outputs=10)
                    epochs = 20 // len(method.phases)
                    descend(method.model, data, adam(1e-3, 1e-2)(method), epochs=epochs, key=f"{task} {phase}")
                method.end(task)
            points[name].append(mean(accuracies(method, tasks)))
    assert mean(points["exssnet"]) > mean(points["supsup"]), points


def test_features_that_tell_no_more_than_a_guess_are_not_related() -> None:
    method, todo = drive.make(ExSSNeT, "mlp_bn", transfer="knn")
    drive.learn(method, todo[:1])
    x = torch.cat([todo[1].inputs(step) for step in range(12)])
    # Nearly all of one class: a vote is right as often as who always says that one, and that is often.
    labels = (torch.arange(len(x)) % 12 == 5).long()
    assert method._related([(x, labels)]) is None
    apart = torch.cat([x[: len(x) // 2], x[len(x) // 2 :] + 9])[torch.randperm(len(x), generator=generator("mixed"))]
    assert method._related([(apart, (apart.mean(1) > 4).long())]) == "a"
