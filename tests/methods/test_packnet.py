"""PackNet's own invariants: who owns what never changes hands, counts are exact, and it works on permuted digits."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from statistics import mean
from typing import Any

import pytest
import torch
from tests.contract import drive
from tests.methods.digits import accuracies, adam, fit, mlp, permuted
from torch import Tensor, nn

from polymask.methods import Independent, PackNet
from polymask.parts.pack import owners, unpack
from polymask.surgery import CannotGrow

backbones = pytest.mark.parametrize("backbone", ["mlp_bn", "convnet"])
optimizers = pytest.mark.parametrize("optimizer", list(drive.OPTIMIZERS))
FULL = pytest.mark.full


def base(method: PackNet) -> dict[str, Tensor]:
    return {name: method.sites.base(name).clone() for name in method.sites.weights}


def opened(method: PackNet, todo: list[drive.Task], count: int, phase: str) -> dict[str, Tensor]:
    """Learn ``count`` tasks, and the next one as far as a phase's begin; the owners at that moment."""
    drive.learn(method, todo[:count], drive.sgd())
    for one in method.phases[: method.phases.index(phase) + 1]:
        drive.begin(method, todo[count], one)
        if one != phase:
            drive.train(method, todo[count], drive.sgd()(method), range(4))
    return method.state["owner"]


@backbones
@optimizers
def test_what_a_task_owns_is_constant_after_it(backbone: str, optimizer: str) -> None:
    method, todo = drive.make(PackNet, backbone)
    make, kept = drive.OPTIMIZERS[optimizer](), {}
    for code, task in enumerate(todo, start=1):
        drive.learn(method, [task], make)
        kept[code] = {name: w[method.state["owner"][name] == code] for name, w in base(method).items()}
        assert all(len(values) for values in kept[code].values())
    for code, weights in kept.items():
        now = {name: w[method.state["owner"][name] == code] for name, w in base(method).items()}
        assert not drive.differing(weights, now)


@backbones
def test_owners_partition_every_layer(backbone: str) -> None:
    method, todo = drive.make(PackNet, backbone)
    drive.learn(method, todo)
    for owner in method.state["owner"].values():
        counts = torch.bincount(owner.flatten().long(), minlength=4)
        assert len(counts) == 4
        assert int(counts.sum()) == owner.numel()


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (0.3, 0), (0.3, 1), (0.5, 1), (0.75, 1)])
def test_pruning_gives_back_exactly_its_share_and_the_smallest(ratio: float, count: int) -> None:
    method, todo = drive.make(PackNet, "convnet", ratio=ratio)
    before = {k: v.clone() for k, v in opened(method, todo, count, "train").items()}
    drive.train(method, todo[count], drive.sgd()(method), range(4))
    weights = base(method)
    drive.begin(method, todo[count], "retrain")
    for name, owner in method.state["owner"].items():
        mine, gone = before[name] == count + 1, (before[name] == count + 1) & (owner == 0)
        assert int(gone.sum()) == round(ratio * int(mine.sum()))
        assert torch.equal(owner[~mine], before[name][~mine])
        if gone.any():
            assert weights[name][gone].abs().max() <= weights[name][mine & ~gone].abs().min()


def test_tied_weights_are_pruned_by_count() -> None:
    method, todo = drive.make(PackNet, "convnet", ratio=0.25)
    drive.begin(method, todo[0], "train")
    for name in method.sites.weights:
        method.sites.write(name, torch.ones_like(method.sites.tensor(name)))
    drive.begin(method, todo[0], "retrain")
    for owner in method.state["owner"].values():
        assert int((owner == 0).sum()) == round(0.25 * owner.numel())


@backbones
@pytest.mark.parametrize("count", [0, 1])
def test_right_after_pruning_free_is_zero(backbone: str, count: int) -> None:
    method, todo = drive.make(PackNet, backbone)
    owner = opened(method, todo, count, "retrain")
    for name, own in owner.items():
        assert torch.equal(method.model.get_submodule(name.removesuffix(".weight")).weight == 0, own == 0)
    drive.train(method, todo[count], drive.adamw()(method), range(4))
    method.end(todo[count].name)
    for name, own in owner.items():
        assert torch.equal(method.sites.base(name) == 0, own == 0)


