"""What a user may do with an attached model: copy it, save its state, change its precision, switch its modes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from tests.contract import drive
from tests.contract.conftest import Case
from tests.contract.zoo import BACKBONES, placed
from torch import Tensor, nn

from polymask.methods import METHODS
from polymask.sites.plugs import plugged
from polymask.sites.table import Role, bake, detach


def opened(case: Case, backbone: str | None = None) -> tuple[drive.Method, list[drive.Task]]:
    """A method with task a finished and task b open and half learned."""
    method, tasks = drive.make(case.method, backbone or case.backbone)
    drive.learn(method, tasks[:1], case.user())
    for phase in method.phases:
        drive.begin(method, tasks[1], phase)
        drive.train(method, tasks[1], case.user()(method), range(2))
    return method, tasks


def test_pickling_says_what_to_do(one: Case) -> None:
    method, _ = opened(one)
    with pytest.raises(RuntimeError, match=r"bake\(model\).*detach\(model\)"):
        pickle.dumps(method.model)
    method.abandon()
    x, answer = drive.probe(method), drive.logits(method, "a")
    assert drive.alike(method, drive.answer(pickle.loads(pickle.dumps(bake(method.model))), x), answer)
    assert torch.equal(drive.answer(pickle.loads(pickle.dumps(detach(method.model))), x), drive.answer(method.model, x))


def test_a_deep_copy_is_a_model_of_its_own(pair: Case) -> None:
    method, tasks = opened(pair)
    x = drive.probe(method)
    twin = copy.deepcopy(method.model)
    assert not drive.differing(drive.tensors(method.model), drive.tensors(twin))
    assert torch.equal(drive.answer(twin, x), drive.answer(method.model, x))
    mine = drive.tensors(method.model)
    with torch.no_grad():
        for value in (*twin.parameters(), *twin.buffers()):
            value.zero_()
    assert not drive.differing(mine, drive.tensors(method.model))
    drive.train(method, tasks[1], pair.user()(method), range(2, 4))
    method.end("b")


@pytest.mark.few
def test_a_copy_of_the_model_takes_no_learner_along(pair: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    method, _ = opened(pair)

    def refuse(learner: drive.Method, memo: dict) -> drive.Method:
        raise AssertionError("expected the model alone to be copied, found its learner, with all records")

    monkeypatch.setattr(drive.Method, "__deepcopy__", refuse, raising=False)
    copy.deepcopy(method.model)


@pytest.mark.few
def test_what_a_copy_learned_can_be_collected(pair: Case) -> None:
    """The way of FSDP2: a copy of the method trains, on a model that may be sharded; the plain model gets it back."""
    method, tasks = pair.make()
    other, _ = pair.make()
    for task in tasks[:2]:
        for phase in method.phases:
            for one in (method, other):
                drive.begin(one, task, phase)
            drive.train(other, task, pair.user()(other), range(3))
            twin = copy.deepcopy(method)
            drive.train(twin, task, pair.user()(twin), range(3))
            method.collect(twin)
        for one in (method, other):
            one.end(task.name)
        assert torch.equal(drive.logits(method, task), drive.logits(other, task))


def test_state_dict_has_the_models_own_keys_and_scores(pair: Case) -> None:
    untouched, _ = BACKBONES[pair.backbone]()
    method, tasks = pair.make()
    inside = tuple(f"{name}." for name in plugged(method.model))
    keys = [name for name in method.model.state_dict() if not name.startswith(inside)]
    assert keys == list(untouched.state_dict())
    own = {*method.model.state_dict()}
    drive.learn(method, tasks[:1], pair.user())
    for phase in method.phases:
        drive.begin(method, tasks[1], phase)
        drive.train(method, tasks[1], pair.user()(method), range(2))
        state = {name: value.clone() for name, value in method.model.state_dict().items()}
        brought = {f"{name}.{own}" for name, source in method.sources.items() for own in source.state_dict()}
        assert {name.rpartition(".")[2] for name in brought} <= {"scores", "tau", "seen", "scale"}
        assert brought == {*state} - own
        if not method.grows:
            assert list(untouched.state_dict()) == [name for name in state if name not in brought]
        answer = drive.answer(method.model, drive.probe(method))
        drive.train(method, tasks[1], pair.user()(method), range(2, 5))
        assert drive.differing(state, method.model.state_dict())
        method.model.load_state_dict(state)
        assert not drive.differing(state, method.model.state_dict())
        assert torch.equal(drive.answer(method.model, drive.probe(method)), answer)
    method.end("b")
    assert torch.equal(drive.logits(method, "b"), answer)


def test_loading_a_snapshot_does_not_stop_a_task_from_being_abandoned(one: Case) -> None:
    method, tasks = one.make()
    drive.learn(method, tasks[:1], one.user())
    before = drive.tensors(method.model)
    for phase in method.phases:
        drive.begin(method, tasks[1], phase)
        drive.train(method, tasks[1], one.user()(method), range(2))
        method.model.load_state_dict(copy.deepcopy(method.model.state_dict()))
    method.abandon()
    assert not drive.differing(before, drive.tensors(method.model))


@pytest.mark.few
@pytest.mark.parametrize(
    ("when", "dtype"),
    [
        pytest.param("before", torch.bfloat16, id="before-bf16"),
        pytest.param("before", torch.float16, id="before-f16", marks=pytest.mark.full),
        pytest.param("after", torch.bfloat16, id="after-bf16", marks=pytest.mark.full),
        pytest.param("after", torch.float16, id="after-f16"),
    ],
)
def test_half_precision(one: Case, dtype: torch.dtype, when: str) -> None:
    model, example = BACKBONES[one.backbone]()
    example = example.to(dtype)
    if when == "before":
        method = one.method(model.to(dtype), example)
    else:
        method = one.method(model, example.float())
        method.model.to(dtype)
        method.example = example
    before = {}
    for task in drive.tasks(example):
        drive.learn(method, [task], drive.sgd())
        before[task.name] = drive.logits(method, task)
        assert before[task.name].dtype == dtype
        assert torch.isfinite(before[task.name]).all()
    if method.exact is True:
        assert all(torch.equal(drive.logits(method, task), answer) for task, answer in before.items())


def autocast(method: drive.Method, x: Any) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return drive.answer(method.model, x)


def test_autocast(one: Case) -> None:
    method, tasks = one.make()
    drive.learn(method, tasks[:1])
    answer = autocast(method, drive.probe(method))
    for phase in method.phases:
        drive.begin(method, tasks[1], phase)
        with torch.autocast("cpu", torch.bfloat16):
            drive.train(method, tasks[1], one.user()(method), range(3))
    method.end("b")
    method.activate("a")
    if method.exact is True:
        assert torch.equal(autocast(method, drive.probe(method)), answer)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*weight_norm.*:DeprecationWarning")
@pytest.mark.parametrize(
    "change",
    [
        torch.nn.utils.weight_norm,
        torch.nn.utils.spectral_norm,
        torch.nn.utils.parametrizations.weight_norm,
        torch.nn.utils.parametrizations.spectral_norm,
        torch.nn.utils.parametrizations.orthogonal,
    ],
)
def test_weights_that_others_compute_are_refused(one: Case, change: Any) -> None:
    model, example = BACKBONES["mlp_bn"]()
    change(model[3])
    with pytest.raises(ValueError, match=r"on '3': take it off first"):
        one.method(model, example)


def test_a_frozen_norm_stays_in_evaluation_mode(pair: Case) -> None:
    method, tasks = pair.make()
    drive.learn(method, tasks[:1], pair.user())
    frozen = ("frozen", "first")
    statistics = [name for name in method.sites.names(*frozen) if name.endswith((".running_mean", ".running_var"))]
    before = {name: method.sites.tensor(name).clone() for name in statistics}
    drive.begin(method, tasks[1])
    method.model.train()
    norms = {name.rpartition(".")[0] for name in statistics}
    assert not any(method.model.get_submodule(name).training for name in norms)
    drive.call(method.model, tasks[1].inputs(0))
    assert all(torch.equal(method.sites.tensor(name), value) for name, value in before.items())
    assert method.model.training
    assert not any(module.training for module in method.model.eval().modules())
    method.abandon()
    detach(method.model.train())
    assert all(module.training for module in method.model.modules())


def fast_paths(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """A list that grows with every layer that takes torch's fused path."""
    calls: list[None] = []
    fused = torch._transformer_encoder_layer_fwd

    def count(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(None)
        return fused(*args, **kwargs)

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", count)
    return calls


@pytest.mark.few
def test_the_encoders_fast_path_is_taken_and_right(one: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fast_paths(monkeypatch)
    method, tasks = drive.make(one.method, "encoder")
    drive.learn(method, tasks[:2], one.user())
    for task in tasks[:2]:
        method.activate(task.name)
        calls.clear()
        fast = drive.answer(method.model, drive.probe(method))
        assert len(calls) == (0 if method.sites.units else 2)  # torch takes the slow one where it sees a hook
        assert drive.alike(method, drive.answer(bake(method.model), drive.probe(method)), fast)
        slow = drive.call(method.model.eval(), drive.probe(method).requires_grad_(True))
        torch.testing.assert_close(slow.detach(), fast)


@pytest.mark.few("packnet")
def test_tied_weights_stay_tied(one: Case) -> None:
    method, tasks = drive.make(one.method, "tied_bert")
    embedding = method.model.get_input_embeddings()
    decoder = method.model.get_output_embeddings()

    def tied(a: nn.Module, b: nn.Module) -> bool:
        return a.weight.data_ptr() == b.weight.data_ptr()

    assert torch.equal(embedding.weight, decoder.weight)
    for task in tasks[:2]:
        for phase in method.phases:
            drive.begin(method, task, phase)
            drive.train(method, task, one.user()(method), range(2))
            assert tied(embedding, decoder)
        method.end(task.name)
        assert tied(embedding, decoder)
    plain = bake(method.model)
    assert plain.get_input_embeddings().weight is plain.get_output_embeddings().weight
    twin = copy.deepcopy(method.model)
    assert tied(twin.get_input_embeddings(), twin.get_output_embeddings())
    detach(method.model)
    assert embedding.weight is decoder.weight


@pytest.mark.few("packnet", "hat")
@pytest.mark.filterwarnings("ignore:no free weight is left")
def test_a_masked_tied_weight_is_one_site(one: Case) -> None:
    from tests.contract.test_activation import masking

    if not masking(one.method):
        return
    model, example = BACKBONES["tied_bert"]()
    name = "bert.embeddings.word_embeddings.weight"
    method = one.method(model, example, masked=[name])  # type: ignore[call-arg]
    named = [name] if method.policy.weights == "masked" else []  # a mask on units leaves the weights as they are
    assert [key for key in method.sites.weights if "bias" not in key] == named
    tasks = drive.tasks(example)
    drive.learn(method, tasks[:2], one.user())
    before = drive.logits(method, "a")
    assert torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    plain = bake(model)
    assert plain.get_input_embeddings().weight is plain.get_output_embeddings().weight
    assert torch.equal(drive.answer(plain, drive.probe(method)), before)
    drive.learn(method, tasks[2:], one.user())
    assert torch.equal(drive.logits(method, "a"), before) == (method.exact is True)


class Two(nn.Module):
    """A network of two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head((self.left(x) + self.right(y)).relu())


@pytest.mark.few
@pytest.mark.parametrize(
    "example",
    [(torch.ones(2, 6), torch.ones(2, 4)), {"y": torch.ones(2, 4), "x": torch.ones(2, 6)}],
    ids=["tuple", "mapping"],
)
def test_examples_of_several_arguments(one: Case, example: Any) -> None:
    model, example = placed(Two(), example)
    method = one.method(model, example)
    before = {}
    for task in drive.tasks(example):
        drive.learn(method, [task])
        before[task.name] = drive.logits(method, task)
    if method.exact is True:
        assert all(torch.equal(drive.logits(method, task), answer) for task, answer in before.items())


def test_a_parameter_that_comes_frozen_stays_so() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    net[1].weight.requires_grad_(False)
    method = METHODS["packnet"](net, torch.zeros(2, 4))
    assert method.sites.roles["1.weight"] == Role("frozen", "frozen when given")
    assert method.sites.roles["1.bias"].kind == "first"
    method.begin("a")
    assert "1.weight" not in dict(method.named_parameters())
    detach(method.model)
    assert [p.requires_grad for p in net[1].parameters()] == [False, True]
