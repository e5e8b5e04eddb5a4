"""Points 5 and 6 of the contract: what was saved answers elsewhere; who stopped goes on as if never stopped."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract import drive
from tests.contract.conftest import EVERY, FEW, SMALL, Case, variant
from tests.contract.test_forgetting import check
from tests.contract.test_gradients import assert_equal_records

from polymask.bank.bank import Bank
from polymask.builder import Builder
from polymask.method.contract import Method
from polymask.method.learner import on_devices
from polymask.methods import METHODS

STEPS = 4


def through_a_file(state: Any) -> Any:
    """A state as it comes back from disk; ``weights_only`` allows tensors, numbers, strings and containers."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same(a: Method, b: Method) -> None:
    """Two methods know the same, to the bit."""
    assert list(a.records) == list(b.records)
    assert_equal_records(a, b.records)
    for one in (a, b):
        one.activate(list(a.records)[-1])
    assert not drive.differing(drive.tensors(a.model), drive.tensors(b.model))
    assert a.state.keys() == b.state.keys()
    for key in a.state:
        assert not drive.differing(a.state[key], b.state[key])
    for task in a.records:
        assert torch.equal(drive.logits(a, task), drive.logits(b, task))


def resumed(case: Case, stopped: Method) -> Method:
    """A fresh method that goes on from a stopped one's state."""
    fresh, _ = case.make()
    fresh.load_state_dict(through_a_file(stopped.state_dict()), stopped.records)
    return fresh


@pytest.mark.few
def test_going_on_after_a_task_is_never_having_stopped(pair: Case) -> None:
    never, tasks = pair.make()
    drive.learn(never, tasks, pair.user(), steps=STEPS)
    method, _ = pair.make()
    for task in tasks:
        drive.learn(method, [task], pair.user(), steps=STEPS)
        method = resumed(pair, method)
        assert drive.answer(method.model, drive.probe(method)).shape  # also before anything is activated
    assert_same(never, method)


def test_going_on_inside_a_phase_is_never_having_stopped(pair: Case) -> None:
    never, tasks = pair.make()
    drive.learn(never, tasks[:2], pair.user(), steps=STEPS)
    stopped, _ = pair.make()
    drive.learn(stopped, tasks[:1], pair.user(), steps=STEPS)
    for phase in stopped.phases:
        drive.begin(stopped, tasks[1], phase, steps=STEPS)
        optimizer = pair.user()(stopped)
        drive.train(stopped, tasks[1], optimizer, range(2))
        method = resumed(pair, stopped)
        assert [n for n, _ in method.named_parameters()] == [n for n, _ in stopped.named_parameters()]
        again = pair.user()(method)
        again.load_state_dict(through_a_file(optimizer.state_dict()))
        drive.train(method, tasks[1], again, range(2, STEPS))
        stopped = method
    stopped.end(tasks[1].name)
    assert_same(never, stopped)


@pytest.mark.few
def test_abandoning_after_going_on_inside_a_phase_leaves_no_trace(pair: Case) -> None:
    method, tasks = pair.make()
    drive.learn(method, tasks[:1], pair.user())
    before, answer = drive.tensors(method.model), drive.logits(method, "a")
    for phase in method.phases:
        drive.begin(method, tasks[1], phase)
        drive.train(method, tasks[1], pair.user()(method), range(2))
    method = resumed(pair, method)
    drive.train(method, tasks[1], pair.user()(method), range(2, 4))
    method.abandon()
    assert not drive.differing(before, drive.tensors(method.model))
    assert torch.equal(drive.logits(method, "a"), answer)


def test_a_state_lacks_no_record(one: Case) -> None:
    method, tasks = one.make()
    drive.learn(method, tasks[:2])
    fresh, _ = one.make()
    with pytest.raises(ValueError, match="found none for b"):
        fresh.load_state_dict(method.state_dict(), {"a": method.record("a")})


def test_a_state_lies_where_the_model_is(one: Case) -> None:
    """A tensor on "meta" stands for one on a GPU; the first weight stands for a model that lies on two."""
    method, tasks = one.make()
    drive.learn(method, tasks[:1])
    drive.begin(method, tasks[1])
    state, first = method.state_dict(), next(iter(method.sites.weights), next(iter(method.sites.roles)))
    own = method.sites.tensor
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(method.sites), "tensor", lambda _, name: own(name).to("meta" if name == first else "cpu"))
        found = dict(flat(on_devices(method.sites, state, torch.device("cpu"))))
    assert found.keys() == dict(flat(state)).keys()
    assert {path for path, tensor in found.items() if tensor.is_meta} == {path for path in found if first in path}


def flat(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], torch.Tensor]]:
    """The tensors of a state by the keys that lead to them."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from flat(item, (*path, key))


def into_a_bank(method: Method, folder: Path, backbone: str) -> Bank:
    """A bank of what a method has learned, built by the zoo."""
    builder = Builder("tests.contract.zoo:network", {"name": backbone})
    bank = Bank.create(
        folder,
        method.sites,
        method=method.name,
        builder=builder,
        head=method.head,
        drawn=method.drawn,
        example=method.example,
    )
    bank.commit(method.records, method.sites, method.state_dict())
    return bank


ELSEWHERE = """
import sys, torch
from pathlib import Path
from polymask.bank.bank import Bank
from tests.contract import drive
torch.set_num_threads(1)
found = {}
for folder in Path(sys.argv[1]).iterdir():
    bank = Bank.open(folder / "bank")
    x, sites = torch.load(folder / "x.pt"), bank.model()
    for task in reversed(bank.tasks):
        bank.activate(sites, task)
        found[folder.name, task] = drive.answer(sites.model, x)
        assert torch.equal(found[folder.name, task], drive.answer(bank.plain(task), x)), folder
    assert bank.verify().ok, str(bank.verify())
