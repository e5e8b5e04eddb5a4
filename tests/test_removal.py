"""Removing a task: every other one stays as it is, to the bit, and learning goes on; in a method and through a bank."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract import drive
from tests.contract.conftest import EVERY, SMALL, VARIANTS, variant
from tests.contract.test_resume import into_a_bank
from tests.contract.toys import Anchored
from tests.contract.zoo import ENCODERS
from torch import Tensor, nn

from polymask.bank.bank import Bank
from polymask.held import AlteredNetwork
from polymask.method.contract import Method
from polymask.method.learner import without_base
from polymask.method.removal import Removed
from polymask.methods import HAT, METHODS, TFM, WSN, AdaHAT, ExSSNeT, PackNet, Piggyback
from polymask.parts.pack import unpack
from polymask.sites.table import BASE
from polymask.surgery import CannotPlug

KINDS: dict[str, type[Method]] = {
    **EVERY,
    **VARIANTS,
    "unions": variant(HAT, rule="unions"),
    "first-task": variant(Piggyback, backbone="first-task"),
    "first-task-units": variant(Piggyback, backbone="first-task", granularity="unit"),
    "first-task-probe": variant(METHODS["linear_probe"], backbone="first-task"),
}
USUAL = {"packnet", "no-reuse", "growing-packnet", "piggyback", "first-task", "supsup", "wsn", "exssnet", "tfm", "hat"}
USUAL |= {"unions", "finetune", "toy_penalty"}


def some(*default: str) -> pytest.MarkDecorator:
    """All kinds, of which the default suite takes some."""
    full = pytest.mark.full
    kinds = [pytest.param(k, id=name, marks=() if name in default else full) for name, k in KINDS.items()]
    return pytest.mark.parametrize("kind", kinds)


@pytest.fixture(autouse=True)
def _full_networks() -> Iterator[None]:
    """PackNet says when nothing is free."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no free weight is left")
        yield


@cache
def once(kind: type[Method], names: str, backbone: str) -> Method:
    method = learned(kind, "", backbone) if names else drive.make(kind, backbone)[0]
    learn(method, names)
    return method


def learned(kind: type[Method], names: str = "abcd", backbone: str | None = None) -> Method:
    """A method that has learned some tasks, quickly."""
    return copy.deepcopy(once(kind, names, backbone or (ENCODERS[0] if kind.needs else SMALL)))


def learn(method: Method, names: str) -> None:
    drive.learn(method, [drive.Task(name, method.example) for name in names], drive.OPTIMIZERS["adamw"](), steps=2)


def answers(method: Method) -> dict[str, Tensor]:
    """The logits of every finished task, by its plain network."""
    x = drive.probe(method)
    return {task: drive.answer(method.plain(task), x) for task in method.records}


def assert_kept(method: Method, before: dict[str, Tensor], *, learned_since: bool = False) -> None:
    """The tasks that are left answer as before, to the bit; where a method forgets, until it learns again."""
    kept = {task: logits for task, logits in before.items() if task in method.records}
    assert kept
    if method.exact is True or not learned_since:
        now = answers(method)
        assert not drive.differing(kept, {task: now[task] for task in kept})


@some(*USUAL)
def test_all_other_tasks_stay_as_they_are(kind: type[Method]) -> None:
    method = learned(kind)
    before = answers(method)
    for task in "ac":  # the first and one in the middle
        assert method.remove(task).task == task
        assert_kept(method, before)
    learn(method, "e")
    assert_kept(method, before, learned_since=True)
    before = answers(method)
    method.remove("e")  # the last
    assert_kept(method, before)
    learn(method, "c")
    assert_kept(method, before, learned_since=True)
    assert list(method.records) == ["b", "d", "c"]
    for task in "bdc":
        method.remove(task)
    frozen = {name: method.sites.tensor(name).clone() for name in method.sites.names("first", "frozen")}
    method.begin("f", batches=[])
    offered = {name for name, _ in method.named_parameters()}
    assert offered
    assert not offered & {*method.sites.names("first")}  # whoever comes first now, it is frozen
    learn(method, "fg")
    assert not drive.differing(frozen, {name: method.sites.tensor(name) for name in frozen})
    assert method.count == 8


@some("packnet", "hat", "tfm")
def test_a_removal_in_the_bank_alone_is_the_same(kind: type[Method], tmp_path: Path) -> None:
    method = learned(kind)
    bank = into_a_bank(method, tmp_path / "bank", ENCODERS[0] if method.needs else SMALL)
    before = answers(method)
    for task in "bd":
        bank.remove(task)
        method.remove(task)
    fresh = reopened(kind, tmp_path / "bank")
    assert_kept(fresh, before)
    for one in (method, fresh):
        learn(one, "eb")
        assert_kept(one, {task: before[task] for task in "ac"}, learned_since=True)
    assert not drive.differing(answers(method), answers(fresh))
    for key, found in method.state.items():
        assert not drive.differing(found, fresh.state[key])
    Bank.open(tmp_path / "bank").commit(fresh.records, fresh.sites, without_base(fresh.state_dict()))
    again, bank = reopened(kind, tmp_path / "bank"), Bank.open(tmp_path / "bank")
    assert not drive.differing(answers(again), answers(fresh))
    assert (bank.removed, again.count) == (("d",), 6)
    assert bank.verify().ok


