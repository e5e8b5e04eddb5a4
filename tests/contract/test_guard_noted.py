"""What the guard notes when a task ends and asks later, and what a verb that failed puts back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import pytest
import torch
from tests.contract import drive
from torch import Tensor, nn

from polymask.held import AlteredNetwork
from polymask.method import guard, snapshot
from polymask.method.answer import answer_probe, draw_probe
from polymask.method.contract import Method
from polymask.method.finite import NotFinite
from polymask.method.heads import fresh_head, is_shared
from polymask.methods import APD, HAT, METHODS, TFM, WSN, AdaHAT, PackNet, SupSup
from polymask.parts.pack import pack, unpack
from polymask.parts.sparse import densify
from polymask.probe import setting
from polymask.sites.marks import is_marked, mark
from polymask.sites.roles import Policy, plan
from polymask.sites.table import attach
from polymask.task import reads
from polymask.wiring import Wiring


def network() -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4)]
    return nn.Sequential(*body)


def learned(kind: Callable[..., Method], names: str, **how: Any) -> Method:
    method = kind(network(), torch.randn(8, 6), **how)
    drive.learn(method, [drive.Task(name, method.example) for name in names], steps=2)
    return method


def opened(kind: Callable[..., Method], names: str, **how: Any) -> Method:
    """The last of the tasks has trained and is open."""
    method, last = learned(kind, names[:-1], **how), names[-1]
    task = drive.Task(last, method.example)
    for phase in method.phases:
        drive.begin(method, task, phase)
        drive.train(method, task, drive.sgd()(method), range(2))
    return method


@pytest.mark.parametrize(("width", "rows"), [(6, 4), (1000, 4), (1001, 1)])
def test_a_probe_has_four_rows_or_one_where_a_row_is_large(width: int, rows: int) -> None:
    net, example = nn.Linear(width, 2), torch.zeros(2, width)
    first, again, other = (draw_probe(net, example, seed) for seed in (0, 0, 1))
    assert first.shape == (rows, width)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    seeded = WSN(nn.Sequential(nn.Linear(width, 3), nn.Linear(3, 2)), example, seed=1)
    assert torch.equal(seeded.probe, other)


class Alone(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) != 3:
            raise ValueError("three rows")
        return super().forward(x)


def test_a_network_that_takes_no_other_batch_is_asked_its_example() -> None:
    example = torch.zeros(3, 6)
    assert draw_probe(Alone(6, 2), example, 0) is example


def test_a_probe_is_answered_in_one_way_whatever_surrounds_it() -> None:
    net, x = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)), torch.randn(3, 6)
    was = answer_probe(net, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(7)
        assert torch.equal(answer_probe(net, x).logits, was.logits)
    assert was.logits.dtype == torch.float32
    assert was.setting == setting(net, x)
    assert torch.equal(answer_probe(nn.Flatten(), x).logits, x)


class Counts(nn.Module):
    """Answers otherwise each time."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.turn = nn.Linear(6, 4), count(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + next(self.turn)


def test_an_answer_that_is_not_given_twice_is_not_compared() -> None:
    method = learned(PackNet, "a")
    steady, other = nn.Linear(6, 4), nn.Linear(6, 4)
    noted = lambda *nets: guard.make_watch(method, {}, "a", *nets).answer  # noqa: E731
    assert noted(steady) is not None
    assert noted(steady, copy.deepcopy(steady)) is not None
    assert noted(Counts()) is None
    assert noted(Counts(), other) is None
    with pytest.raises(RuntimeError, match="expected a baked copy to answer task 'a' as the masked network does"):
        noted(steady, other)


def test_where_masks_multiply_a_baked_copy_may_round_otherwise() -> None:
    method = learned(HAT, "a", soft=True)
    plain, near = method.plain("a"), method.plain("a")
    with torch.no_grad():
        near[5].bias += 1e-7
    assert guard.make_watch(method, {}, "a", plain, near).answer is not None
    assert guard.compare(method, lambda _: near, base=False) == ({}, [])


def test_a_learner_that_was_loaded_notices_another_behaviour() -> None:
    method, fresh = learned(PackNet, "a"), PackNet(network(), torch.randn(8, 6))
    fresh.load_state_dict(copy.deepcopy(method.state_dict()), method.records)
    fresh.model[2].register_forward_hook(lambda module, inputs, output: output * 1.5)
    with pytest.raises(AlteredNetwork, match="task 'a' answers a small probe otherwise"):
        fresh.check()


def test_a_reissued_record_that_reads_less_lets_go_what_nobody_reads_any_more() -> None:
    method = learned(WSN, "a")
    before, old = dict(method.records), method.record("a")
    packed = {name: pack(unpack(one) & (torch.rand(one.shape) < 0.5)) for name, one in old.masks.items()}
    read = reads(method.sites, {name: unpack(one) for name, one in packed.items()})
    method.records["a"] = replace(old, masks=packed, reads=read)
    held = guard.held_after(method, before, {"a": method.records["a"]}, {})
    digests = lambda parts: {name: one.digest for name, one in parts.items()}  # noqa: E731
    assert digests(held) == digests(guard.held_with(method, method.records.values(), {}, {}))
    assert digests(held) != digests(method.watch.held)
    same = guard.held_after(method, before, {"a": replace(old)}, {})
    assert digests(same) == digests(method.watch.held)