torch.save(found, sys.argv[2])
"""


@pytest.mark.parametrize("names", [FEW, pytest.param(tuple(EVERY), marks=pytest.mark.full)], ids=["few", "every"])
def test_banks_answer_alike_in_a_fresh_process(names: Sequence[str], tmp_path: Path) -> None:
    expected = {}
    for name in names:
        cls = EVERY[name]
        method, tasks = drive.make(cls, SMALL)
        drive.learn(method, tasks[:2])
        into_a_bank(method, tmp_path / "banks" / name / "bank", SMALL)
        torch.save(drive.probe(method), tmp_path / "banks" / name / "x.pt")
        expected.update({(name, task): drive.logits(method, task) for task in "ab"})
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "banks"), str(tmp_path / "answers.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    assert not drive.differing(expected, torch.load(tmp_path / "answers.pt"))


def files(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.few
def test_a_bank_answers_alike_and_counts_its_bytes(pair: Case, tmp_path: Path) -> None:
    method, tasks = pair.make()
    drive.learn(method, tasks[:2], pair.user())
    bank = into_a_bank(method, tmp_path / "bank", pair.backbone)
    opened = Bank.open(tmp_path / "bank")
    x, sites = drive.probe(method), opened.model()
    for task in ("b", "a"):
        opened.activate(sites, task)
        assert torch.equal(drive.answer(sites.model, x), drive.logits(method, task))
        assert drive.alike(method, drive.answer(opened.plain(task), x), drive.logits(method, task))
    sizes = bank.sizes()
    assert files(tmp_path / "bank") == sum(sizes["per_task"].values()) + sum(
        size for name, size in sizes.items() if name != "per_task"
    )


def test_learning_on_from_a_bank_forgets_nothing(pair: Case, tmp_path: Path) -> None:
    never, tasks = pair.make()
    drive.learn(never, tasks[:2], pair.user())
    bank = into_a_bank(never, tmp_path / "bank", pair.backbone)
    before = {task.name: drive.logits(never, task) for task in tasks[:2]}
    method, _ = pair.make()
    opened = Bank.open(tmp_path / "bank")
    method.load_state_dict(opened.learner(), {task: opened.record(task) for task in opened.tasks})
    for one in (never, method):
        drive.learn(one, tasks[2:], pair.user())
    check(method, before)
    assert_same(never, method)
    bank.commit(method.records, method.sites, method.state_dict())
    assert bank.verify().ok


GOING_ON: dict[str, Any] = {
    "apd exact": variant(METHODS["apd"], form="exact"),
    "first-task": variant(METHODS["piggyback"], backbone="first-task"),
    "exssnet": METHODS["exssnet"],
}


@pytest.mark.parametrize("name", GOING_ON)
def test_what_learns_and_what_is_frozen_is_so_wherever_one_goes_on(name: str) -> None:
    kind: Any = GOING_ON[name]
    method, todo = drive.make(kind, SMALL)
    for task in todo[:2]:
        for phase in method.phases:
            drive.begin(method, task, phase)
            drive.train(method, task, drive.sgd()(method), range(1))
            assert_alike(method, kind)
        method.end(task.name)
        assert_alike(method, kind)


def assert_alike(method: Method, kind: Any) -> None:
    """A fresh method that goes on has the same parameters to train, the same frozen, and as many steps and tasks."""
    fresh, _ = drive.make(kind, SMALL)
    fresh.load_state_dict(through_a_file(method.state_dict()), method.records)
    trains = [
        {name for name in one.sites.roles if isinstance(one.sites.tensor(name), torch.nn.Parameter)}
        for one in (method, fresh)
    ]
    assert trains[0] == trains[1]
    assert (fresh.learning, fresh.steps, fresh.count) == (method.learning, method.steps, method.count)
    if method.task is not None:
        names = [{name: p.requires_grad for name, p in one.named_parameters()} for one in (method, fresh)]
        assert names[0] == names[1]
        assert all(names[0].values())


def test_a_state_of_a_tensor_named_like_a_slot_lies_where_that_tensor_does() -> None:
    """A causal mask is often a buffer of the name "mask"; what stands under another tensor's name is none of it."""

    class Masked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)
            self.register_buffer("mask", torch.ones(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.head(self.body(x).relu() * self.mask)
            return found

    sites = METHODS["packnet"](Masked(), torch.zeros(2, 4)).sites
    assert "mask" in sites.roles
    own = sites.tensor
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(sites), "tensor", lambda _, name: own(name).to("meta" if name == "mask" else "cpu"))
        state = {"slots": {"body.weight": {"mask": torch.ones(4)}}, "tensors": {"mask": torch.ones(4)}}
        found = dict(flat(on_devices(sites, state, torch.device("cpu"))))
    assert sorted(tensor.device.type for tensor in found.values()) == ["cpu", "meta"]


def test_what_a_copy_has_trained_is_collected() -> None:
    method, todo = drive.make(METHODS["packnet"], SMALL)
    drive.begin(method, todo[0])
    twin = copy.deepcopy(method)
    drive.train(twin, todo[0], drive.sgd()(twin), range(2))
    assert method.steps == 0
    method.collect(twin)
    assert method.steps == 2
    assert not drive.differing(drive.tensors(method.model), drive.tensors(twin.model))
    assert method.state.keys() == twin.state.keys()
