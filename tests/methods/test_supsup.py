"""SupSup's own invariants: random weights that never move, exact counts, masks that mix, and it works on digits."""

from __future__ import annotations

import math
from functools import partial
from statistics import mean
from typing import Any

import pytest
import torch
from tests.contract import drive
from tests.methods.digits import accuracies, fit, mlp, permuted
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from polymask.methods import SupSup
from polymask.parts.draw import signed_constant
from polymask.parts.pack import unpack
from polymask.parts.seeds import generator
from polymask.task import activate

backbones = pytest.mark.parametrize(
    "backbone", ["mlp_bn", "convnet", pytest.param("timm_resnet", marks=pytest.mark.full), "encoder"]
)
modes = pytest.mark.parametrize("select", ["top-k", "threshold"])


def weights(method: SupSup) -> dict[str, Tensor]:
    return {name: method.sites.base(name).clone() for name in method.sites.weights}


def mixed(method: SupSup, terms: list[tuple[float, str]]) -> Tensor:
    activate(method.sites, [(alpha, method.record(name)) for alpha, name in terms])
    return drive.answer(method.model, drive.probe(method))


@backbones
@modes
@pytest.mark.parametrize("optimizer", ["adamw", "kept", "adversary"])
def test_the_weights_never_move_and_the_seed_makes_them_again(backbone: str, select: str, optimizer: str) -> None:
    method, todo = drive.make(SupSup, backbone, select=select, seed=7)
    before = weights(method)
    drive.learn(method, todo, drive.OPTIMIZERS[optimizer]())
    assert not drive.differing(before, weights(method))
    assert set(method.drawn) == set(before)
    again = {n: signed_constant(tuple(w.shape), method.drawn[n], n) for n, w in before.items()}
    assert not drive.differing(before, again)


def test_another_seed_is_another_network_whatever_the_model_was() -> None:
    nets = [drive.make(SupSup, "convnet", seed=seed)[0] for seed in (0, 0, 1)]
    assert not drive.differing(weights(nets[0]), weights(nets[1]))
    assert len(drive.differing(weights(nets[0]), weights(nets[2]))) == len(weights(nets[0]))
    ones, example = drive.BACKBONES["convnet"]()
    for parameter in ones.parameters():
        torch.nn.init.ones_(parameter)
    assert not drive.differing(weights(nets[0]), weights(SupSup(ones, example)))


@backbones
@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 1.0])
def test_a_top_k_mask_keeps_exactly_its_density_of_every_layer(backbone: str, density: float) -> None:
    method, todo = drive.make(SupSup, backbone, density=density)
    record = drive.learn(method, todo[:1], drive.adamw())["a"]
    for name, w in weights(method).items():
        n = w.numel()
        kept = n - math.floor(round((1 - density) * n, 6))
        assert int(unpack(record.masks[name]).sum()) == kept
        assert record.masks[name].nbytes == math.ceil(n / 8)


@pytest.mark.parametrize("backbone", ["mlp_bn", "convnet"])
def test_a_threshold_mask_is_where_scores_are_not_negative(backbone: str) -> None:
    method, todo = drive.make(SupSup, backbone, select="threshold")
    drive.begin(method, todo[0])
    drive.train(method, todo[0], drive.adamw()(method), range(4))
    method.sites.weights["0.weight"].source.scores.data.view(-1)[0] = 0.0
    scores = {n: s.source.scores.detach().clone() for n, s in method.sites.weights.items()}
    record = method.end("a")["a"]
    for name, s in scores.items():
        assert torch.equal(unpack(record.masks[name]), s >= 0)
        assert 0.3 < float((s >= 0).float().mean()) < 0.7


@pytest.mark.parametrize("backbone", ["mlp_bn", "convnet"])
def test_scores_start_anew_within_their_bound_for_every_task(backbone: str) -> None:
    method, todo = drive.make(SupSup, backbone)
    starts = []
    for task in todo:
        drive.begin(method, task)
        starts.append({n: s.source.scores.detach().clone() for n, s in method.sites.weights.items()})
        drive.train(method, task, drive.adamw()(method), range(2))
        method.end(task.name)
    for name, scores in starts[0].items():
        bound = 1 / math.sqrt(math.prod(scores.shape[1:]))
        assert scores.abs().max() <= bound
        assert scores.abs().max() > 0.8 * bound
        assert not torch.equal(scores, starts[1][name])