def reopened(kind: type[Method], folder: Path) -> Method:
    """A fresh method that goes on from a bank's base, its records and the learner's state."""
    method, bank = learned(kind, ""), Bank.open(folder)
    attached = bank.model()
    base = {name: attached.base(name).clone() for name in attached.names(*BASE)}
    state = {**without_base(bank.learner()), "tensors": base}
    method.load_state_dict(state, {task: bank.record(task) for task in bank.tasks}, bank.removed)
    return method


@pytest.mark.parametrize("gone", ["a", "b", "d", "ad", "bcd"])
@pytest.mark.parametrize("backbone", ["convnet", "timm_resnet", "encoder"])
@some()
def test_whatever_is_removed_from_whatever_network(kind: type[Method], backbone: str, gone: str) -> None:
    try:
        method = learned(kind, backbone=backbone)
    except CannotPlug as refusal:
        pytest.skip(str(refusal))
    before = answers(method)
    for task in gone:
        method.remove(task)
    assert_kept(method, before)
    learn(method, "e")
    assert_kept(method, before, learned_since=True)
    learn(method, gone[0])
    assert_kept(method, {task: before[task] for task in before if task not in gone}, learned_since=True)


def test_only_a_finished_task_is_removed_and_none_while_another_is_open() -> None:
    method = learned(HAT, "ab")
    with pytest.raises(KeyError, match=r"expected a finished task \(a, b\), found 'c'"):
        method.remove("c")
    method.begin("c")
    with pytest.raises(RuntimeError, match=r"expected no open task, found 'c' in training: end\(\) or abandon\(\)"):
        method.remove("a")
    method.abandon()
    assert list(method.records) == ["a", "b"]


@pytest.mark.parametrize("kind", [WSN, ExSSNeT, HAT, AdaHAT])
def test_what_only_the_removed_task_used_is_free_as_if_it_had_never_been(kind: type[Method]) -> None:
    method = learned(kind, "abc")
    removed = method.remove("c")
    other = learned(kind, "ab")
    for key in ("used", "union", "read", "count"):
        if key in method.state:
            assert not drive.differing(method.state[key], other.state[key])
    assert removed.freed > 0
    assert str(removed) == f"task 'c' is removed: {removed.freed} entries of the network may learn again"


def test_packnet_frees_what_no_later_task_reads_and_says_what_it_reserves() -> None:
    method = learned(PackNet, "abcd")
    owners = torch.cat([own.flatten() for own in method.state["owner"].values()])
    count = [int((owners == code).sum()) for code in range(5)]
    reserved = method.remove("b")
    assert reserved.freed == 0
    assert str(reserved).endswith(f"reserved stay {count[2]} weights that later tasks read")
    freed = method.remove("d")
    assert (freed.freed, freed.reserved) == (count[4], f"{count[2]} weights that later tasks read")
    freed = method.remove("c")  # and with it what was reserved
    assert (freed.freed, freed.reserved) == (count[2] + count[3], "")
    for name, own in method.state["owner"].items():
        assert int(own.max()) == 1
        assert not method.sites.base(name)[own == 0].any()
    learn(method, "e")
    assert {packed.level for packed in method.record("e").masks.values()} == {2}


def test_packnet_without_reuse_frees_all_that_the_task_owned() -> None:
    method = learned(VARIANTS["no-reuse"], "abc")
    own = {name: unpack(mask) for name, mask in method.record("b").masks.items()}
    removed = method.remove("b")
    assert (removed.freed, removed.reserved) == (sum(int(mask.sum()) for mask in own.values()), "")
    assert all((method.state["owner"][name][mask] == 0).all() for name, mask in own.items())


@pytest.mark.parametrize("kind", [PackNet, VARIANTS["growing-packnet"]])
def test_packnet_learns_with_units_that_removed_tasks_have_emptied(kind: type[Method]) -> None:
    method = learned(kind, "abc")
    for task in "bc" if method.grows else "abc":
        method.remove(task)
    method.begin("d")
    before = {name: method.sites.tensor(name).detach().clone() for name in method.sites.weights}
    assert all((w.flatten(1) != 0).any(1).all() for w in before.values())
    drive.train(method, drive.Task("d", method.example), torch.optim.SGD(method.parameters(), 0.1), range(2))
    assert all((method.sites.tensor(name) != was).any() for name, was in before.items())