def test_of_what_has_another_precision_the_last_task_is_named() -> None:
    method = learned(WSN, "ab")
    method.model.double()
    with pytest.raises(AlteredNetwork, match=r"is float64 instead of float32.*: task 'b' would answer otherwise"):
        method.check()


def endless(net: nn.Module, place: int) -> None:
    """Of a variance without end nothing is left in evaluation, and training does not read it."""
    net[1].running_var[place] = torch.inf


def test_only_what_became_infinite_while_the_task_trained_is_its_fault() -> None:
    net = network()
    endless(net, 0)
    method = METHODS["finetune"](net, torch.randn(8, 6))
    drive.learn(method, drive.tasks(method.example), steps=2)
    task = drive.Task("z", method.example)
    drive.begin(method, task)
    drive.train(method, task, drive.sgd()(method), range(2))
    endless(net, 1)
    with pytest.raises(NotFinite, match=r"found NaN or infinity in 1\.running_var: begin\('z'\)"):
        method.end("z")


def test_what_is_a_tasks_own_must_be_finite_wherever_it_started() -> None:
    net = network()
    endless(net, 0)
    method = PackNet(net, torch.randn(8, 6), norms="private")
    with pytest.raises(NotFinite, match=r"found NaN or infinity in 1\.running_var: begin\('a'\)"):
        drive.learn(method, drive.tasks(method.example)[:1])
    assert method.task == "a"


def test_one_weight_that_went_to_infinity_is_found_beside_finite_ones() -> None:
    method = opened(PackNet, "a")
    place = tuple(unpack(pack(method.sites.weights["0.weight"].gate)).nonzero()[0].tolist())
    method.sites.tensor("0.weight").data[place] = torch.inf
    with pytest.raises(NotFinite, match=r"found NaN or infinity in 0\.weight: begin\('a'\)"):
        method.end("a")


def test_a_head_that_each_task_draws_anew_may_be_infinite_before_the_first() -> None:
    net = network()
    with torch.no_grad():
        net[5].weight[0, 0] = torch.nan
    HAT(net, torch.randn(8, 6)).begin("a")


SLOTS = ("mask", "delta", "gate", "kept", "rate")


def _digest(value: Tensor | None) -> object:
    return None if value is None else (value.shape, value.dtype, value.tolist())


def noted(method: Method) -> list[object]:
    """What a learner and its network are beside the values of tensors."""
    found: list[object] = []
    for path, module in method.model.named_modules():
        held = [(name, id(t), t.requires_grad) for name, t in module._parameters.items() if t is not None]
        found += [path, type(module), held, [(name, t is None) for name, t in module._buffers.items()]]
        found += [vars(module).get("train"), module.training]
        found += [set(mark(module).frozen) if is_marked(module) else None]
    for name, site in method.sites.every().items():
        found += [name, id(site.source), *(_digest(getattr(site, slot, None)) for slot in SLOTS)]
    return [*found, list(method.records), method.count, sorted(method.sites.opened), id(method.watch)]


def effective(method: Method) -> dict[str, Tensor]:
    """What the network reads; what a gate shuts off may have gone."""
    return {name: _module(method, name).detach().clone() for name in method.sites.roles}


def _module(method: Method, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    found: Tensor = getattr(method.model.get_submodule(path), leaf)
    return found


@pytest.mark.parametrize("finished", ["", "a"])
@pytest.mark.parametrize("place", ["activate", "guard.held_after", "guard.make_watch"])
@pytest.mark.parametrize(
    ("kind", "how"),
    [(PackNet, {"norms": "frozen"}), (PackNet, {}), (APD, {}), (HAT, {}), (METHODS["finetune"], {})],
    ids=["frozen norms", "packnet", "apd", "hat", "finetune"],
)
def test_an_end_that_fails_at_its_last_steps_has_not_happened(
    kind: Callable[..., Method], how: dict[str, Any], place: str, finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = opened(kind, finished + "z", **how)
    private = [method.sites.tensor(name) for name in method.sites.names("private")]
    # As if another process had sent what it has.
    monkeypatch.setattr(snapshot, "broadcast", lambda _: [t.detach().add_(1) for t in private])
    before, values = noted(method), effective(method)

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(f"polymask.method.fold.{place}", fail)
        with pytest.raises(MemoryError):
            method.end("z")
    assert noted(method) == before
    assert not drive.differing(values, effective(method))
    method.end("z")
    assert list(method.records) == [*finished, "z"]


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        (AdaHAT, {}),
        (APD, {"form": "fixed"}),
        (HAT, {"soft": True}),
        (PackNet, {"grow": 2, "ratio": 0.0}),
        (TFM, {"growth": 2}),
    ],
    ids=["adahat", "apd", "soft hat", "packnet that grows", "tfm"],
)
def test_a_task_that_is_given_up_takes_along_what_was_loaded_over_its_base(
    kind: Callable[..., Method], how: dict[str, Any]
) -> None:
    method = learned(kind, "a", **how)
    before = {name: method.sites.base(name).clone() for name in method.sites.weights}
    task = drive.Task("b", method.example)
    drive.begin(method, task, method.phases[0])
    drive.train(method, task, drive.sgd()(method), range(1))
    state = method.model.state_dict()
    method.model.load_state_dict({key: t + 1 if t.is_floating_point() else t for key, t in state.items()})
    with torch.no_grad():
        for name in method.sites.weights:
            method.sites.tensor(name).data.add_(1)
    method.abandon()
    assert all(torch.equal(method.sites.base(name), was) for name, was in before.items())
    method.check()