def test_scores_hang_on_the_tasks_name_and_not_on_its_place() -> None:
    answers = []
    for turn in (1, -1):
        method, todo = drive.make(SupSup, "mlp_bn")
        drive.learn(method, todo[::turn], drive.adamw())
        answers.append({task.name: drive.logits(method, task) for task in todo})
    assert not drive.differing(*answers)


@pytest.mark.parametrize("backbone", ["mlp_bn", "convnet", "encoder"])
@modes
def test_the_gradient_of_a_score_has_the_papers_sign(backbone: str, select: str) -> None:
    method, todo = drive.make(SupSup, backbone, select=select)
    drive.begin(method, todo[0])
    drive.train(method, todo[0], drive.adamw()(method), range(2))
    method.model.eval()
    x = todo[0].inputs(9)
    y = todo[0].labels(9, method.model(x))
    for parameter in method.parameters():
        parameter.grad = None
    F.cross_entropy(method.model(x), y).backward()

    plain = drive.BACKBONES[backbone]()[0].eval()
    tensors = {n: method.sites.tensor(n).detach() for n in method.sites.roles}
    sources = {n: site.source for n, site in method.sites.weights.items()}
    masked = {n: torch.where(s.hard(s.scores), tensors[n], 0).requires_grad_() for n, s in sources.items()}
    F.cross_entropy(functional_call(plain, tensors | masked, (x,)), y).backward()
    for name, source in sources.items():
        scores = source.scores.detach()
        sign = scores.sign() if select == "top-k" else torch.ones_like(scores)
        torch.testing.assert_close(source.scores.grad, sign * tensors[name] * masked[name].grad)


@backbones
@modes
def test_a_one_hot_mixture_is_that_task(backbone: str, select: str) -> None:
    method, todo = drive.make(SupSup, backbone, select=select)
    drive.learn(method, todo, drive.adamw())
    alone = {task.name: drive.logits(method, task) for task in todo}
    for name, logits in alone.items():
        assert torch.equal(mixed(method, [(float(other == name), other) for other in alone]), logits)
        assert torch.equal(mixed(method, [(1.0, name)]), logits)
    assert torch.equal(drive.logits(method, "a"), alone["a"])


def test_a_mixture_reads_the_weighted_sum_of_masks() -> None:
    method, todo = drive.make(SupSup, "convnet")
    records = drive.learn(method, todo, drive.adamw())
    mixed(method, [(0.25, "a"), (0.25, "b"), (0.5, "c")])
    for name, w in weights(method).items():
        masks = [unpack(records[task].masks[name]).float() for task in "abc"]
        expected = w * (0.25 * masks[0] + 0.25 * masks[1] + 0.5 * masks[2])
        torch.testing.assert_close(method.model.get_submodule(name.removesuffix(".weight")).weight, expected)


def test_norms_keep_statistics_alone_and_biases_are_none() -> None:
    method, todo = drive.make(SupSup, "mlp_bn")
    records = drive.learn(method, todo, drive.adversary())
    for name in ("0.bias", "1.bias", "3.bias", "4.bias", "6.bias"):
        assert not method.sites.tensor(name).any()
    assert torch.equal(method.sites.tensor("1.weight"), torch.ones(24))
    expected = {f"{norm}.{leaf}" for norm in (1, 4) for leaf in ("running_mean", "running_var", "num_batches_tracked")}
    assert set(records["a"].private) == expected
    assert not torch.equal(records["a"].private["1.running_mean"], records["b"].private["1.running_mean"])


def test_the_head_is_masked_and_shared_or_private_on_request() -> None:
    method, _ = drive.make(SupSup, "convnet")
    assert "7.weight" in method.sites.weights
    with pytest.raises(ValueError, match="expected at most 5 outputs, the width of the shared head '7', found 6"):
        method.begin("a", outputs=6)
    method, todo = drive.make(SupSup, "convnet", heads="private")
    records = drive.learn(method, todo)
    assert "7.weight" not in method.sites.weights
    assert set(records["a"].private) == {"7.weight", "7.bias"}