def test_tfm_gives_the_units_of_its_last_task_to_the_next() -> None:
    method = learned(TFM, "abc")
    wide = method.widths()
    assert method.remove("c").freed > 0
    learn(method, "d")
    assert method.widths() == method.widths("d") == wide
    assert "units that removed tasks brought" in method.remove("b").reserved
    assert method.remove("d").freed > 0
    learn(method, "ef")
    assert method.widths("e") == wide


def test_a_backbone_stays_frozen_though_the_task_that_trained_it_is_gone() -> None:
    method = learned(KINDS["first-task"], "abc")
    assert method.remove("b").reserved == ""
    assert method.remove("a").reserved == "the weights that the first task trained"
    method.remove("c")
    method.begin("d")
    assert method.scores.keys() == method.sites.weights.keys()


def test_a_state_without_a_record_tells_removed_from_lost() -> None:
    method = learned(WSN, "abc")
    state, records = method.state_dict(), {task: method.record(task) for task in "ac"}
    fresh = learned(WSN, "")
    for removed in ((), ("a",)):
        with pytest.raises(ValueError, match="expected a record of every finished task, found none for b"):
            fresh.load_state_dict(state, records, removed)
    fresh.load_state_dict(state, records, ("b",))
    assert (list(fresh.records), fresh.count) == (["a", "c"], 3)
    method.begin("d")
    with pytest.raises(ValueError, match=r"found 'd' open in one that still knows of b, .* learn 'd' from its start"):
        fresh.load_state_dict(method.state_dict(), records, ("b",))


def test_a_state_of_after_a_removal_counts_the_removed() -> None:
    method = learned(KINDS["first-task"], "ab")
    method.remove("a")
    fresh = learned(KINDS["first-task"], "")
    fresh.load_state_dict(method.state_dict(), method.records)
    assert (list(fresh.records), fresh.count) == (["b"], 2)
    fresh.begin("c")
    assert fresh.scores.keys() == fresh.sites.weights.keys(), "the network that the first task trained stays as it is"


def test_a_removal_first_looks_whether_the_network_is_as_it_was() -> None:
    method = learned(Piggyback, "ab")
    assert str(Removed("b", 0)) == "task 'b' is removed: no entries of the network may learn again"
    was = method.model.forward
    method.model.forward = lambda x: was(x) + 1
    with pytest.raises(AlteredNetwork, match=r"found at remove\('a'\) that task 'b' answers a small probe otherwise"):
        method.remove("a")
    assert list(method.records) == ["a", "b"]
    del method.model.forward
    assert method.remove("a").reserved == ""


def test_a_state_of_before_removals_is_read() -> None:
    method = learned(PackNet, "ab")
    state = {key: value for key, value in method.state_dict().items() if key != "count"}
    fresh = learned(PackNet, "")
    fresh.load_state_dict(state, method.records)
    assert fresh.count == 2


def test_a_task_that_is_learned_again_goes_on_counting_its_revisions(tmp_path: Path) -> None:
    kind = type("Reopening", (Anchored,), {"reopens": True})
    method = learned(kind, "ab")
    bank = into_a_bank(method, tmp_path / "bank", ENCODERS[0] if method.needs else SMALL)
    for revision in (1, 2):
        method = reopened(kind, tmp_path / "bank")
        learn(method, "b")
        meta = method.record("b").meta
        assert (meta.revision, meta.reason) == (revision, "learned again")
        assert method.count == 2
        bank = Bank.open(tmp_path / "bank")
        bank.commit(method.records, method.sites, without_base(method.state_dict()))
    assert bank.record("b").meta.revision == 2


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("kind", [PackNet, Piggyback, HAT, WSN])
def test_what_all_share_is_refused_where_tasks_are_kept_to_the_bit(kind: Any) -> None:
    net = normed()
    method = kind(net, torch.randn(2, 4), norms="shared")
    with pytest.raises(ValueError, match=r"found norms='shared', with which 1.weight, 1.bias would go on learning"):
        method.begin("a")
    assert method.task is None
    soft = HAT(normed(), torch.randn(2, 4), norms="shared", soft=True)
    soft.begin("a")  # it promises nothing
    kind(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(2, 4), norms="shared").begin("a")


@pytest.mark.parametrize("kind", [HAT, AdaHAT])
def test_biases_and_norms_that_came_frozen_stay_frozen(kind: Any) -> None:
    net = normed().requires_grad_(False)
    method = kind(net, torch.randn(2, 4), norms="masked")
    roles = {name: role.kind for name, role in method.sites.roles.items()}
    assert roles == {
        "0.weight": "masked",
        "0.bias": "frozen",
        "1.weight": "frozen",
        "1.bias": "frozen",
        "3.weight": "private",
        "3.bias": "private",
    }
    assert method.sites.wiring.sites
