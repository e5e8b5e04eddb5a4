"""Point 1 of the contract: no task is forgotten, whatever the optimizer and whatever its user does."""

from __future__ import annotations

import pytest
import torch
from tests.contract import drive
from tests.contract.conftest import Case
from torch import Tensor

from polymask.calling import call, logits_of
from polymask.method.contract import Method


def check(method: Method, before: dict[str, Tensor], optimizer: str = "adamw") -> None:
    """Every task answers as it did: to the bit, within a float, or, where ``exact`` is None, it must not.

    Under plain descent a method that slows used weights to a millionth may keep still; under Adam it cannot. One that
    declares that it may drift, by little or nothing, is held to its own bound by its own tests.
    """
    drift = {task: (drive.logits(method, task) - was).abs().max().item() for task, was in before.items()}
    assert all(torch.isfinite(was).all() for was in before.values())
    if method.exact is True:
        off = [task for task, was in before.items() if not torch.equal(drive.logits(method, task), was)]
        assert not off, f"not bit-equal: {drift}"
    elif method.exact is None:
        assert method.drifts or (method.slows and optimizer == "sgd") or max(drift.values()) > 1e-4, (
            f"declares that it forgets, but does not: {drift}"
        )
    else:
        assert max(drift.values()) <= method.exact, f"drifts beyond {method.exact}: {drift}"


def learn_all(
    method: Method, tasks: list[drive.Task], user: drive.MakeOptimizer, optimizer: str = "sgd"
) -> dict[str, Tensor]:
    """What every task answered when it was just finished; the last one, which nothing follows, is left out."""
    before = {}
    for task in tasks:
        # What forgets has to show it, also where plain descent is slow; gates that anneal would all close meanwhile.
        slow = 64 if optimizer in ("sgd", "sgd_momentum_decay") else 12
        drive.learn(method, [task], user, steps=slow if method.exact is None and not method.anneals else 4)
        before[task.name] = drive.logits(method, task)
    del before[tasks[-1].name]
    return before


def test_no_task_is_forgotten(case: Case) -> None:
    method, tasks = case.make()
    check(method, learn_all(method, tasks, case.user(), case.optimizer), case.optimizer)


@pytest.mark.parametrize(
    "optimizer",
    [pytest.param(name, marks=() if name == "adversary" else pytest.mark.full) for name in drive.OPTIMIZERS],
)
def test_no_task_is_forgotten_with_heads_of_any_width(one: Case, optimizer: str) -> None:
    method, _ = one.make()
    check(
        method,
        learn_all(method, drive.tasks(method.example, 4, (3, 5, 2)), drive.OPTIMIZERS[optimizer](), optimizer),
        optimizer,
    )


def test_training_between_tasks_reaches_no_finished_task(pair: Case) -> None:
    method, tasks = pair.make()
    drive.learn(method, tasks[:2])
    before = {task.name: drive.logits(method, task) for task in tasks[:2]}
    vandalize(method, tasks[2])
    if method.exact is True:
        check(method, before)
        drive.learn(method, tasks[2:])
        check(method, before)


def vandalize(method: Method, task: drive.Task) -> None:
    """Train whatever parameters the model still has while no task is open."""
    optimizer = torch.optim.AdamW([torch.zeros(1), *method.model.train().requires_grad_(True).parameters()], lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        loss = logits_of(call(method.model, task.inputs(step))).square().mean()
        if loss.requires_grad:
            loss.backward()
        optimizer.step()


def test_a_gradient_asked_for_between_tasks_is_taken_back(one: Case) -> None:
    method, tasks = one.make()
    drive.learn(method, tasks[:1])
    method.model.requires_grad_(True)
    drive.begin(method, tasks[1])
    mine = {id(parameter) for parameter in method.parameters()}
    assert all(parameter.requires_grad == (id(parameter) in mine) for parameter in method.model.parameters())
