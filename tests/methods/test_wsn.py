"""WSN's own invariants: used weights never move, scores go on everywhere, counts are exact, and tasks share."""

from __future__ import annotations

import copy
from functools import cache
from statistics import mean

import pytest
import torch
from tests.contract import drive
from tests.methods.digits import accuracies, adam, fit, mlp, permuted
from torch import Tensor

from polymask.methods import WSN
from polymask.methods.wsn import kept_from_ranks
from polymask.parts.binarize import top_k
from polymask.parts.pack import unpack
from polymask.report.capacity import capacity
from polymask.task import TaskRecord

backbones = pytest.mark.parametrize("backbone", ["mlp_bn", "convnet", "encoder"])
optimizers = pytest.mark.parametrize("optimizer", list(drive.OPTIMIZERS))


def weights(method: WSN) -> dict[str, Tensor]:
    return {name: method.sites.base(name).clone() for name in method.sites.weights}


def masks(record: TaskRecord) -> dict[str, Tensor]:
    return {name: unpack(mask) for name, mask in record.masks.items()}


@backbones
@optimizers
def test_what_any_task_has_used_never_moves(backbone: str, optimizer: str) -> None:
    method, todo = drive.make(WSN, backbone, density=0.3)
    make = drive.OPTIMIZERS[optimizer]()
    for task in todo:
        before, used = weights(method), method.state["used"]
        drive.learn(method, [task], make)
        after = weights(method)
        kept = ({name: w[used[name]] for name, w in moment.items()} for moment in (before, after))
        assert not drive.differing(*kept)
        # Plain gradient descent of a few steps may keep the mask, and with it read used weights alone.
        assert drive.differing(before, after) or (task is not todo[0] and optimizer == "sgd")


@backbones
@pytest.mark.parametrize("density", [0.03, 0.3, 0.5, 1.0])
def test_the_count_of_every_layer_is_exact(backbone: str, density: float) -> None:
    method, todo = drive.make(WSN, backbone, density=density)
    drive.learn(method, todo)
    for record in method.records.values():
        for mask in masks(record).values():
            n = mask.numel()
            assert int(mask.sum()) == n - round((1 - density) * (n - 1)) == kept_from_ranks(n, density)


def test_the_used_weights_are_the_union_of_all_masks_and_only_grow() -> None:
    method, todo = drive.make(WSN, "convnet", density=0.2)
    union = {name: torch.zeros_like(used) for name, used in method.state["used"].items()}
    for task in todo:
        drive.learn(method, [task])
        mine = masks(method.record(task.name))
        union = {name: seen | mine[name] for name, seen in union.items()}
        assert not drive.differing(union, method.state["used"])


def test_the_scores_of_a_used_weight_go_on_learning() -> None:
    method, todo = drive.make(WSN, "mlp_bn", density=0.5)
    drive.learn(method, todo[:1], drive.adamw())
    start = {name: scores.clone() for name, scores in method.state["scores"].items()}
    drive.learn(method, todo[1:2], drive.adamw())
    for name, mask in masks(method.record("a")).items():
        moved = start[name][mask] != method.state["scores"][name][mask]
        assert moved.float().mean() > 0.5, name


def test_scores_are_carried_over_or_drawn_anew_on_request() -> None:
    for kind, same in (("carried", True), ("fresh", False)):
        method, todo = drive.make(WSN, "mlp_bn", scores=kind)
        drive.learn(method, todo[:1], drive.adamw())
        before = masks(method.record("a"))
        drive.begin(method, todo[1], "train")
        assert all(torch.equal(top_k(s, int(before[n].sum())), before[n]) is same for n, s in method.scores.items())
        assert bool(method.state["scores"]) is same


def test_the_mask_is_made_from_the_scores_that_were_put_back() -> None:
    method, todo = drive.make(WSN, "mlp_bn", density=0.5)
    drive.begin(method, todo[0], "train")
    drive.train(method, todo[0], drive.adamw()(method), range(3))
    best = copy.deepcopy(method.model.state_dict())
    chosen = {name: top_k(scores, kept_from_ranks(scores.numel(), 0.5)) for name, scores in method.scores.items()}
    drive.train(method, todo[0], drive.adamw()(method), range(3, 20))
    later = {name: top_k(scores, kept_from_ranks(scores.numel(), 0.5)) for name, scores in method.scores.items()}
    assert drive.differing(chosen, later)
    method.model.load_state_dict(best)
    assert not drive.differing(chosen, masks(method.end("a")["a"]))


def test_a_density_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a density in \(0, 1\], found 0"):
        drive.make(WSN, "mlp_bn", density=0.0)


@cache
def learned(density: float, scores: str) -> tuple[float, float]:
    """Accuracy in points and the used fraction after five tasks of permuted digits, a mean over two seeds."""
    found = []
    for seed in (0, 1):
        tasks = permuted(5)
        method = WSN(mlp(64, 100, 100, 10), torch.zeros(1, 64), density=density, scores=scores, seed=seed)  # type: ignore[arg-type]
        for name, data in tasks.items():
            fit(method, name, data, adam(1e-3), epochs=15)
        used = capacity([masks(record) for record in method.records.values()]).used
        found.append((mean(accuracies(method, tasks)), used))
    return mean(a for a, _ in found), mean(u for _, u in found)


@pytest.mark.full
def test_denser_is_better_on_permuted_digits() -> None:
    points = [learned(density, "carried")[0] for density in (0.03, 0.1, 0.3)]
    assert points[0] < points[1] < points[2]
    assert points[2] > 90


@pytest.mark.full
def test_carried_scores_share_more_than_fresh_ones_and_those_than_chance() -> None:
    independent = 1 - (1 - 0.3) ** 5
    assert learned(0.3, "carried")[1] < learned(0.3, "fresh")[1] - 0.05 < independent - 0.05
