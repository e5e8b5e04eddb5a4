"""Point 10 of the contract: the penalty is a finite scalar, also when no free weight is left."""

from __future__ import annotations

import warnings

import pytest
import torch
from tests.contract import drive
from tests.contract.conftest import Case


def test_the_penalty_is_a_finite_scalar(pair: Case) -> None:
    method, tasks = pair.make()
    for task in tasks[:2]:
        for phase in method.phases:
            drive.begin(method, task, phase)
            for step in range(3):
                drive.train(method, task, pair.user()(method), range(step, step + 1))
                penalty = method.penalty()
                assert penalty.shape == ()
                assert torch.isfinite(penalty)
        method.end(task.name)


@pytest.mark.few
def test_a_full_network_still_learns_heads(one: Case) -> None:
    method, _ = one.make()
    many = [drive.Task(f"task{k}", method.example) for k in range(14)]
    answers = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no free weight is left")
        for task in many:
            for phase in method.phases:
                drive.begin(method, task, phase)
                assert torch.isfinite(drive.train(method, task, one.user()(method), range(3)))
                assert torch.isfinite(method.penalty())
            method.end(task.name)
            answers[task.name] = drive.logits(method, task)
            assert torch.isfinite(answers[task.name]).all()
    if method.exact is True:
        assert all(torch.equal(drive.logits(method, task), answer) for task, answer in answers.items())
