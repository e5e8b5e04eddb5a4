"""Point 3 of the contract: all that is offered to the optimizer learns, and nothing else moves."""

from __future__ import annotations

import copy

import torch
from tests.contract import drive
from tests.contract.conftest import Case
from torch import Tensor

from polymask.method.contract import Method
from polymask.sites.roles import STATISTICS


def may_move(method: Method) -> set[str]:
    """Names in the model of what a phase may change: its parameters, and the statistics of norms that still learn."""
    offered = {id(parameter) for parameter in method.parameters()}
    names = {name for name, parameter in method.model.named_parameters() if id(parameter) in offered}
    kinds = ("private", "shared") if method.records else ("private", "shared", "first")
    names.update(name for name in method.sites.names(*kinds) if name.rpartition(".")[2] in STATISTICS)
    if method.anneals:
        names.update(name for name, _ in method.model.named_buffers() if ".source." in name or name.endswith(".rate"))
    return names


def held(method: Method) -> dict[str, Tensor]:
    """Of every masked weight what its gate shuts."""
    found = {}
    for name, site in method.sites.weights.items():
        base = method.sites.base(name)
        shut = torch.zeros_like(base) if site.gate is None and name in method.sites.opened else base
        found[name] = shut if site.gate is None else shut.masked_fill(site.gate.expand_as(base) != 0, 0.0)
    return found


def test_all_that_is_offered_receives_a_gradient_and_nothing_else_moves(pair: Case) -> None:
    method, tasks = pair.make()
    drive.learn(method, tasks[:1], pair.user())
    records = copy.deepcopy(method.records)
    for phase in method.phases:
        drive.begin(method, tasks[1], phase)
        optimizer = pair.user()(method)
        before, shut, allowed = drive.tensors(method.model), held(method), may_move(method)
        drive.train(method, tasks[1], optimizer, range(3))
        without = [name for name, parameter in method.named_parameters() if parameter.grad is None]
        assert not without, f"no gradient: {without}"
        assert all(torch.isfinite(parameter.grad).all() for parameter in method.parameters())
        moved = set(drive.differing(before, drive.tensors(method.model)))
        assert moved <= allowed
        assert not drive.differing(shut, held(method))
    assert_equal_records(method, records)


def assert_equal_records(method: Method, records: dict) -> None:
    for task, old in records.items():
        new = method.records[task]
        assert new.reads == old.reads
        assert new.meta == old.meta
        assert not drive.differing(new.private, old.private)
        for kind in ("masks", "deltas"):
            a, b = getattr(old, kind), getattr(new, kind)
            assert a.keys() == b.keys()
            for name in a:
                assert not drive.differing(fields(a[name]), fields(b[name]))


def fields(packed: object) -> dict[str, Tensor]:
    """The tensors of a packed mask or a sparse delta."""
    return {name: value for name, value in vars(packed).items() if isinstance(value, Tensor)}


def test_names_are_the_models_own(pair: Case) -> None:
    untouched, _ = drive.BACKBONES[pair.backbone]()
    method, tasks = pair.make()
    own = {name for name, _ in untouched.named_parameters()} | {name for name, _ in untouched.named_modules()}
    for phase in method.phases:
        drive.begin(method, tasks[0], phase)
        names = [name for name, _ in method.named_parameters()]
        assert len(set(names)) == len(names)
        plain = {name.removesuffix(".scores").removesuffix(".scale"): name for name in names}
        strange = [name for base, name in plain.items() if base not in own]
        assert method.grows or not strange
        inside = {id(parameter) for parameter in method.model.parameters()}
        assert all(id(parameter) in inside for parameter in method.parameters())
        drive.train(method, tasks[0], drive.sgd()(method), range(1))