@pytest.mark.parametrize("kind", [partial(APD, lambda1=1e-6), HAT, WSN, SupSup], ids=["apd", "hat", "wsn", "supsup"])
def test_a_task_that_is_given_up_leaves_the_active_one_answering(kind: Callable[..., Method]) -> None:
    method = learned(kind, "ab")
    assert method.name != "apd" or any(densify(one).any() for one in method.record("a").deltas.values())
    x, was = drive.probe(method), drive.logits(method, "a")
    task = drive.Task("c", method.example)
    drive.begin(method, task, method.phases[0])
    drive.train(method, task, drive.sgd()(method), range(1))
    method.abandon()
    assert torch.equal(drive.answer(method.model, x), was)


def test_norms_that_would_go_on_learning_are_refused_by_what_keeps_finished_tasks() -> None:
    method = PackNet(network(), torch.randn(8, 6), norms="shared")
    with pytest.raises(ValueError, match=r"norms='shared', with which 1\.weight, .* would go on learning"):
        method.begin("a")


def test_every_task_draws_a_head_of_its_own() -> None:
    method, heads = PackNet(network(), torch.randn(8, 6)), []
    for task in "ab":
        method.begin(task)
        heads.append(method.sites.tensor("5.weight").detach().clone())
        method.abandon()
    assert not torch.equal(*heads)


def test_a_shared_head_takes_as_many_outputs_as_it_has_and_a_tied_one_those_alone() -> None:
    method = SupSup(network(), torch.randn(8, 6))
    method.begin("a", outputs=4)
    method.abandon()
    with pytest.raises(ValueError, match="expected at most 4 outputs, the width of the shared head '5', found 5"):
        method.begin("a", outputs=5)
    tied = WSN(Tied(), torch.arange(6).view(2, 3))
    for outputs in (None, 9):
        tied.begin("a", outputs=outputs)
        tied.abandon()
    with pytest.raises(ValueError, match="expected 9 outputs, the width of the head 'head', which is tied to another"):
        tied.begin("a", outputs=4)


def test_a_head_that_is_masked_and_learns_is_not_drawn_anew() -> None:
    net, x = network(), torch.randn(8, 6)
    planned = plan(net, x, Policy("masked", "frozen", "private", "private", "masked"), None)
    sites = attach(net, planned.roles, {}, Wiring())
    was = sites.base("5.weight").clone()
    assert isinstance(sites.tensor("5.weight"), nn.Parameter)
    assert is_shared(sites, "5")
    fresh_head(sites, "5", 4, (0, "a"))
    assert torch.equal(sites.base("5.weight"), was)


class Tied(nn.Module):
    """The head is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.head = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 9)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.words(x)).relu().mean(1))


def test_another_head_may_be_named_and_phases_come_in_their_order() -> None:
    net = network()
    net.add_module("6", nn.ReLU())
    assert PackNet(net, torch.randn(8, 6), head="3").head == "3"
    method = PackNet(network(), torch.randn(8, 6))
    method.begin("a")
    with pytest.raises(RuntimeError, match="expected phase 'train' of task 'b' before 'retrain', found 'train' of 'a'"):
        method.begin("b", "retrain")


def test_a_learner_says_what_is_open_and_a_record_who_made_it() -> None:
    method = PackNet(network(), torch.randn(8, 6))
    assert (method.task, method.phase) == (None, None)
    method = learned(PackNet, "ab")
    assert (method.record("b").meta.method, method.record("b").meta.exact, method.count) == ("packnet", True, 2)
    method.activate(method.record("a"))
    assert torch.equal(drive.answer(method.model, drive.probe(method)), drive.logits(method, "a"))


def test_a_task_that_is_learned_again_has_the_next_revision() -> None:
    method = learned(SupSup, "ab")
    drive.learn(method, [drive.Task("a", method.example)] * 2, steps=2)
    meta = method.record("a").meta
    assert (meta.revision, meta.reason, meta.task, meta.outputs) == (2, "learned again", "a", 4)
    assert method.count == 2
