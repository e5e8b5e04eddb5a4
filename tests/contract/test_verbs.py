"""Point 7 of the contract: a verb out of turn raises and says what is allowed; abandoning a task leaves no trace."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.contract import drive
from tests.contract.conftest import Case
from tests.contract.test_gradients import assert_equal_records
from tests.contract.test_resume import assert_same


def test_without_an_open_task(one: Case) -> None:
    method, _ = one.make()
    for verb in (lambda: list(method.named_parameters()), method.parameters, lambda: method.end("a")):
        with pytest.raises(RuntimeError, match=r"expected an open task.*begin\(task\) first"):
            verb()
    with pytest.raises(KeyError, match=r"none yet.*'a'"):
        method.activate("a")
    with pytest.raises(KeyError, match=r"none yet.*'a'"):
        method.plain("a")
    method.abandon()


def test_unknown_names_are_answered_with_the_known_ones(one: Case) -> None:
    method, tasks = one.make()
    drive.learn(method, tasks[:2])
    for verb in (method.activate, method.plain, method.record):
        with pytest.raises(KeyError, match=r"a, b.*'z'"):
            verb("z")
    with pytest.raises(ValueError, match=f"{', '.join(method.phases)}.*'nap'"):
        method.begin("c", "nap")
    method.begin("c")
    with pytest.raises(RuntimeError, match=r"'c', found 'z'"):
        method.end("z")


def test_phases_go_in_order(one: Case) -> None:
    method, tasks = one.make()
    for earlier, later in zip(method.phases, method.phases[1:], strict=False):
        with pytest.raises(RuntimeError, match=f"'{earlier}'.*'{later}'.*no open task"):
            method.begin("a", later)
    for earlier, later in zip(method.phases, method.phases[1:], strict=False):
        drive.begin(method, tasks[0], earlier)
        drive.train(method, tasks[0], one.user()(method), range(1))
        with pytest.raises(RuntimeError, match=f"'b' before '{later}'"):
            method.begin("b", later)
        with pytest.raises(RuntimeError, match=rf"begin\('a', '{later}'\) before end"):
            method.end("a")
    drive.begin(method, tasks[0], method.phases[-1])
    drive.train(method, tasks[0], one.user()(method), range(1))
    method.end("a")


def test_no_activation_while_a_task_is_open(one: Case) -> None:
    method, tasks = one.make()
    drive.learn(method, tasks[:1])
    method.begin("b")
    with pytest.raises(RuntimeError, match=r"'b' in training.*method\.plain"):
        method.activate("a")


def test_a_finished_name_is_taken(one: Case) -> None:
    method, tasks = one.make()
    drive.learn(method, tasks[:1])
    if method.reopens:
        drive.learn(method, tasks[:1])
    else:
        with pytest.raises(RuntimeError, match="'a', which is finished"):
            method.begin("a")
    assert method.task is None


def test_a_temperature_wants_to_be_told(one: Case) -> None:
    method, tasks = one.make()
    method.on_step = lambda progress: None  # type: ignore[method-assign]
    for phase in method.phases:
        drive.begin(method, tasks[0], phase)
        drive.train(method, tasks[0], drive.sgd()(method), range(2))
    if method.anneals:
        with pytest.raises(RuntimeError, match=r"on_step\(progress\)"):
            method.end("a")
    else:
        method.end("a")


def test_ending_warns_of_what_never_moved(one: Case) -> None:
    method, tasks = one.make()
    for phase in method.phases:
        drive.begin(method, tasks[0], phase)
        names = [name for name, _ in method.named_parameters()]
        optimizer = torch.optim.SGD(method.parameters()[1:] or [torch.zeros(1)], lr=0.1)
        drive.train(method, tasks[0], optimizer, range(1))
    with pytest.warns(UserWarning, match=f"never moved: {names[0]}\\."):
        method.end("a")


def test_a_wrapped_model_is_refused(one: Case) -> None:
    method, tasks = one.make()
    method.model = torch.nn.DataParallel(method.model)
    with pytest.raises(RuntimeError, match="expected the plain model, found DataParallel"):
        drive.begin(method, tasks[0])


def test_abandoning_leaves_every_tensor_as_it_was(pair: Case) -> None:
    never, tasks = pair.make()
    drive.learn(never, tasks[:2], pair.user())
    method, _ = pair.make()
    for last in range(-1, len(method.phases) - 1):
        method, _ = pair.make()
        before = drive.tensors(method.model)
        nearly(method, tasks[2], last, pair)
        method.abandon()
        assert not drive.differing(before, drive.tensors(method.model))
        drive.learn(method, tasks[:1], pair.user())
        records, state, before = copy.deepcopy(method.records), copy.deepcopy(method.state), drive.tensors(method.model)
        nearly(method, tasks[2], last, pair)
        method.abandon()
        assert not drive.differing(before, drive.tensors(method.model))
        assert all(not drive.differing(state[key], method.state[key]) for key in state)
        assert not any(parameter.requires_grad for parameter in method.model.parameters())
        assert_equal_records(method, records)
    nearly(method, tasks[2], len(method.phases) - 2, pair)
    drive.learn(method, tasks[1:2], pair.user())
    assert_same(never, method)


def nearly(method: drive.Method, task: drive.Task, last: int, case: Case) -> None:
    """Learn a task, but never end it; an optimizer's step of NaN comes last."""
    for phase in method.phases[: last + 2]:
        drive.begin(method, task, phase)
        drive.train(method, task, case.user()(method), range(2))
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.fill_(float("nan"))


def test_a_head_is_as_wide_as_the_task_asks(one: Case) -> None:
    method, _ = one.make()
    wide = drive.Task("wide", method.example, 9)
    weight = next(name for name in method.sites.roles if name.startswith(method.head))
    if method.sites.roles[weight].kind == "private":
        drive.learn(method, [wide])
        assert drive.logits(method, "wide").shape[-1] == method.record("wide").meta.outputs == 9
    else:
        with pytest.raises(ValueError, match=r"expected at most 5 outputs.*found 9"):
            drive.learn(method, [wide])
        drive.learn(method, [drive.Task("narrow", method.example, 3)])


@pytest.mark.few("packnet")
def test_a_tied_head_is_never_resized(one: Case) -> None:
    method, tasks = drive.make(one.method, "tied_bert")
    with pytest.raises(ValueError, match="tied"):
        method.begin("a", outputs=9)
    drive.learn(method, tasks[:1])
    assert method.record("a").meta.outputs == drive.logits(method, "a").shape[-1] == 13


def test_a_begin_that_fails_leaves_no_trace(one: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    method, tasks = one.make()
    drive.learn(method, tasks[:1], one.user())
    before = drive.tensors(method.model)

    def interrupt(phase: str, batches: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(method, "_open", interrupt)
    with pytest.raises(KeyboardInterrupt):
        drive.begin(method, tasks[1])
    assert not drive.differing(before, drive.tensors(method.model))
    assert drive.logits(method, "a").shape
    monkeypatch.undo()
    drive.learn(method, tasks[1:2], one.user())