@backbones
@pytest.mark.parametrize("start", ["fresh", "zero"])
def test_claimed_weights_start_anew_and_alone_learn(backbone: str, start: str) -> None:
    method, todo = drive.make(PackNet, backbone, start=start)
    owner = opened(method, todo, 1, "train")
    before = base(method)
    for name, own in owner.items():
        assert (own > 0).all()
        assert torch.equal(before[name] == 0, own == 2) == (start == "zero")
        assert (before[name] == 0).any() == (start == "zero")
        bound = before[name][0].numel() ** -0.5
        assert before[name][own == 2].abs().max() <= bound
        assert method.sites.weights[name].mask is None
    drive.train(method, todo[1], drive.adamw()(method), range(4))
    for name, own in owner.items():
        moved = method.sites.base(name) != before[name]
        assert not moved[own == 1].any()
        assert moved[own == 2].any()


def test_masked_norms_start_anew_as_norms_do() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    method = PackNet(net, torch.randn(4, 6), norms="masked", biases="masked")
    for phase in method.phases:
        method.begin("a", phase)
        sum(parameter.square().sum() for parameter in method.parameters()).backward()
        torch.optim.SGD(method.parameters(), 0.1).step()
    method.end("a")
    method.begin("b")
    owner = method.state["owner"]
    for name, start in {"1.weight": 1.0, "1.bias": 0.0, "0.bias": 0.0}.items():
        free = owner[name] != 1
        assert free.any()
        assert (method.sites.tensor(name)[free] == start).all(), name


def test_every_weight_is_visible_while_a_task_trains() -> None:
    method, todo = drive.make(PackNet, "convnet")
    opened(method, todo, 1, "train")
    drive.train(method, todo[1], drive.sgd()(method), range(4))
    plain = nn.Conv2d(1, 4, 3, padding=1)
    plain.weight.data, plain.bias.data = method.sites.base("0.weight"), method.sites.tensor("0.bias")
    x = drive.probe(method)
    assert torch.equal(method.model[0](x), plain(x))


@pytest.mark.parametrize("backbone", ["mlp_bn", pytest.param("timm_resnet", marks=pytest.mark.full)])
def test_biases_and_norms_are_constant_after_the_first_task(backbone: str) -> None:
    method, todo = drive.make(PackNet, backbone)
    names = method.sites.names("first")
    start = {name: method.sites.tensor(name).clone() for name in names}
    drive.learn(method, todo[:1], drive.adamw())
    after_one = {name: method.sites.tensor(name).clone() for name in names}
    assert drive.differing(start, after_one) == sorted(names)
    drive.learn(method, todo[1:], drive.adversary())
    assert not drive.differing(after_one, {name: method.sites.tensor(name) for name in names})


@backbones
def test_evaluating_changes_no_tensor_but_the_slots(backbone: str) -> None:
    method, todo = drive.make(PackNet, backbone)
    drive.learn(method, todo)
    before, kept = base(method), {n: method.sites.tensor(n).clone() for n in method.sites.names("first")}
    for task in (*todo, *reversed(todo)):
        drive.logits(method, task)
        method.model.train()
        method.model(drive.probe(method))
    assert not drive.differing(before, base(method))
    assert not drive.differing(kept, {n: method.sites.tensor(n) for n in kept})


@backbones
def test_ending_changes_no_answer(backbone: str) -> None:
    method, todo = drive.make(PackNet, backbone)
    opened(method, todo, 1, "retrain")
    drive.train(method, todo[1], drive.adamw()(method), range(4))
    before = drive.answer(method.model, drive.probe(method))
    method.end(todo[1].name)
    assert torch.equal(drive.answer(method.model, drive.probe(method)), before)


