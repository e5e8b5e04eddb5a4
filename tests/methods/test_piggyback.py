"""Piggyback's own invariants: the backbone never moves, tasks do not meet, and masks beat a classifier on digits."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from statistics import mean

import pytest
import torch
from tests.contract import drive
from tests.methods.digits import Split, accuracies, accuracy, adam, changed, descend, fit, images
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from polymask.methods import Independent, LinearProbe, Piggyback
from polymask.methods.piggyback import init_for
from polymask.parts.binarize import threshold
from polymask.parts.pack import unpack
from polymask.task import activate

backbones = pytest.mark.parametrize("backbone", ["mlp_bn", "convnet", "timm_resnet", "encoder"])
optimizers = pytest.mark.parametrize("optimizer", list(drive.OPTIMIZERS))


def backbone_of(method: Piggyback) -> dict[str, Tensor]:
    """Every tensor that no task may change."""
    return {n: method.sites.base(n).clone() for n in method.sites.names("masked", "frozen", "first")}


def features(model: nn.Module, head: str, x: Tensor) -> Tensor:
    """What arrives at the head in evaluation mode."""
    seen: list[Tensor] = []
    hook = model.get_submodule(head).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    drive.answer(model, x)
    hook.remove()
    return seen[0]


@backbones
@pytest.mark.parametrize("optimizer", ["adamw", "kept", "adversary"])
def test_no_training_moves_the_backbone(backbone: str, optimizer: str) -> None:
    method, todo = drive.make(Piggyback, backbone)
    before = backbone_of(method)
    drive.learn(method, todo, drive.OPTIMIZERS[optimizer]())
    assert len(before) > 4
    assert not drive.differing(before, backbone_of(method))


@backbones
def test_the_backbone_is_the_given_one(backbone: str) -> None:
    plain = drive.BACKBONES[backbone]()[0].state_dict()
    method, _ = drive.make(Piggyback, backbone)
    found = backbone_of(method)
    assert not drive.differing({name: plain[name] for name in found}, found)


@backbones
def test_at_first_every_weight_is_read(backbone: str) -> None:
    plain, example = drive.BACKBONES[backbone]()
    method, todo = drive.make(Piggyback, backbone)
    drive.begin(method, todo[0])
    for site in method.sites.weights.values():
        assert site.source.hard(site.source.scores).all()
    assert torch.equal(features(method.model, method.head, example), features(plain, method.head, example))


@pytest.mark.parametrize("backbone", ["mlp_bn", "convnet"])
@pytest.mark.parametrize("optimizer", ["sgd", "sgd_momentum_decay", "adamw"])
def test_a_task_is_the_same_in_every_order(backbone: str, optimizer: str) -> None:
    answers = []
    for turn in (1, -1):
        method, todo = drive.make(Piggyback, backbone)
        drive.learn(method, todo[::turn], drive.OPTIMIZERS[optimizer]())
        answers.append({task.name: drive.logits(method, task) for task in todo})
    assert not drive.differing(*answers)


@pytest.mark.parametrize("backbone", ["mlp_bn", "convnet"])
def test_a_mask_is_one_bit_a_weight_and_survives_packing(backbone: str) -> None:
    method, todo = drive.make(Piggyback, backbone)
    drive.begin(method, todo[0])
    drive.train(method, todo[0], drive.adamw()(method), range(4))
    before = drive.answer(method.model, drive.probe(method))
    masks = {n: threshold(s.source.scores, 0.005) for n, s in method.sites.weights.items()}
    record = method.end("a")["a"]
    for name, mask in masks.items():
        assert not mask.all()
        assert record.masks[name].nbytes == math.ceil(mask.numel() / 8)
        assert torch.equal(unpack(record.masks[name]), mask)
    assert set(record.masks) == set(masks)
    assert set(record.private) == {f"{method.head}.weight", f"{method.head}.bias"}
    assert torch.equal(drive.answer(method.model, drive.probe(method)), before)


@pytest.mark.parametrize("backbone", ["mlp_bn", "convnet", "encoder"])
def test_the_gradient_of_a_score_is_the_gradient_of_its_weight_times_the_weight(backbone: str) -> None:
    method, todo = drive.make(Piggyback, backbone)
    drive.begin(method, todo[0])
    drive.train(method, todo[0], drive.adamw()(method), range(3))
    method.model.eval()
    x = todo[0].inputs(9)
    y = todo[0].labels(9, method.model(x))
    for parameter in method.parameters():
        parameter.grad = None
    F.cross_entropy(method.model(x), y).backward()

    plain = drive.BACKBONES[backbone]()[0].eval()
    tensors = {n: method.sites.tensor(n).detach() for n in method.sites.roles}
    masked = {
        n: torch.where(s.source.scores > 0.005, tensors[n], 0).requires_grad_() for n, s in method.sites.weights.items()
    }
    F.cross_entropy(functional_call(plain, tensors | masked, (x,)), y).backward()
    for name, site in method.sites.weights.items():
        torch.testing.assert_close(site.source.scores.grad, masked[name].grad * tensors[name])


def test_private_norms_are_the_tasks_own() -> None:
    method, todo = drive.make(Piggyback, "mlp_bn", norms="private")
    start = {n: v.clone() for n, v in method.initial.items()}
    records = drive.learn(method, todo, drive.adamw())
    assert {"1.weight", "1.bias", "1.running_mean", "1.running_var"} <= set(records["a"].private)
    assert not torch.equal(records["a"].private["1.running_mean"], records["b"].private["1.running_mean"])
    drive.begin(method, drive.tasks(method.example, 4)[3])
    now = {n: method.sites.tensor(n) for n in start if not n.startswith(method.head)}
    assert not drive.differing(now, {n: start[n] for n in now})


def test_norms_of_its_own_start_from_the_backbone_that_the_first_task_trained() -> None:
    method, todo = drive.make(partial(Piggyback, backbone="first-task", norms="private"), "mlp_bn")
    records = drive.learn(method, todo[:1], drive.adamw())
    drive.begin(method, todo[1])
    norms = [name for name in records["a"].private if not name.startswith(method.head)]
    assert len(norms) > 4
    assert not drive.differing({n: records["a"].private[n] for n in norms}, {n: method.sites.tensor(n) for n in norms})


@pytest.mark.parametrize("backbone", ["mlp_bn", "convnet"])
@optimizers
def test_the_first_task_may_train_the_backbone_and_keeps_it_unmasked(backbone: str, optimizer: str) -> None:
    method, todo = drive.make(partial(Piggyback, backbone="first-task"), backbone)
    start, make = backbone_of(method), drive.OPTIMIZERS[optimizer]()
    drive.learn(method, todo[:1], make)
    learned, first = backbone_of(method), drive.logits(method, "a")
    assert drive.differing(start, learned) == sorted(start)
    assert not method.record("a").masks
    drive.learn(method, todo[1:], make)
    assert not drive.differing(learned, backbone_of(method))
    assert torch.equal(drive.logits(method, "a"), first)
    assert set(method.record("b").masks) == set(method.sites.weights)


def test_the_first_task_is_trained_as_a_plain_network_would_be() -> None:
    method, todo = drive.make(partial(Piggyback, backbone="first-task"), "mlp_bn")
    drive.begin(method, todo[0])
    plain = drive.BACKBONES["mlp_bn"]()[0]
    plain.load_state_dict(method.model.state_dict())
    drive.train(method, todo[0], torch.optim.Adam(plain.parameters(), lr=1e-2), range(4), model=plain)
    drive.train(method, todo[0], torch.optim.Adam(method.parameters(), lr=1e-2), range(4))
    method.end("a")
    assert torch.equal(drive.logits(method, "a"), drive.answer(plain, drive.probe(method)))


def test_in_a_mixture_an_unmasked_task_reads_every_weight() -> None:
    method, todo = drive.make(partial(Piggyback, backbone="first-task"), "convnet")
    records = drive.learn(method, todo[:2], drive.adamw())
    activate(method.sites, [(0.25, records["a"]), (0.75, records["b"])])
    w, mask = method.sites.base("0.weight"), unpack(records["b"].masks["0.weight"])
    torch.testing.assert_close(method.model[0].weight, w * (0.25 + 0.75 * mask))


def test_a_start_below_the_threshold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected init above tau, .* found 0.005 and 0.005"):
        drive.make(Piggyback, "convnet", init=0.005)


def small_net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convs = [(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o)) for i, o in ((1, 16), (16, 16))]
        (a, na), (b, nb) = convs
        return nn.Sequential(a, na, nn.ReLU(), nn.MaxPool2d(2), b, nb, nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))


@pytest.mark.full
def test_on_digits_a_mask_beats_a_classifier_and_loses_to_fine_tuning() -> None:
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "inverted": lambda x: -x,
        "rotated": lambda x: x.rot90(1, (2, 3)),
        "rolled": lambda x: x.roll(3, 3),
    }
    tasks: dict[str, Split] = {name: changed(change) for name, change in changes.items()}
    pretrained = small_net()
    descend(pretrained, images(), torch.optim.Adam(pretrained.parameters(), lr=3e-3), epochs=4, key="upright")
    assert accuracy(pretrained, images()) > 95
    found = {}
    for name, kind, make in (
        ("classifier", LinearProbe, adam(3e-3)),
        ("mask", Piggyback, adam(3e-3, scores=5e-4)),
        ("fine-tuned", Independent, adam(3e-3)),
    ):
        method = kind(copy.deepcopy(pretrained), torch.zeros(1, 1, 8, 8))
        for task, data in tasks.items():
            fit(method, task, data, make, epochs=8)
        found[name] = mean(accuracies(method, tasks))
    assert found["classifier"] < found["mask"] < found["fine-tuned"] + 0.5, found


TERNARY = {"values": "ternary"}


@pytest.mark.parametrize("backbone", ["mlp_bn", "convnet", "encoder"])
@pytest.mark.parametrize("optimizer", ["sgd_momentum_decay", "adamw", "kept"])
def test_ternary_tasks_keep_their_logits_and_leave_the_backbone(backbone: str, optimizer: str) -> None:
    method, todo = drive.make(Piggyback, backbone, init=0.006, **TERNARY)
    before, answers = backbone_of(method), {}
    for task in todo:
        drive.learn(method, [task], drive.OPTIMIZERS[optimizer]())
        answers[task.name] = drive.answer(method.plain(task.name), drive.probe(method))
    assert not drive.differing(before, backbone_of(method))
    for name, logits in answers.items():
        method.activate(name)
        assert torch.equal(drive.answer(method.model, drive.probe(method)), logits)
        assert torch.equal(drive.answer(method.plain(name), drive.probe(method)), logits)


def test_a_ternary_mask_is_two_bits_a_weight_and_turns_signs() -> None:
    method, todo = drive.make(Piggyback, "mlp_bn", init=0.006, **TERNARY)
    drive.begin(method, todo[0], "train")
    for name, scores in method.scores.items():
        with torch.no_grad():
            scores.copy_(torch.linspace(-1, 1, scores.numel()).view(scores.shape) * 0.01)
        w, read = method.sites.base(name), dict(method.model.named_modules())[name.rpartition(".")[0]].weight
        expected = torch.where(scores < 0, -w, torch.where(scores > 0.005, w, 0.0))
        assert torch.equal(read, expected)
    method.on_step(0.0)
    with pytest.warns(UserWarning, match="never moved"):
        packed = method.end("a")["a"].masks
    for mask in packed.values():
        assert mask.codec == "ternary"
        assert mask.nbytes == 2 * math.ceil(math.prod(mask.shape) / 8)
        assert set(unpack(mask).unique().tolist()) == {-1, 0, 1}


def test_an_infinity_under_a_ternary_zero_does_not_reach_the_task() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight[0, 0] = torch.inf
    method = Piggyback(net, torch.zeros(1, 3), **TERNARY)  # type: ignore[arg-type]
    method.begin("a")
    with torch.no_grad():
        method.scores["0.weight"][0, 0] = 0.0
    assert net(torch.ones(2, 3)).isfinite().all()
    method.on_step(0.0)
    with pytest.warns(UserWarning, match="never moved"):
        method.end("a")
    assert method.plain("a")(torch.ones(2, 3)).isfinite().all()


@pytest.mark.parametrize("values", ["binary", "ternary"])
@pytest.mark.parametrize("backbone", ["mlp_bn", "convnet", "timm_resnet"])
def test_scores_by_magnitude_read_every_weight_at_first(values: str, backbone: str) -> None:
    method, todo = drive.make(Piggyback, backbone, values=values, start="magnitude")
    drive.begin(method, todo[0], "train")
    for name, scores in method.scores.items():
        w = method.sites.base(name)
        assert (threshold(scores, 0.005)).all()
        assert scores.mean().item() == pytest.approx(0.01, rel=1e-3)
        order = w.abs().flatten().argsort()
        assert (scores.flatten()[order].diff() >= 0).all()


def test_switching_between_tasks_with_private_norms_comes_back() -> None:
    method, todo = drive.make(Piggyback, "convnet", norms="private", init=0.006, **TERNARY)
    drive.learn(method, todo, drive.adamw())
    first = drive.answer(method.plain("a"), drive.probe(method))
    for name in ("a", "b", "a"):
        method.activate(name)
    assert torch.equal(drive.answer(method.model, drive.probe(method)), first)


def test_kappa_is_how_far_a_score_can_walk() -> None:
    init = init_for(kappa=2.5, lr=1e-3, steps=100, tau=0.005)
    assert 1e-3 * 100 / (init - 0.005) == pytest.approx(2.5)
    score = torch.full((1,), init, requires_grad=True)
    optimizer, flipped = torch.optim.Adam([score], 1e-3), 0
    for step in range(1, 101):
        score.grad = torch.ones(1)
        optimizer.step()
        flipped = flipped or (step if score.item() <= 0.005 else 0)
    assert flipped == pytest.approx(100 / 2.5, abs=1), "at kappa 2.5 a steady gradient flips after steps / 2.5"
    with pytest.raises(ValueError, match="expected kappa, lr and steps above 0, found 0"):
        init_for(0, 1e-3, 10)


def test_a_negative_threshold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected tau of at least 0, found -0\.1"):
        drive.make(Piggyback, "mlp_bn", tau=-0.1)


@pytest.mark.parametrize("optimizer", ["sgd_momentum_decay", "adamw"])
def test_masked_names_the_layers_whose_units_are_masked(optimizer: str) -> None:
    every, _ = drive.make(partial(Piggyback, granularity="unit"), "convnet")
    method, todo = drive.make(partial(Piggyback, granularity="unit", masked=["2.weight"]), "convnet")
    assert set(every.sites.units) == {"0", "2", "5"}
    assert set(method.sites.units) == {"2"}
    record = drive.learn(method, todo[:1], drive.OPTIMIZERS[optimizer]())["a"]
    assert set(record.masks) == {"2"}
    before = drive.logits(method, "a")
    drive.learn(method, todo[1:], drive.OPTIMIZERS[optimizer]())
    assert torch.equal(drive.logits(method, "a"), before)
    assert torch.equal(drive.answer(method.plain("a"), drive.probe(method)), before)


def test_a_mask_on_units_costs_a_bit_a_unit_and_is_hard_when_it_answers() -> None:
    method, todo = drive.make(partial(Piggyback, granularity="unit"), "encoder")
    start = backbone_of(method)
    record = drive.learn(method, todo[:1], drive.adamw())["a"]
    sizes = method.sites.wiring.sizes
    assert {site: mask.nbytes for site, mask in record.masks.items()} == {s: math.ceil(n / 8) for s, n in sizes.items()}
    assert sizes
    assert all(unpack(mask).dtype == torch.bool for mask in record.masks.values())
    assert not drive.differing(start, backbone_of(method))
