"""State that a forward changes: what moves is every task's own, what a network remembers otherwise is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.contract import drive
from tests.learning import small
from tests.states import KINDS, REFUSED, Centre
from torch import Tensor, nn

from polymask.bank.bank import Bank
from polymask.builder import Builder
from polymask.copies.kept import refresh_caches, twin
from polymask.learning.extend import extend
from polymask.learning.learn import learn
from polymask.learning.learner import check_roles, make_bank
from polymask.learning.options import Refused
from polymask.learning.training import Training
from polymask.method.contract import Method
from polymask.method.snapshot import broadcast
from polymask.methods import HAT, METHODS
from polymask.mixed import Mixed
from polymask.sites import roles
from polymask.sites.roles import Policy, plan
from polymask.sites.state import moving
from polymask.sites.table import MOVES, MOVES_ALONE, bake, detach, replica
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


def levit() -> nn.Module:
    """A small LeViT, whose attention keeps its biases gathered in evaluation mode."""
    from timm.models.levit import Levit

    sizes = {"embed_dim": (16, 24), "key_dim": 8, "depth": (1, 1), "num_heads": (2, 3)}
    return Levit(img_size=32, num_classes=4, attn_ratio=2, mlp_ratio=2, stem_type="s8", **sizes)


def tiny_vit() -> nn.Module:
    """A small TinyViT, which does so as well."""
    from timm.models.tiny_vit import TinyVit

    sizes = {"embed_dims": (8, 16, 16, 16), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}
    return TinyVit(num_classes=4, window_sizes=(4, 4, 2, 2), drop_path_rate=0.0, **sizes)


def evo_norm() -> nn.Module:
    """A norm that has a running variance alone."""
    from timm.layers import EvoNorm2dB0

    body = [nn.Conv2d(3, 8, 3, stride=2), EvoNorm2dB0(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_what_moves_is_found_and_private(kind: str) -> None:
    model, example = network(kind), torch.randn(4, 6)
    before, draws = drive.tensors(model), (torch.get_rng_state(), next_of_numpy())
    found, moves = plan(model, example, FROZEN).roles, KINDS[kind].moves
    assert set(moves) <= moving(model, example).training
    assert not drive.differing(before, drive.tensors(model))
    assert torch.equal(draws[0], torch.get_rng_state())
    assert draws[1] == next_of_numpy()
    for name in moves:
        if kind in ("OwnNorms", "BatchNormsWithChildren"):
            assert (found[name].kind, found[name].why) == ("frozen", "a norm's statistics")
        else:
            assert found[name].kind == "private"
            assert found[name].why.startswith("the head" if name == "head.u" else "changes in forward")
    assert not [name for name, role in found.items() if name not in moves and role.why.startswith(MOVES)]


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


@pytest.mark.parametrize("kind", ["Codebook", "GrowingMemory"])
def test_a_bank_brings_what_moves_whatever_its_kind_and_shape(kind: str, tmp_path: Path) -> None:
    learner, tasks = made(kind)
    builder = Builder("tests.test_state:network", {"kind": kind})
    bank = Bank.create(tmp_path / "bank", learner.sites, builder=builder, method="packnet", example=learner.example)
    records = drive.learn(learner, tasks, drive.adamw(), steps=3)
    bank.commit(records, learner.sites, learner=learner.state_dict())
    x, bank = torch.randn(5, 6), Bank.open(tmp_path / "bank")
    assert bank.verify().ok
    sites = bank.model()
    for name, was in answers(learner, x).items():
        assert torch.equal(bank.plain(name)(x), was)
        bank.activate(sites, name)
        assert torch.equal(sites.model(x), was)
        kept = bank.record(name).private
        assert all(torch.equal(kept[moved], records[name].private[moved]) for moved in KINDS[kind].moves)
    twin_of, _ = made(kind)
    twin_of.load_state_dict(bank.learner(), {task: bank.record(task) for task in bank.tasks})
    assert not drive.differing(answers(twin_of, x), answers(learner, x))


@pytest.mark.parametrize("kind", ["Codebook", "GrowingMemory"])
def test_a_learner_goes_on_in_the_middle_of_a_task(kind: str) -> None:
    (learner, tasks), (other, _) = made(kind, "piggyback"), made(kind, "piggyback")
    drive.learn(learner, tasks[:1], steps=3)
    drive.begin(learner, tasks[1])
    drive.train(learner, tasks[1], drive.sgd()(learner), range(2))
    other.load_state_dict(copy.deepcopy(learner.state_dict()), learner.records)
    for each in (learner, other):
        drive.train(each, tasks[1], drive.sgd()(each), range(2, 4))
        each.end("b")
    x = torch.randn(5, 6)
    assert not drive.differing(answers(learner, x), answers(other, x))
    assert not drive.differing(learner.records["b"].private, other.records["b"].private)


@pytest.mark.parametrize("kind", ["Codebook", "Steps", "GrowingMemory"])
def test_every_task_starts_from_the_untouched_model(kind: str) -> None:
    learner, tasks = made(kind)
    start = drive.tensors(network(kind))
    drive.learn(learner, tasks[:1], steps=3)
    drive.begin(learner, tasks[1])
    now = drive.tensors(learner.model)
    assert all(torch.equal(now[name], start[name]) for name in KINDS[kind].moves)
    drive.train(learner, tasks[1], drive.sgd()(learner), range(2))
    learner.abandon()
    found = drive.tensors(learner.model)
    assert all(torch.equal(found[name], learner.records["a"].private[name]) for name in KINDS[kind].moves)


def test_codes_that_no_gradient_moved_are_offered_to_no_optimizer() -> None:
    for kind, offered in (("Codebook", False), ("CodebookThatTrains", True)):
        learner, tasks = made(kind)
        drive.begin(learner, tasks[0])
        assert ("codes" in dict(learner.named_parameters())) is offered
        assert learner.sites.roles["codes"].why == (MOVES if offered else MOVES_ALONE)
        assert type(twin(detach(learner.model)).codes) is nn.Parameter
    learner, tasks = made("CodebookThatTrains", "linear_probe")
    drive.begin(learner, tasks[0])
    assert [name for name, _ in learner.named_parameters()] == ["head.weight", "head.bias"]


def test_what_only_a_counter_starts_is_seen() -> None:
    assert moving(network("Steps"), torch.randn(4, 6)).training == {"step", "late"}


def test_a_norm_with_children_stays_and_its_children_follow() -> None:
    learner, tasks = made("BatchNormsWithChildren", "linear_probe")
    drive.begin(learner, tasks[0])
    learner.model.train()
    norm = learner.model.get_submodule("between")
    assert (norm.training, norm.drop.training, learner.model.training) == (False, True, True)
    for kind in ("CentreInTheRoot", "NormsWithChildren"):
        learner, _ = made(kind, "linear_probe")
        learner.model.train()
        assert all(module.training for module in learner.model.modules())


def test_modes_are_put_back_as_they_were() -> None:
    learner, tasks = made("CachedInEvaluation", "linear_probe")
    drive.learn(learner, tasks[:2])
    model = learner.model.train()
    model.between.training, model.b.training = False, False
    modes = [module.training for module in model.modules()]
    learner.activate("a")
    assert [module.training for module in model.modules()] == modes
    model.eval()
    learner.activate("b")
    assert not any(module.training for module in model.modules())
    with pytest.raises(KeyError), refresh_caches(model):
        raise KeyError
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("kind", ["CachedInEvaluation", "CachedByTheRoot"])
def test_no_cache_outlives_its_task(kind: str) -> None:
    learner, tasks = made(kind, "independent")
    drive.learn(learner, tasks, drive.adamw())
    x = torch.randn(5, 6)
    seen, plain = answers(learner, x), learner.plain("a")
    assert len({one.sum().item() for one in seen.values()}) == 3
    learner.model.eval()
    for name in "abcab":
        learner.activate(name)
        assert torch.equal(learner.model(x), seen[name])
        switch(plain, learner.sites, learner.record(name))
        assert torch.equal(plain(x), seen[name])
    learner.begin("d")
    start = learner.model(x)
    learner.model.eval()
    assert torch.equal(learner.model(x), start)
    learner.abandon()
    assert torch.equal(learner.model(x), seen["b"])


def test_a_batch_of_tasks_reads_no_cache_of_another() -> None:
    learner, tasks = made("CachedInEvaluation", "tfm", growth=0)
    drive.learn(learner, tasks[:2], drive.adamw())
    x = torch.randn(4, 6)
    found = Mixed(learner.sites, learner.records)(x, ["a", "b", "b", "a"])
    for row, task in enumerate("abba"):
        torch.testing.assert_close(found[row], learner.plain(task)(x)[row])


def test_what_a_call_leaves_under_autograd_can_be_copied() -> None:
    model, x = network("KeepsItsLast").train(), torch.randn(4, 6)
    model(x)
    learner = METHODS["packnet"](model, x)
    drive.learn(learner, drive.tasks(x)[:2])
    learner.model.train()(x)
    assert torch.equal(learner.plain("a")(x), drive.logits(learner, "a", x))
    assert not bake(learner.model).attention.requires_grad


@pytest.mark.parametrize("build", [levit, pytest.param(tiny_vit, marks=pytest.mark.full), evo_norm])
def test_networks_of_timm_that_cache_or_name_their_statistics_otherwise(build: Callable[[], nn.Module]) -> None:
    example = torch.randn(2, 3, 32, 32)
    learner = METHODS["packnet"](build(), example)
    seen = {}
    for task in drive.tasks(example)[:2]:
        drive.learn(learner, [task], drive.adamw(), steps=1)
        seen[task.name] = drive.logits(learner, task, example)
    learner.model.eval()
    for name in "abab":
        learner.activate(name)
        assert torch.equal(learner.model(example), seen[name])
        assert torch.equal(learner.plain(name)(example), seen[name])


def test_tensors_of_every_kind_are_sent(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        kinds = (torch.bool, torch.int16, torch.int64, torch.bfloat16)
        broadcast([torch.ones(2, 3).T, torch.zeros(0), *(torch.ones((), dtype=kind) for kind in kinds)])
    finally:
        torch.distributed.destroy_process_group()


def centred() -> nn.Module:
    """A network whose body takes the place of ``small.Net``, with a running mean in it."""
    net = small.net()
    net.body.add_module("centre", Centre(16))
    return net


def test_a_bank_of_other_roles_answers_and_is_not_learned_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = Training(epochs=1, batch_size=16)
    with monkeypatch.context() as patch:
        patch.setattr(roles, "_private_if_moving", lambda role, *_: role)
        run = learn(centred(), small.tasks()[:1], "packnet", out=tmp_path, training=how)
    x, _ = small.blobs("one", 2, 5, "test")
    was = run.logits("one", x)
    bank = Bank.open(tmp_path / "bank")
    assert torch.equal(bank.plain("one", centred())(x), was)
    with pytest.raises(Refused, match=r"found another for body\.centre\.centre \(.*\): its tasks go on answering"):
        extend(tmp_path, small.task("two", 2), centred(), training=how)
    assert torch.equal(Bank.open(tmp_path / "bank").plain("one", centred())(x), was)
    learner, records = METHODS["packnet"](centred(), x), {"one": bank.record("one")}
    with pytest.raises(ValueError, match=r"'body\.centre\.centre' to have the role under which the finished tasks"):
        learner.load_state_dict(bank.learner(), records)


def test_a_bank_of_another_wiring_is_not_learned_on(tmp_path: Path) -> None:
    learner = METHODS["hat"](small.net(), torch.randn(2, 6))
    bank = make_bank(tmp_path / "bank", learner, None, {})
    check_roles(bank, learner)
    site = next(iter(learner.sites.wiring.free))
    learner.sites.wiring.free[site].logical_not_()
    with pytest.raises(Refused, match="found another for the wiring"):
        check_roles(bank, learner)


class Read(nn.Module):
    """An LSTM and a head, read at the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def test_a_copy_of_an_rnn_that_shares_its_weights_answers_as_it() -> None:
    """An RNN knows by references to its weights whether its cache of them is stale; shared, they look unchanged."""
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    method = HAT(Read(), x)
    method.begin("a")
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    method.on_step(1.0)
    method.model(x).sum().backward()
    optimizer.step()
    method.end("a")
    answer = method.model.eval()(x)
    cached = method.model.lstm._flat_weights
    assert all(weight is not method.sites.weights["lstm.weight_ih_l0"].kept for weight in cached)
    copied = replica(method.sites)
    assert torch.equal(copied.model.eval()(x), answer)
