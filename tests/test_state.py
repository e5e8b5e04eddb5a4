"""State that a forward changes: what moves is every task's own, what a network remembers otherwise is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.contract import drive
from tests.states import KINDS, REFUSED
from torch import Tensor, nn

from polymask.method.contract import Method
from polymask.methods import METHODS
from polymask.sites.roles import Policy, plan
from polymask.sites.state import moving
from polymask.sites.table import MOVES, bake, detach
from polymask.task import switch

EXACT = ("packnet", "hat", "tfm", "piggyback", "linear_probe")
FROZEN = Policy("masked", "frozen", "frozen", "frozen")


def network(kind: str) -> nn.Module:
    """A network of a kind, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return KINDS[kind]()


def made(kind: str, method: str = "packnet", **hyper: object) -> tuple[Method, list[drive.Task]]:
    """A method on such a network, and three tasks."""
    example = torch.randn(4, 6)
    return METHODS[method](network(kind), example, **hyper), drive.tasks(example)


def answers(method: Method, x: Tensor) -> dict[str, Tensor]:
    """What every finished task answers, from one random state."""
    found = {}
    for task in method.records:
        torch.manual_seed(0)
        found[task] = method.plain(task)(x)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_what_moves_is_found_and_private(kind: str) -> None:
    model, example = network(kind), torch.randn(4, 6)
    before, draws = drive.tensors(model), (torch.get_rng_state(), next_of_numpy())
    roles, moves = plan(model, example, FROZEN).roles, KINDS[kind].moves
    assert set(moves) <= moving(model, example).training
    assert not drive.differing(before, drive.tensors(model))
    assert torch.equal(draws[0], torch.get_rng_state())
    assert draws[1] == next_of_numpy()
    for name in moves:
        if kind in ("OwnNorms", "BatchNormsWithChildren"):
            assert (roles[name].kind, roles[name].why) == ("frozen", "a norm's statistics")
        else:
            assert roles[name].kind == "private"
            assert roles[name].why.startswith("the head" if name == "head.u" else "changes in forward")
    assert not [name for name, role in roles.items() if name not in moves and role.why.startswith(MOVES)]


def next_of_numpy() -> list[int]:
    """Where numpy's global generator stands."""
    return list(np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("kind", REFUSED)
def test_what_it_remembers_otherwise_is_refused_by_name(kind: str) -> None:
    network, match = REFUSED[kind]
    with pytest.raises(ValueError, match=match):
        plan(network(), torch.randn(4, 6), FROZEN)


def cases() -> list[object]:
    """Every kind under every exact method; by default each under one of them."""
    found = []
    for place, kind in enumerate(KINDS):
        for method in EXACT:
            usual = EXACT[place % len(EXACT)] == method
            found.append(pytest.param(kind, method, id=f"{kind}-{method}", marks=[] if usual else pytest.mark.full))
    return found


@pytest.mark.filterwarnings("ignore:masked units were seen to reach the output")
@pytest.mark.parametrize(("kind", "method"), cases())
def test_finished_tasks_stay_bit_equal(kind: str, method: str) -> None:
    learner, tasks = made(kind, method)
    x, seen = torch.randn(5, 6), {}
    for task in tasks:
        drive.learn(learner, [task], drive.adamw(), steps=3)
        torch.manual_seed(0)
        seen[task.name] = learner.plain(task.name)(x)
    assert not drive.differing(seen, answers(learner, x))
    plain = bake(learner.model)
    for name in "bcaab":
        torch.manual_seed(0)
        assert torch.equal(drive.logits(learner, name, x), seen[name])
        learner.model.train()
        learner.model(x)
        switch(plain, learner.sites, learner.record(name))
        torch.manual_seed(0)
        assert torch.equal(plain(x), seen[name])
    detach(learner.model)
    assert [type(m) for m in learner.model.modules()] == [type(m) for m in network(kind).modules()]