@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_equal_shares_come_out_equal(tasks: int) -> None:
    method, todo = drive.make(PackNet, "convnet", tasks=tasks, last=1)
    drive.learn(method, todo[:tasks])
    for owner in method.state["owner"].values():
        counts = torch.bincount(owner.flatten().long(), minlength=tasks + 1)
        assert counts[0] == 0
        assert int(counts[1:].max() - counts[1:].min()) <= 2


@pytest.mark.parametrize(("tasks", "last", "shares"), [(3, 2, 4), (3, None, 3), (5, None, 6), (10, None, 12)])
def test_the_last_task_which_has_no_choice_gets_more(tasks: int, last: int | None, shares: int) -> None:
    method, todo = drive.make(PackNet, "convnet", tasks=tasks, last=last)
    drive.learn(method, todo)
    for owner in method.state["owner"].values():
        free, *counts = torch.bincount(owner.flatten().long(), minlength=len(todo) + 1).tolist()
        wanted = [owner.numel() / shares] * len(todo)
        if tasks == len(todo):
            wanted[-1] *= shares - tasks + 1
        assert counts == pytest.approx(wanted, abs=2)
        assert (free == 0) == (tasks == len(todo))


def test_a_full_network_says_so_and_learns_its_head_alone() -> None:
    method, todo = drive.make(PackNet, "convnet", tasks=2)
    drive.learn(method, todo[:2])
    before = {**base(method), **{n: method.sites.tensor(n).clone() for n in method.sites.names("first")}}
    for phase in method.phases:
        with pytest.warns(UserWarning, match="no free weight is left for task 'c': its head alone is learned"):
            drive.begin(method, todo[2], phase)
        assert [name for name, _ in method.named_parameters()] == ["7.weight", "7.bias"]
        drive.train(method, todo[2], drive.adversary()(method), range(4))
    method.end("c")
    assert not drive.differing(before, {**base(method), **{n: method.sites.tensor(n) for n in before if "bias" in n}})
    assert method.record("c").masks["0.weight"].level == 3


def test_all_masks_together_cost_the_bits_of_an_owner_code() -> None:
    method, todo = drive.make(PackNet, "convnet")
    records = drive.learn(method, todo)
    for name, owner in method.state["owner"].items():
        planes = [record.masks[name] for record in records.values()]
        assert {plane.payload.data_ptr() for plane in planes} == {planes[0].payload.data_ptr()}
        assert planes[0].nbytes == math.ceil(math.log2(len(todo) + 1)) * math.ceil(owner.numel() / 8)
        assert torch.equal(owners(planes[0]), owner)
        for code, plane in enumerate(planes, start=1):
            assert torch.equal(unpack(plane), (owner > 0) & (owner <= code))


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match=r"expected a ratio in \[0, 1\), found 1.0"):
        drive.make(PackNet, "convnet", ratio=1.0)
    with pytest.raises(ValueError, match="expected at least 1 task, found 0"):
        drive.make(PackNet, "convnet", tasks=0)
    with pytest.raises(ValueError, match="expected at least 1 share for the last task, found 0"):
        drive.make(PackNet, "convnet", last=0)
    with pytest.raises(ValueError, match="expected tasks beside last=2, found none"):
        drive.make(PackNet, "convnet", last=2)


def test_more_tasks_than_codes_are_refused() -> None:
    method, todo = drive.make(PackNet, "convnet")
    records = drive.learn(method, todo[:1])
    a = records["a"]
    for k in range(1, 256):
        masks = {name: replace(packed, level=k) for name, packed in a.masks.items()}
        method.records[str(k)] = replace(a, masks=masks)
    with pytest.raises(ValueError, match="expected at most 255 tasks"):
        method.begin("b")


@pytest.mark.full
def test_permuted_digits_lose_little_against_independent_networks() -> None:
    tasks = permuted(5)
    results = {}
    for name, kind in {"packnet": partial(PackNet, tasks=5), "independent": Independent}.items():
        method = kind(mlp(64, 100, 100, 10), torch.zeros(1, 64))
        for task, data in tasks.items():
            fit(method, task, data, adam(1e-3), epochs=15)
        results[name] = accuracies(method, tasks)
    assert mean(results["independent"]) > 95
    assert mean(results["independent"]) - mean(results["packnet"]) < 2.5, results