@pytest.mark.parametrize("density", [0.0, 1.5])
def test_a_density_outside_its_range_is_refused(density: float) -> None:
    with pytest.raises(ValueError, match=r"expected a density in \(0, 1\], found"):
        drive.make(SupSup, "convnet", density=density)


@pytest.mark.parametrize(
    ("hyper", "least"),
    [
        pytest.param({"density": 0.5}, 95, marks=pytest.mark.full),
        pytest.param({"density": 0.1}, 90, marks=pytest.mark.full),
        ({"select": "threshold"}, 95),
    ],
    ids=str,
)
def test_supermasks_of_a_random_network_learn_permuted_digits(hyper: dict[str, Any], least: float) -> None:
    tasks = permuted(3)
    method = SupSup(mlp(64, 300, 100, 50), torch.zeros(1, 64), **hyper)
    for task, data in tasks.items():
        make = partial(torch.optim.RMSprop, lr=1e-3)
        fit(method, task, data, lambda method, make=make: make(method.parameters()), epochs=6)
    found = accuracies(method, tasks)
    assert mean(found) > least, found


@pytest.mark.parametrize("s", [1, 4, 32])
def test_a_budget_keeps_the_same_count_whatever_the_kernel(s: int) -> None:
    method, todo = drive.make(SupSup, "convnet", budget=s)
    record = drive.learn(method, todo[:1])["a"]
    for name, w in weights(method).items():
        n = w.numel()
        rho = min(0.5, s * (w.shape[0] + w.shape[1]) / n)
        assert int(unpack(record.masks[name]).sum()) == n - math.floor(round((1 - rho) * n, 6))


def test_transfer_starts_from_the_earlier_mask_and_then_from_what_most_keep() -> None:
    method, todo = drive.make(SupSup, "mlp_bn", transfer=True, density=0.3)
    drive.learn(method, todo[:1], drive.adamw())
    drive.begin(method, todo[1], "train")
    for name, mask in method.records["a"].masks.items():
        assert torch.equal(unpack(mask), method.sites.weights[name].source.hard(method.scores[name])), name  # type: ignore[union-attr]
    drive.train(method, todo[1], drive.adamw()(method), range(4))
    method.end("b")
    drive.begin(method, todo[2], "train")
    for name, scores in method.scores.items():
        votes = sum(unpack(method.records[task].masks[name]).int() for task in ("a", "b"))
        start = method.sites.weights[name].source.hard(scores)  # type: ignore[union-attr, operator]
        assert torch.as_tensor(votes)[start].min() >= torch.as_tensor(votes)[~start].max()


@pytest.mark.parametrize("wrong", [{"transfer": True}, {"budget": 4.0}])
def test_a_threshold_has_no_count_to_transfer_or_to_budget(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected select='top-k'"):
        drive.make(SupSup, "mlp_bn", select="threshold", **wrong)
    with pytest.raises(ValueError, match="expected a budget above 0, found 0"):
        drive.make(SupSup, "mlp_bn", budget=0.0)


def test_every_earlier_task_has_a_vote() -> None:
    method, todo = drive.make(SupSup, "mlp_bn", transfer=True, density=0.3)
    for task in todo:
        drive.begin(method, task)
        for name, scores in method.scores.items():
            with torch.no_grad():
                scores.copy_(torch.rand(scores.shape, generator=generator(task.name, name)))
        drive.train(method, task, torch.optim.SGD(method.parameters(), lr=1e-3), range(1))
        method.end(task.name)
    method.begin("d")
    for name, scores in method.scores.items():
        votes = torch.stack([unpack(record.masks[name]).float() for record in method.records.values()]).sum(0)
        start = method.sites.weights[name].source.hard(scores)  # type: ignore[union-attr, operator]
        assert votes[start].min() >= votes[~start].max()
        assert start[votes == 3].all()
        assert not start[votes == 0].any()
