"""The mixture of all masks and its slopes: equal to the formula, whatever tasks came, went or were learned again."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from tests.inference import small
from torch import nn

from polymask.inference.mixture import Mixture
from polymask.inference.planes import Planes
from polymask.inference.ways import ask_by_halves, ask_each, ask_once
from polymask.method.contract import Method
from polymask.parts.pack import pack, unpack
from polymask.parts.seeds import generator
from polymask.parts.sparse import sparsify
from polymask.parts.uncertainty import entropy, superfluous
from polymask.sites.table import replica
from polymask.task import activate

KINDS = ("bits", "ternary", "real", "deltas")


def learned(kind: str) -> Method:
    """A learner whose tasks' masks are of a kind; those that no method with one head for all makes are made by hand."""
    method = small.learned()
    change_kind(method, kind)
    return method


def change_kind(method: Method, kind: str) -> None:
    """Turn every mask of bits into another kind, keyed by the task."""
    for task, record in method.records.items():
        draw, masks, deltas = generator(task, kind), {}, {}
        for name, packed in record.masks.items():
            mask = unpack(packed)
            if mask.dtype == torch.bool and kind == "ternary":
                mask = mask.to(torch.int8) - 2 * (torch.rand(mask.shape, generator=draw) < 0.2).to(torch.int8) * mask
            elif mask.dtype == torch.bool and kind == "real":
                mask = mask * torch.rand(mask.shape, generator=draw)
            masks[name] = packed if kind in ("bits", "deltas") else pack(mask)
            if kind == "deltas" and task != "t0":
                deltas[name] = sparsify(torch.randn(mask.shape, generator=draw) * (mask.float() - 0.5).relu())
        method.records[task] = replace(record, masks=masks, deltas=deltas)


def mixed(method: Method, x: torch.Tensor, alphas: list[float]) -> torch.Tensor:
    """The logits of a mixture as the one formula for it has them, on a copy."""
    sites = replica(method.sites)
    activate(sites, list(zip(alphas, method.records.values(), strict=True)))
    logits: torch.Tensor = sites.model.eval()(x).detach()
    return logits


@pytest.fixture(scope="module")
def method() -> Method:
    return small.learned()


