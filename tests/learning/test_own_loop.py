"""The contract's verbs in a user's own loop: own module, optimizer, schedule, precision; nothing is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learning import small
from torch import Tensor, nn
from torch.nn import functional as F

from polymask.bank.bank import Bank
from polymask.calling import call, logits_of
from polymask.learning.extend import extend
from polymask.learning.learn import Learned
from polymask.learning.objective import Objective
from polymask.learning.results import largest_change
from polymask.learning.training import Training
from polymask.loaded import load
from polymask.method.contract import Method
from polymask.methods import METHODS
from polymask.probe import run_probe

X = torch.randn(5, small.WIDTH, generator=torch.Generator().manual_seed(3))


def mine(method: Method, task: str, batches: list[tuple[Any, Tensor]], outputs: int, **more: Any) -> None:
    """A loop as a user writes it: AdamW with decay, a schedule, autocast in bfloat16, gradients over two batches."""
    for phase in method.phases:
        method.begin(task, phase, outputs=outputs, batches=[x for x, _ in batches])
        net = method.model
        optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=2 * len(batches) // 2)
        net.train()
        for _ in range(2):
            for i, (x, y) in enumerate(batches):
                if i % 2 == 0:
                    method.on_step(i / len(batches))
                with torch.autocast("cpu", torch.bfloat16):
                    logits = logits_of(call(net, x))[:, :outputs]
                    loss = (F.cross_entropy(logits.float(), y) + method.penalty()) / 2
                loss.backward()
                if i % 2 == 1:
                    nn.utils.clip_grad_norm_(method.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
    method.end(task)


def batched(name: str, classes: int, shape: Callable[[Tensor], Any] = lambda x: x) -> list[tuple[Any, Tensor]]:
    """Eight batches of 8."""
    x, y = small.blobs(name, classes, 64)
    return [(shape(x[i::8]), y[i::8]) for i in range(8)]


class Mixed(nn.Module):
    """Takes one tensor, two, or two by name; returns a tensor or a mapping."""

    def __init__(self, mapped: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(small.WIDTH, 8), nn.Linear(small.WIDTH, 8, bias=False)
        self.norm, self.head, self.mapped = nn.BatchNorm1d(8), nn.Linear(8, 4), mapped

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor | Mapping[str, Tensor]:
        logits = self.head(self.norm(self.first(a) + self.second(a if b is None else b)).relu())
        return {"logits": logits} if self.mapped else logits


SHAPES: dict[str, tuple[Callable[[Tensor], Any], bool]] = {
    "a tensor": (lambda x: x, False),
    "a tuple, a mapping back": (lambda x: (x, -x), True),
    "a mapping": (lambda x: {"b": -x, "a": x}, False),
}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        # PackNet meets every shape, every other method one that goes round.
        pytest.param(name, shape, marks=() if name == "packnet" or (i % 2 and i % 3 == j) else pytest.mark.full)
        for i, name in enumerate(name for name, kind in METHODS.items() if not kind.needs)
        for j, shape in enumerate(SHAPES)
    ],
)
def test_my_loop_and_my_module_forget_nothing(name: str, shape: str) -> None:
    """Tasks come by name, with heads of their own sizes; nobody said how many there would be."""
    form, mapped = SHAPES[shape]
    torch.manual_seed(0)
    method = METHODS[name](Mixed(mapped), form(torch.zeros(2, small.WIDTH)), seed=1)
    was: dict[str, Tensor] = {}
    for task, classes in (("cats", 3), ("dogs", 2), ("birds", 4)):
        mine(method, task, batched(task, classes, form), classes)
        was[task] = run_probe(method.plain(task), form(X))
    changes = {task: largest_change(logits, run_probe(method.plain(task), form(X))) for task, logits in was.items()}
    assert list(method.records) == ["cats", "dogs", "birds"]
    assert changes["birds"] == 0.0
    if method.exact is True:
        assert max(changes.values()) == 0.0
        method.activate("cats")
        method.model.eval()
        with torch.no_grad():
            assert torch.equal(logits_of(call(method.model, form(X))), was["cats"])
    else:
        assert min(changes["cats"], changes["dogs"]) > 0.0


def test_what_learn_began_my_loop_goes_on_with_and_back(tmp_path: Path) -> None:
    run = small.run("packnet", options={"ratio": 0.5})
    was = {task: run.logits(task, X) for task in run.tasks}
    mine(run.method, "four", batched("four", 2), 2)
    assert run.tasks == ["one", "two", "three", "four"]
    assert all(torch.equal(logits, run.logits(task, X)) for task, logits in was.items())
    bank = run.save(tmp_path / "bank")
    assert bank.verify(small.net()).ok
    again = load(tmp_path / "bank", small.net())
    assert all(torch.equal(run.logits(task, X), again.logits(task, X)) for task in run.tasks)


def test_a_mistake_in_my_loop_is_taken_back() -> None:
    run = small.run("packnet", options={"ratio": 0.5})
    before = {name: tensor.clone() for name, tensor in run.method.model.state_dict().items()}
    run.method.begin("four", outputs=2)
    optimizer = torch.optim.SGD(run.method.parameters(), lr=0.1)
    (run.method.model(X).sum() * float("nan")).backward()
    optimizer.step()
    run.method.abandon()
    run.method.activate("three")
    after = run.method.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    mine(run.method, "four", batched("four", 2), 2)
    assert run.logits("four", X).isfinite().all()


OPTIONS = {**small.METHODS, "packnet": {"ratio": 0.5}}
"""PackNet that was not told how many tasks there will be: it keeps weights free for one more."""


def later(out: Path, method: str, **more: Any) -> Learned:
    """One more task, with none of the older data."""
    return extend(out, small.task("four", 2), small.net(), training=more.pop("training", small.FAST), **more)


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=pytest.mark.full if m in ("piggyback", "supsup") else ()) for m in small.METHODS],
)
def test_one_more_task_later_without_the_old_data(method: str, tmp_path: Path) -> None:
    """From the folder alone, with a network as it was built."""
    earlier = small.run(method, tmp_path, options=OPTIONS[method])
    was = {task: earlier.logits(task, X) for task in earlier.tasks}
    run = later(tmp_path, method)
    assert run.tasks == ["one", "two", "three", "four"]
    # What is proved unchanged stands, what is not would have to be measured, on data that are not here.
    old = [None] * 3 if method == "finetune" else earlier.report["accuracy"][2]
    assert run.report["accuracy"][3] == [*old, run.report["accuracy"][3][3]]
    assert run.report["accuracy"][:3] == [[*row, None] for row in earlier.report["accuracy"]]
    assert run.report["bwt_gem"] == (None if method == "finetune" else 0.0)
    same = [torch.equal(run.logits(task, X), logits) for task, logits in was.items()]
    assert all(same) if method != "finetune" else not any(same)
    assert (run.report["max_logit_drift"] == 0.0) is (method != "finetune")
    assert Bank.open(tmp_path / "bank").verify(small.net()).ok
    assert load(tmp_path, small.net()).predict("four", X).shape == (5,)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        pytest.param("packnet", OPTIONS["packnet"], marks=pytest.mark.full),
        ("packnet", {"tasks": 1, "grow": 2}),
        pytest.param("tfm", OPTIONS["tfm"], marks=pytest.mark.full),
    ],
)
def test_one_more_task_is_learned_as_if_it_had_been_in_the_stream(
    method: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """A process of its own, or all in one: the same bank, as every draw is keyed by names."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    small.run(method, whole, [*small.tasks(), small.task("four", 2)], options=options)
    small.run(method, parts, options=options)
    later(parts, method)
    one, other = (Bank.open(place / "bank") for place in (whole, parts))
    assert one.tasks == other.tasks
    for task in one.tasks:
        assert torch.equal(one.plain(task, small.net())(X), other.plain(task, small.net())(X))
    assert one.sizes()["per_task"] == other.sizes()["per_task"]


def test_a_long_schedule_of_mine_survives_a_stop(tmp_path: Path) -> None:
    """Schedules keep odd things; a checkpoint has to bring them back without unpickling objects."""

    def schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        kinds = torch.optim.lr_scheduler
        parts: list[torch.optim.lr_scheduler.LRScheduler] = [
            kinds.LinearLR(optimizer, 0.1, 1.0, 3),
            kinds.MultiStepLR(optimizer, [2, 5]),
        ]
        return kinds.SequentialLR(optimizer, parts, [3])

    stream, training = [small.task("one")], Training(epochs=3, batch_size=16, save_every=0)
    how: dict[str, Any] = {"training": training, "schedule": schedule}
    with pytest.raises(KeyboardInterrupt):
        small.run("finetune", tmp_path / "stopped", stream, objective=Objective(loss=small.Once(10, small.stop)), **how)
    small.run("finetune", tmp_path / "stopped", stream, **how)
    small.run("finetune", tmp_path / "whole", stream, **how)
    small.assert_same(tmp_path / "stopped", tmp_path / "whole")