@pytest.mark.full
def test_at_half_the_last_of_many_tasks_is_below_the_first() -> None:
    tasks = permuted(6)
    method = PackNet(mlp(64, 50, 50, 10), torch.zeros(1, 64), ratio=0.5)
    for task, data in tasks.items():
        fit(method, task, data, adam(1e-3), epochs=8)
    found = accuracies(method, tasks)
    assert found[-1] < found[0], found


@backbones
@optimizers
def test_without_reuse_masks_are_disjoint_and_one_plane_holds_them(backbone: str, optimizer: str) -> None:
    method, todo = drive.make(PackNet, backbone, reuse=False, tasks=3)
    answers = {}
    for task in todo:
        drive.learn(method, [task], drive.OPTIMIZERS[optimizer]())
        answers[task.name] = drive.answer(method.plain(task.name), drive.probe(method))
    for name, owner in method.state["owner"].items():
        masks = torch.stack([unpack(method.record(task.name).masks[name]) for task in todo])
        assert int(masks.sum(0).max()) == 1
        assert all(torch.equal(masks[k], owner == k + 1) for k in range(len(todo)))
        assert len({method.record(task.name).masks[name].payload.data_ptr() for task in todo}) == 1
    for name, before in answers.items():
        assert torch.equal(drive.answer(method.plain(name), drive.probe(method)), before)


def test_without_reuse_a_task_reads_while_training_what_its_record_reads() -> None:
    method, todo = drive.make(PackNet, "convnet", reuse=False, tasks=3)
    drive.learn(method, todo[:1])
    drive.begin(method, todo[1], "train")
    for name, own in method.state["owner"].items():
        w = dict(method.model.named_modules())[name.rpartition(".")[0]].weight
        assert not w[own != 2].any(), name
        assert w[own == 2].all(), "a fresh draw, since through zeros alone no gradient passes"
    drive.train(method, todo[1], drive.sgd()(method), range(4))
    drive.begin(method, todo[1], "retrain")
    drive.train(method, todo[1], drive.sgd()(method), range(4))
    method.model.eval()
    before = drive.answer(method.model, drive.probe(method))
    method.end("b")
    assert torch.equal(drive.answer(method.plain("b"), drive.probe(method)), before)


def test_an_abandoned_task_without_reuse_leaves_no_draw_behind() -> None:
    method, todo = drive.make(PackNet, "mlp_bn", reuse=False, tasks=3)
    drive.learn(method, todo[:1])
    before = base(method)
    drive.begin(method, todo[1], "train")
    method.abandon()
    assert not drive.differing(before, base(method))


def test_a_ratio_for_each_task_of_which_the_last_goes_on() -> None:
    method, todo = drive.make(PackNet, "convnet", ratio=(0.5, 0.75))
    drive.learn(method, todo)
    for owner in method.state["owner"].values():
        free = n = owner.numel()
        for code, ratio in enumerate((0.5, 0.75, 0.75), start=1):
            mine = free - round(ratio * free)
            assert int((owner == code).sum()) == mine
            free -= mine
        assert int((owner == 0).sum()) == free <= n


@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_a_constant_ratio_leaves_its_powers(ratio: float) -> None:
    method = PackNet(mlp(64, 100, 100, 10), torch.zeros(1, 64), ratio=ratio)
    todo = drive.tasks(torch.zeros(2, 64), count=4)
    drive.learn(method, todo, drive.sgd())
    for owner in method.state["owner"].values():
        for t in range(1, 5):
            share = float((owner == t).float().mean())
            assert share == pytest.approx(ratio ** (t - 1) * (1 - ratio), abs=2 / owner.numel() * t)


def growing(backbone: str, **hyper: Any) -> tuple[PackNet, list[drive.Task]]:
    """A PackNet whose first task takes everything, so that every later one grows."""
    method, _ = drive.make(PackNet, backbone, tasks=1, grow=3, **hyper)
    return method, drive.tasks(method.example, 4)