@pytest.mark.parametrize("by", ["H", "G"])
def test_slopes_are_those_of_finite_differences(method: Method, by: str) -> None:
    x, step = small.inputs(1, 4).double(), 1e-4
    double = small.learned()
    double.model.double()
    mixture = Mixture(double.sites)
    mixture.update(method.records)
    slopes = mixture.slopes(x, entropy if by == "H" else partial(superfluous, labels=3))
    here = mixed(double, x, [1 / 3] * 3)

    def value(alphas: list[float]) -> float:
        output = mixed(double, x, alphas)
        if by == "G":  # the labels' logits stand still
            return float(torch.cat([here[:, :3], output[:, 3:]], 1).logsumexp(-1).mean())
        p = output.softmax(-1)
        return float(-(p * p.log()).sum(-1).mean())

    for place in range(3):
        up, down = ([1 / 3 + sign * step * (task == place) for task in range(3)] for sign in (1, -1))
        assert (value(up) - value(down)) / (2 * step) == pytest.approx(float(slopes[place]), rel=1e-3, abs=1e-6)
    assert slopes.std() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_and_one_mask_alone_answer_as_the_formula_has_it(kind: str) -> None:
    method = learned(kind)
    x, mixture = small.inputs(0, 5), Mixture(method.sites)
    mixture.update(method.records)
    assert torch.allclose(mixture.logits(x), mixed(method, x, [1 / 3] * 3), atol=1e-5)
    for place, task in enumerate(method.records):
        assert torch.allclose(mixture.logits(x, [place]), method.plain(task)(x), atol=1e-5)
    before = {name: tensor.clone() for name, tensor in method.model.state_dict().items()}
    mixture.slopes(x, entropy)
    assert all(torch.equal(before[name], tensor) for name, tensor in method.model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_added_removed_and_learned_again_counts_as_if_counted_anew(kind: str) -> None:
    method, x = small.learned(tasks=4), small.inputs(2, 3)
    change_kind(method, kind)
    records = dict(method.records)
    mixture = Mixture(method.sites)
    mixture.update({task: records[task] for task in ("t0", "t1", "t2")})
    mixture.update({task: records[task] for task in ("t0", "t2", "t3")})
    mixture.update({**{task: records[task] for task in ("t0", "t2", "t3")}, "t1": records["t1"]})
    anew = Mixture(method.sites)
    anew.update({task: records[task] for task in mixture.tasks})
    assert mixture.tasks == ["t0", "t2", "t3", "t1"]
    assert torch.allclose(mixture.slopes(x, entropy), anew.slopes(x, entropy), atol=1e-6)
    assert torch.equal(mixture.logits(x), anew.logits(x))


def test_planes_say_what_dense_products_say_also_where_columns_are_dead() -> None:
    torch.manual_seed(0)
    for shape in [(7, 5), (9,), (4, 3, 3, 2)]:
        planes, masks = Planes(shape), [torch.rand(shape) > 0.5 for _ in range(70)]
        for mask in masks:
            planes.append(mask)
        gradient = torch.randn(shape)
        if len(shape) > 1:
            gradient[:, 1] = 0
        dense = torch.stack([(mask * gradient).sum() for mask in masks])
        assert torch.allclose(planes.products(gradient), dense, atol=1e-5)
        assert torch.allclose(planes.products(gradient, [3, 1]), dense[[3, 1]], atol=1e-5)
        planes.remove(0)
        assert torch.allclose(planes.products(gradient), dense[1:], atol=1e-5)
        assert torch.allclose(planes.mean(), torch.stack(masks[1:]).float().mean(0), atol=1e-6)
        assert torch.allclose(planes.mean([0, 1]), torch.stack(masks[1:3]).float().mean(0), atol=1e-6)


def test_halving_leaves_one_and_one_task_has_no_slope_to_be_told_by(monkeypatch: pytest.MonkeyPatch) -> None:
    method = small.learned(tasks=5)
    mixture, asked = Mixture(method.sites), []
    mixture.update(method.records)
    slopes = Mixture.slopes

    def noted(self: Mixture, x: Any, objective: Any, tasks: Any = None) -> torch.Tensor:
        asked.append(5 if tasks is None else len(tasks))
        return slopes(self, x, objective, tasks)

    monkeypatch.setattr(Mixture, "slopes", noted)
    x = small.inputs(4, 1)
    scores = ask_by_halves(mixture, x, entropy)
    assert asked == [5, 3, 2]
    assert scores.sort().values.floor().tolist() == [0.0, 0.0, 1.0, 2.0, 3.0]
    assert len(scores.unique()) == 5
    mixture.update({"t4": method.records["t4"]})
    asked.clear()
    assert ask_by_halves(mixture, x, entropy).tolist() == [0.0]
    assert asked == []
    assert ask_once(mixture, x, entropy).shape == (1,)


def test_each_mask_says_how_sure_it_is_of_each_row(method: Method) -> None:
    x = small.inputs(0, 4)
    asked = [(method.plain(task), x) for task in method.records]
    for place, (net, _) in enumerate(asked):
        p = net(x).softmax(-1)
        assert torch.allclose(ask_each(asked)[:, place], (p * p.log()).sum(-1), atol=1e-6)
        assert torch.allclose(ask_each(asked, "confidence")[:, place], p.max(-1).values)


def test_what_no_mixture_can_hold_is_one_sentence() -> None:
    own = small.learned("piggyback", tasks=1)
    with pytest.raises(ValueError, match="head of its own"):
        Mixture(own.sites).update(own.records)
    with pytest.raises(ValueError, match="at least one task"):
        Mixture(own.sites).logits(small.inputs(0))
    infinite = small.learned(tasks=1)
    name = next(iter(infinite.sites.weights))
    infinite.sites.base(name).view(-1)[0] = torch.inf
    with pytest.raises(ValueError, match="finite numbers"):
        Mixture(infinite.sites)


def test_the_gradient_of_what_is_superfluous_stays_beyond_the_labels() -> None:
    z = torch.randn(3, 6, requires_grad=True)
    superfluous(z, 4).backward()
    assert z.grad is not None
    assert torch.equal(z.grad[:, :4], torch.zeros(3, 4))
    assert torch.allclose(z.grad[:, 4:], z.detach().softmax(-1)[:, 4:] / 3)
    with pytest.raises(ValueError, match="outputs beyond the 6 labels"):
        superfluous(z, 6)


def test_a_network_with_norms_of_its_own_is_averaged(method: Method) -> None:
    normed = small.learned(norm=True)
    mixture, x = Mixture(normed.sites), small.inputs(0, 4)
    mixture.update(normed.records)
    assert torch.allclose(mixture.logits(x), mixed(normed, x, [1 / 3] * 3), atol=1e-5)
    assert isinstance(normed.model, nn.Sequential)
