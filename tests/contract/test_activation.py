"""Point 2 of the contract: activation is a function of the record alone; point 12: every site is read."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from tests.contract import drive
from tests.contract.conftest import SMALL, Case
from tests.contract.zoo import BACKBONES, DEVICE, placed
from torch import Tensor, nn

from polymask.calling import call, two_rows
from polymask.method.contract import Method
from polymask.task import switch


@pytest.mark.few
def test_order_is_irrelevant_and_twice_is_once(pair: Case) -> None:
    method, tasks = pair.make()
    drive.learn(method, tasks)
    seen: dict[str, dict[str, Tensor]] = {}
    answers: dict[str, Tensor] = {}
    for name in "cbaabcaccb":
        answer = drive.logits(method, name)
        now = drive.tensors(method.model)
        assert torch.equal(answers.setdefault(name, answer), answer)
        assert not drive.differing(seen.setdefault(name, now), now)


def test_tasks_are_told_apart(pair: Case) -> None:
    method, tasks = pair.make()
    drive.learn(method, tasks, drive.adamw())  # plain SGD moves scores that start from earlier masks too little
    assert not torch.equal(drive.logits(method, "a"), drive.logits(method, "c"))


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_every_site_is_read(pair: Case, train: bool) -> None:
    method, _ = pair.make()
    read: Counter[str] = Counter()
    sites = {**method.sites.weights, **method.sites.units}
    for name, site in sites.items():
        site.register_forward_hook(lambda *_, name=name: read.update([name]))
    with torch.no_grad():
        call(method.model.train(train), two_rows(method.example))
    assert set(read) == set(sites)


class Idle(nn.Module):
    """A network with a layer that no forward calls."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.idle, self.head = nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


def test_a_weight_that_nobody_reads_is_frozen_and_says_so(one: Case) -> None:
    method = one.method(*placed(Idle(), torch.randn(2, 12)))
    role = method.sites.roles["idle.weight"]
    assert role.kind == "frozen"
    assert "no forward reads it" in role.why
    drive.learn(method, drive.tasks(method.example, 2), drive.adversary())


def test_probing_leaves_no_trace() -> None:
    model, example = BACKBONES["encoder"]()
    before, state, modes = drive.tensors(model), torch.get_rng_state(), [m.training for m in model.modules()]
    _probe(model, example)
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [m.training for m in model.modules()]
    assert not drive.differing(before, drive.tensors(model))


def _probe(model: nn.Module, example: Tensor) -> None:
    from polymask.sites.roles import Policy, plan

    plan(model, example, Policy("masked", "frozen", "frozen", "frozen"))


def masking(method: type[Method]) -> bool:
    """Whether a method takes masked=, patterns of weights."""
    import inspect

    return "masked" in inspect.signature(method).parameters


@pytest.mark.few
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_switching_in_half_precision_is_baking(one: Case, dtype: torch.dtype) -> None:
    model, example = BACKBONES[one.backbone]()
    method = one.method(model.to(dtype), example.to(dtype))
    drive.learn(method, drive.tasks(method.example)[:2], drive.sgd())
    plain = method.plain("a")
    switch(plain, method.sites, method.record("b"))
    assert torch.equal(drive.answer(plain, method.example), drive.answer(method.plain("b"), method.example))


@pytest.mark.few
def test_switching_a_plain_model_is_activating(pair: Case) -> None:
    method, tasks = pair.make()
    drive.learn(method, tasks, pair.user())
    x, plain = drive.probe(method), method.plain("b")
    for task in (*tasks, *reversed(tasks)):
        switch(plain, method.sites, method.record(task.name))
        assert torch.equal(drive.answer(plain, x), drive.answer(method.plain(task.name), x))
        assert [(n, v.shape) for n, v in plain.state_dict().items()] == [
            (n, v.shape) for n, v in method.plain(task.name).state_dict().items()
        ]


def test_masking_what_nobody_reads_raises(one: Case) -> None:
    if not masking(one.method):
        with pytest.raises(TypeError, match="masked"):
            one.method(*placed(Idle(), torch.randn(2, 12)), masked=["idle.weight"])  # type: ignore[call-arg]
        return
    with pytest.raises(ValueError, match=r"never read: idle\.weight"):
        one.method(*placed(Idle(), torch.randn(2, 12)), masked=["idle.weight"])  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"'nowhere.*' among body\.weight"):
        one.method(*placed(Idle(), torch.randn(2, 12)), masked=["nowhere*"])  # type: ignore[call-arg]


def test_a_method_needs_an_example_that_passes(one: Case) -> None:
    model, _ = BACKBONES[SMALL]()
    with pytest.raises(ValueError, match="expected an example that the model accepts"):
        one.method(model, torch.randn(2, 13, device=DEVICE))