@pytest.mark.parametrize(
    ("backbone", "reuse"),
    [
        pytest.param(backbone, reuse, marks=() if (backbone, reuse) in (("mlp_bn", True), ("convnet", False)) else FULL)
        for backbone in ("mlp_bn", "convnet", "timm_resnet")
        for reuse in (True, False)
    ],
)
def test_a_full_network_grows_and_older_tasks_answer_alike(backbone: str, reuse: bool) -> None:
    method, todo = growing(backbone, reuse=reuse)
    built = {name: tuple(shape) for name, shape in method.sites.built.items()}
    answers: dict[str, Tensor] = {}
    for k, task in enumerate(todo):
        drive.learn(method, [task], drive.adamw())
        answers[task.name] = drive.logits(method, task)
        for name, was in answers.items():
            assert torch.equal(drive.logits(method, name), was)
            assert torch.equal(drive.answer(method.plain(name), drive.probe(method)), was)
        for name, owner in method.state["owner"].items():
            gained = (*method.axes.steps.get(name, (0, 0)), 0, 0)
            assert tuple(owner.shape) == tuple(n + 3 * k * s for n, s in zip(built[name], gained, strict=False))
            outside = torch.ones_like(owner, dtype=torch.bool)
            outside[tuple(slice(n) for n in method.axes.block(name, owner.shape, 3 * max(0, k - 1)))] = False
            assert (owner[outside] == k + 1).all()


def test_a_network_grows_only_when_nothing_is_free() -> None:
    method, _ = drive.make(PackNet, "convnet", tasks=2, grow=3)
    todo, widths = drive.tasks(method.example, 4), []
    for task in todo:
        drive.learn(method, [task])
        widths.append(len(method.sites.tensor("0.weight")))
    assert widths == [4, 4, 7, 10]


def test_what_was_learned_before_it_grew_is_in_one_plane() -> None:
    method, todo = growing("convnet")
    records = drive.learn(method, todo)
    for name, owner in method.state["owner"].items():
        packs = [record.masks[name] for record in records.values()]
        assert len({packed.payload.data_ptr() for packed in packs}) == 1
        for code, packed in enumerate(packs, start=1):
            mask = unpack(packed)
            assert mask.shape == packed.shape == method.axes.block(name, owner.shape, 3 * (code - 1))
            assert mask.all()
            assert torch.equal(owners(packed), owner)


def test_what_a_growing_task_abandons_is_gone() -> None:
    method, todo = growing("mlp_bn")
    drive.learn(method, todo[:2])
    before = drive.tensors(method.model)
    drive.begin(method, todo[2], "train")
    assert method.sites.tensor("0.weight").shape == (30, 12)
    method.abandon()
    assert not drive.differing(before, drive.tensors(method.model))
    assert method.state["owner"]["0.weight"].shape == (27, 12)


def test_what_cannot_grow_is_refused() -> None:
    with pytest.raises(CannotGrow, match=r"a layer that can grow, found none \(lstm: .*\): leave grow= out"):
        growing("lstm")


@pytest.mark.filterwarnings("ignore:no free weight is left")
def test_without_reuse_a_full_network_keeps_its_gates_shut_whatever_is_read() -> None:
    """A gate that shared its memory with a mask would open as soon as an earlier task is read."""
    method, todo = drive.make(PackNet, "convnet", tasks=1, reuse=False)
    drive.learn(method, todo[:2])
    answer = drive.logits(method, "a")
    assert not any(site.gate.any() for site in method.sites.weights.values())
    optimizer = torch.optim.AdamW(method.model.requires_grad_(True).parameters(), lr=0.1, weight_decay=0.5)
    drive.answer(method.model, drive.probe(method))
    drive.call(method.model, drive.probe(method)).square().mean().backward()
    optimizer.step()
    assert torch.equal(drive.logits(method, "a"), answer)


def test_to_grow_by_less_than_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="expected to grow by at least 0 units, found -2"):
        drive.make(PackNet, "convnet", grow=-2)
