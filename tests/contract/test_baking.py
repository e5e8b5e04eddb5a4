"""Points 4 and 11 of the contract: baking is activating, detaching gives the base, neither leaves a trace."""

from __future__ import annotations

import pickle

import pytest
import torch
from tests.contract import drive
from tests.contract.conftest import SMALL, Case
from tests.contract.zoo import BACKBONES
from torch import nn

from polymask.sites.roles import Policy, plan
from polymask.sites.table import attach, bake, detach


def classes(model: nn.Module) -> list[tuple[str, type]]:
    return [(name, type(module)) for name, module in model.named_modules(remove_duplicate=False)]


def shapes(model: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, value.shape) for name, value in model.state_dict().items()]


def ties(model: nn.Module) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(tensor), []).append(name)
    return sorted(names for names in groups.values() if len(names) > 1)


def leaves(model: nn.Module) -> list[tuple[str, bool, bool]]:
    """Name, whether a parameter, whether it wants a gradient: of every tensor, in order."""
    parameters = [(name, True, value.requires_grad) for name, value in model.named_parameters(remove_duplicate=False)]
    return parameters + [(name, False, value.requires_grad) for name, value in model.named_buffers()]


def assert_untouched(model: nn.Module, untouched: nn.Module) -> None:
    assert classes(model) == classes(untouched)
    assert shapes(model) == shapes(untouched)
    assert ties(model) == ties(untouched)
    assert leaves(model) == leaves(untouched)
    for module, was in zip(model.modules(), untouched.modules(), strict=True):
        new, old = set(vars(module)), set(vars(was))
        assert new <= old, f"left behind: {new - old}"
        hooks = [name for name in vars(module) if name.endswith("_hooks") and len(vars(module)[name])]
        assert hooks == [name for name in vars(was) if name.endswith("_hooks") and len(vars(was)[name])]


def test_bake_is_activate(pair: Case) -> None:
    untouched, _ = BACKBONES[pair.backbone]()
    method, tasks = pair.make()
    drive.learn(method, tasks[:2], pair.user())
    x = drive.probe(method)
    for task in tasks[:2]:
        answer = drive.logits(method, task)
        plain = bake(method.model)
        assert not any(module.training for module in plain.modules())
        assert drive.alike(method, drive.answer(plain, x), answer)
        if not method.grows:
            assert_untouched(plain, untouched)
            untouched.load_state_dict(plain.state_dict())
            assert drive.alike(method, drive.answer(untouched, x), answer)
        assert drive.alike(method, drive.answer(pickle.loads(pickle.dumps(plain)), x), answer)
        assert torch.equal(drive.answer(method.model, x), answer)


@pytest.mark.few
def test_the_original_goes_on_working_after_bake(pair: Case) -> None:
    method, tasks = pair.make()
    other, _ = pair.make()
    for one in (method, other):
        drive.learn(one, tasks[:1], pair.user())
    plain = bake(method.model)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.fill_(0.5)
    for one in (method, other):
        drive.learn(one, tasks[1:2], pair.user())
    assert not drive.differing(drive.tensors(method.model), drive.tensors(other.model))


def test_a_finished_task_can_be_looked_at_while_another_is_open(pair: Case) -> None:
    method, tasks = pair.make()
    drive.learn(method, tasks[:2], pair.user())
    answer = drive.logits(method, "a")
    drive.learn(method, [], pair.user())
    for phase in method.phases:
        drive.begin(method, tasks[2], phase)
        drive.train(method, tasks[2], pair.user()(method), range(2))
        before = drive.tensors(method.model)
        plain = method.plain("a")
        if method.exact is True:
            assert torch.equal(drive.answer(plain, drive.probe(method)), answer)
        assert not drive.differing(before, drive.tensors(method.model))
        drive.train(method, tasks[2], pair.user()(method), range(2))
    method.end(tasks[2].name)


def test_baked_weights_are_nobodys_but_their_own(pair: Case) -> None:
    method, tasks = pair.make()
    drive.learn(method, tasks[:1], pair.user())
    plain = bake(method.model)
    theirs = {value.data_ptr() for value in (*method.model.parameters(), *method.model.buffers()) if value.numel()}
    assert not theirs & {value.data_ptr() for value in (*plain.parameters(), *plain.buffers()) if value.numel()}


@pytest.mark.parametrize(
    ("kind", "backbone"),
    [
        # The small backbone meets every kind, the others one in turn.
        pytest.param(kind, backbone, marks=() if backbone == SMALL or i % 3 == j else pytest.mark.full)
        for i, backbone in enumerate(BACKBONES)
        for j, kind in enumerate(("masked", "frozen", "private"))
    ],
)
def test_attach_then_detach_is_the_identity(backbone: str, kind: str) -> None:
    model, example = BACKBONES[backbone]()
    next(model.parameters()).requires_grad_(False)
    untouched, _ = BACKBONES[backbone]()
    next(untouched.parameters()).requires_grad_(False)
    tensors = {name: id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)}
    policy = Policy(kind, "frozen", "frozen", "first")  # type: ignore[arg-type]
    attach(model, plan(model, example, policy).roles)
    assert torch.equal(drive.answer(model, example), drive.answer(untouched, example))
    assert list(model.state_dict()) == list(untouched.state_dict())
    assert detach(model) is model
    assert_untouched(model, untouched)
    assert not drive.differing(drive.tensors(model), drive.tensors(untouched))
    assert [m.training for m in model.modules()] == [m.training for m in untouched.modules()]
    assert tensors.keys() == {name for name, _ in model.named_parameters(remove_duplicate=False)}


def test_detach_after_training_gives_the_learned_base(pair: Case) -> None:
    untouched, _ = BACKBONES[pair.backbone]()
    method, tasks = pair.make()
    drive.learn(method, tasks[:2], pair.user())
    state = {name: value.clone() for name, value in method.model.state_dict().items()}
    bases = {name: method.sites.base(name).clone() for name in method.sites.roles}
    detach(method.model)
    assert not drive.differing(state, method.model.state_dict())
    kept = method.model.state_dict()
    assert all(torch.equal(kept[name], base) for name, base in bases.items())
    if not method.grows:
        assert_untouched(method.model, untouched)


def test_attaching_twice_raises() -> None:
    model, example = BACKBONES["mlp_bn"]()
    roles = plan(model, example, Policy("masked", "frozen", "frozen", "frozen")).roles
    attach(model, roles)
    with pytest.raises(ValueError, match="detach"):
        attach(model, roles)
    attach(detach(model), roles)
