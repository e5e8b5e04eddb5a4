"""Without task identities: what a jump of the entropy is, which tasks are told apart, and what is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from tests.inference import small
from tests.methods.digits import mlp, permuted
from torch import Tensor, nn

from polymask.inference.infer import Inference
from polymask.learning.unnamed.learn import Unnamed, learn_unnamed
from polymask.learning.unnamed.rules import EntropyJump, UniformSlopes, Usual
from polymask.method.card import Recipe
from polymask.parts.seeds import generator
from polymask.parts.uncertainty import entropy
from polymask.report.grouping import boundaries, purity

VISIT = 25
"""Batches of a visit."""


def stream(*visits: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of 64 of permuted digits, visit after visit."""
    tasks = list(permuted(max(visits) + 1).values())
    for visit, task in enumerate(visits):
        x, y, *_ = tasks[task]
        order = torch.cat([torch.randperm(len(x), generator=generator("visit", visit, k)) for k in range(2)])
        for rows in order.split(64)[:VISIT]:
            yield x[rows], y[rows]


def true(*visits: int) -> list[int]:
    return [task for task in visits for _ in range(VISIT)]


def learn(*visits: int, net: nn.Module | None = None, **settings: Any) -> Unnamed:
    """Learn visits on a small network of 50 outputs, of which 10 are labels."""
    settings = {"options": {"select": "threshold"}, "recipe": Recipe("rmsprop", lr=1e-3)} | settings
    return learn_unnamed(mlp(64, 100, 50) if net is None else net, stream(*visits), outputs=10, **settings)


def usual(*seen: float) -> Usual:
    made = Usual(deviations=6.0, least=0.5, batches=10)
    for h in seen:
        made.note(h)
    return made


def test_an_entropy_that_falls_and_trembles_does_not_jump_and_one_of_other_data_does() -> None:
    draw, found = generator("entropies"), usual()
    for step in range(200):
        h = 3.5 * 0.9**step + 0.3 + 0.05 * float(torch.randn((), generator=draw))
        assert not found.is_exceeded_by(h), step
        found.note(h)
    assert len(found.seen) == 10  # what it was at first is forgotten
    assert found.is_exceeded_by(0.9)
    assert not found.is_exceeded_by(0.7)


def test_a_jump_is_many_deviations_and_no_small_step() -> None:
    assert usual(*[0.1, 0.1001] * 5).is_exceeded_by(0.61)
    assert not usual(*[0.1, 0.1001] * 5).is_exceeded_by(0.59)  # 9,800 deviations
    assert not usual(*[0.1, 0.5] * 5).is_exceeded_by(1.49)
    assert usual(*[0.1, 0.5] * 5).is_exceeded_by(1.51)
    assert not usual(*[0.1, 0.1001] * 4).is_exceeded_by(9.0)  # two batches too few


def test_what_is_strange_to_the_open_mask_is_of_another_task_which_is_watched_anew() -> None:
    method, x = small.learned(), small.inputs(1)
    known = entropy(method.plain("t1")(x)).item()
    method.begin("t1")
    with torch.no_grad():
        for scores in method.scores.values():
            scores.copy_(torch.randn(scores.shape, generator=generator("other scores")))
    assert entropy(method.model(x)).item() > known + 0.1
    rule = EntropyJump(method, share=0.01)
    for _ in range(10):
        rule.usual["t1"].note(known)  # so that the mask that "t1" had before would know the batch
        rule.usual["t0"].note(9.0)
        rule.usual["t2"].note(0.0)
    assert rule.choose(x) == "t0"
    assert (len(rule.usual["t0"].seen), len(rule.usual["t1"].seen)) == (0, 10)
    for _ in range(10):
        rule.usual["t0"].note(0.0)
    assert rule.choose(x) is None


def test_tasks_that_nobody_names_get_a_mask_each_and_go_on_when_they_come_back() -> None:
    visits = (0, 1, 2, 0, 1, 2)
    run = learn(*visits)
    assert run.tasks == ["1", "2", "3"]
    assert purity(run.assigned, true(*visits)) == 1
    assert boundaries(run.assigned, true(*visits)) == (5, 5, 0)
    assert run.boundaries == [25, 50, 75, 100, 125]
    method = run.learned.method
    assert [method.records[task].meta.revision for task in run.tasks] == [1, 1, 1]
    assert {method.records[task].meta.outputs for task in run.tasks} == {10}
    inference = Inference(method, by="superfluous")
    for task, (_, _, x, y) in zip(run.tasks, permuted(3).values(), strict=True):
        assert inference(x[:64], together=True).choice == [task]
        assert float((run.learned.predict(task, x) == y).float().mean()) > 0.85


def test_when_all_masks_are_spent_new_data_are_skipped_with_one_warning() -> None:
    visits = (0, 1, 2, 0)
    with pytest.warns(UserWarning, match="all 2 masks are spent") as said:
        run = learn(*visits, most=2)
    assert len(said) == 1
    assert run.assigned == ["1"] * 25 + ["2"] * 25 + [None] * 25 + ["1"] * 25
    before, x = learn(0, 1, most=2), permuted(1)["p0"][2]
    assert torch.equal(before.learned.logits("2", x), run.learned.logits("2", x))  # nothing later taught it
    assert not torch.equal(before.learned.logits("1", x), run.learned.logits("1", x))


def test_the_papers_rule_tells_tasks_apart_where_it_asks_at_their_boundaries() -> None:
    visits = (0, 1, 2, 0, 1)
    run = learn(*visits, rule=partial(UniformSlopes, scale=0.7, every=VISIT))
    assert run.assigned == [str(task + 1) for task in true(*visits)]
    assert learn(0, 1, rule=partial(UniformSlopes, scale=0.0, every=10)).tasks == ["1", "2", "3", "4", "5"]
    with pytest.warns(UserWarning, match="all 1 masks are spent"):
        spent = learn(0, 1, rule=partial(UniformSlopes, scale=0.7, every=VISIT), most=1)
    assert spent.assigned == ["1"] * 25 + [None] * 25


@pytest.mark.full
def test_tasks_with_norms_of_their_own_are_told_apart_too() -> None:
    net = nn.Sequential(nn.Linear(64, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 50))
    run = learn(0, 1, 2, 0, 1, 2, net=net, recipe=Recipe(lr=1e-2), options={})
    assert (run.tasks, purity(run.assigned, true(0, 1, 2, 0, 1, 2))) == (["1", "2", "3"], 1)


def test_what_cannot_be_told_apart_is_one_sentence_and_the_network_comes_back() -> None:
    net = mlp(64, 20, 10)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match="a head wider than the 10 labels, found 10 outputs"):
        learn(0, net=net)
    with pytest.raises(ValueError, match=r"may begin again \(supsup\), found 'packnet'"):
        learn(0, net=net, method="packnet")
    with pytest.raises(ValueError, match="at least one batch"):
        learn_unnamed(net, iter(()), outputs=5)
    with pytest.raises(ValueError, match="labels of task 'of batch 0' go from 0 to 4"):
        learn_unnamed(net, stream(0), outputs=5)
    assert {name: type(module) for name, module in net.named_modules()}[""] is nn.Sequential
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
