"""A base that is not what finished tasks read is never written, nor a network that does not answer as it did."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.banks import EXAMPLE, WEIGHTS, answer, attached, logits, make, nested, network, on_disk, record, roles
from torch import nn
from torch.nn import functional as F

from polymask import PackNet, SupSup
from polymask.bank.bank import Bank
from polymask.bank.compare import _listed
from polymask.held import AlteredNetwork, add_read, bool_of, find_altered, proof
from polymask.parts.draw import signed_constant
from polymask.parts.pack import pack, unpack
from polymask.sites.table import Role, attach
from polymask.task import Meta, TaskRecord, entries, reads


def trained(method: Any, task: str) -> None:
    """Learn a task of noise."""
    for phase in method.phases:
        method.begin(task, phase)
        optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
        for step in range(3):
            method.on_step(step / 3)
            optimizer.zero_grad()
            F.cross_entropy(method.model(torch.randn(8, 6)), torch.randint(4, (8,))).backward()
            optimizer.step()
    method.end(task)


@pytest.mark.parametrize("kind", [PackNet, SupSup])
def test_weights_that_are_loaded_between_two_tasks_reach_no_disk(tmp_path: Path, kind: Any) -> None:
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    plain, method = copy.deepcopy(net), kind(net, torch.zeros(2, 6))
    start = {name: torch.rand_like(value) for name, value in net.state_dict().items()}
    bank = Bank.create(
        tmp_path / "bank", method.sites, method="x", head=method.head, drawn=method.drawn, example=method.example
    )
    trained(method, "a")
    bank.commit(method.records, method.sites)
    was, before = bank.plain("a", plain)(torch.ones(1, 6)), on_disk(bank.path)
    net.load_state_dict(start)
    with pytest.raises(
        AlteredNetwork, match=r"'0\.weight' \(other values\).*read by task 'a'.*method\.restore\(bank\)"
    ):
        bank.commit(method.records, method.sites)
    assert on_disk(bank.path) == before
    assert torch.equal(Bank.open(bank.path).plain("a", plain)(torch.ones(1, 6)), was)
    assert Bank.open(bank.path).verify(plain).ok


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda net: net.load_state_dict(network(seed=5).state_dict()), "weights were probably loaded or drawn anew"),
        (
            lambda net: net.body[4].bias.add_(1),
            "'body.4.bias' .other values. changed, read by tasks 'b', 'c': something wrote",
        ),
        (lambda net: net.half(), "instead of float32.*another dtype, as half"),
    ],
)
def test_the_error_names_tensors_tasks_and_cause(tmp_path: Path, change: Any, said: str) -> None:
    bank, sites = make(tmp_path / "bank")
    bank.commit({"b": record(sites, "b"), "c": record(sites, "c")}, sites)
    with torch.no_grad():
        change(sites.model)
    before = on_disk(bank.path)
    with pytest.raises(AlteredNetwork, match=said):
        bank.commit({}, sites)
    assert on_disk(bank.path) == before


class Approximately(nn.GELU):
    """Another activation."""


def hooked(net: nn.Module) -> None:
    net.body[3].register_forward_hook(lambda module, args, y: y * 1.5)


@pytest.mark.parametrize(
    "change",
    [
        hooked,
        lambda net: net.body.__setitem__(3, Approximately()),
        lambda net: setattr(net.body[2], "eps", 0.5),
        lambda net: net.body.__setitem__(3, nn.Linear(3, 3)),
    ],
)
def test_a_network_that_answers_otherwise_is_not_written(tmp_path: Path, change: Any) -> None:
    bank, sites = make(tmp_path / "bank")
    bank.commit({"a": record(sites, "a")}, sites)
    change(sites.model)
    new = record(sites, "b")
    for handle in (bank, Bank.open(bank.path)):  # what the handle keeps at hand, and what it reads
        with pytest.raises(AlteredNetwork, match=r"expected task 'a' to answer .* the network is not .*nothing was"):
            handle.commit({"b": new}, sites)
    assert Bank.open(bank.path).verify().ok


def test_without_the_comparison_it_would_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: what the tests above see."""
    bank, sites = make(tmp_path / "bank")
    bank.commit({"a": record(sites, "a")}, sites)
    sites.write(WEIGHTS[0], sites.base(WEIGHTS[0]) + 1)
    monkeypatch.setattr("polymask.bank.compare.changed_base", lambda *_: {})
    with pytest.raises(AlteredNetwork, match="expected task 'a' to answer"):
        bank.commit({}, sites)
    monkeypatch.setattr("polymask.bank.compare.check_answer", lambda *_: None)
    bank.commit({}, sites)
    assert not bank.verify().ok


def test_what_no_finished_task_reads_may_change(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    answers = {}
    for one in nested(sites, 4):
        bank.commit({one.meta.task: one}, sites)
        answers[one.meta.task] = answer(sites, one)
    again = Bank.open(bank.path)
    assert all(torch.equal(logits(again.plain(task)), was) for task, was in answers.items())
    assert not find_altered(again.held(), sites, proof)


def test_the_union_is_that_of_the_records(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    expected: Any = {}
    for task in "abc":
        one = record(sites, task)
        bank.commit({task: one}, sites)
        masks = {name: unpack(packed) for name, packed in one.masks.items()}
        expected = add_read(expected, sites, entries(sites, masks), proof)
        found = Bank.open(bank.path).held()
        assert found.keys() == expected.keys()
        for name, part in expected.items():
            assert torch.equal(bool_of(found[name]), bool_of(part))
            assert (found[name].digest, found[name].dtype, found[name].shape) == (part.digest, part.dtype, part.shape)
    assert bank.sizes()["held"] > 0
    bank.commit({"loose": record(sites, "loose", exact=None)}, sites)
    assert {name: part.digest for name, part in bank.held().items()} == {n: p.digest for n, p in expected.items()}


def test_only_exact_methods_are_held(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    bank.commit({"a": record(sites, "a", exact=0.5)}, sites)
    assert Bank.open(bank.path).held() == {}
    sites.write(WEIGHTS[0], sites.base(WEIGHTS[0]) + 1e-6)
    bank.commit({"b": record(sites, "b", exact=None)}, sites)
    assert "changed" in str(bank.verify())


def test_a_union_that_is_lost_is_made_again(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    bank.commit({"a": record(sites, "a"), "b": record(sites, "b")}, sites)
    digests = {name: part.digest for name, part in bank.held().items()}
    file = bank.path / f"{bank.outline['held']}.safetensors"
    for damage in (file.unlink, lambda: file.write_bytes(file.read_bytes()[:-1] + b"\x7f")):
        damage()
        again = Bank.open(bank.path)
        assert not again.verify().ok
        assert {name: part.digest for name, part in again.held().items()} == digests
        sites.write(WEIGHTS[0], sites.base(WEIGHTS[0]) + 1)
        with pytest.raises(AlteredNetwork):
            again.commit({}, sites)
        sites.write(WEIGHTS[0], Bank.open(bank.path).tensors()[WEIGHTS[0]])
        again.commit({}, sites)
        assert Bank.open(bank.path).verify().ok


def test_the_base_as_committed_comes_back_by_name(tmp_path: Path) -> None:
    sites = attached()
    sites.write(WEIGHTS[0], signed_constant(sites.tensor(WEIGHTS[0]).shape, 7, WEIGHTS[0]))
    bank, _ = make(tmp_path / "bank", sites, drawn={WEIGHTS[0]: 7})
    found = Bank.open(bank.path).tensors()
    assert found.keys() == set(sites.names("masked", "frozen"))
    assert all(torch.equal(value, sites.base(name)) for name, value in found.items())
    other, _ = make(tmp_path / "other", builder=None, base="fingerprint")
    with pytest.raises(ValueError, match="no more than its fingerprint: bring the backbone"):
        other.tensors()


def test_a_fingerprint_has_its_union_too(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank", builder=None, base="fingerprint")
    bank.commit({task: record(sites, task) for task in "abc"}, sites)
    assert not find_altered(Bank.open(bank.path).held(), sites, proof)
    bank.remove("c")
    wide = bool_of(bank.held(sites)[WEIGHTS[0]])
    bank.remove("a")
    left = bool_of(bank.held(sites)[WEIGHTS[0]])
    assert torch.equal(left, unpack(bank.record("b").masks[WEIGHTS[0]]))
    assert wide.sum() > left.sum()
    with pytest.raises(ValueError, match="no more than its fingerprint"):
        Bank.open(bank.path).held()
    assert not find_altered(Bank.open(bank.path).held(sites), sites, proof)
    bank.commit({"d": record(sites, "d")}, sites)
    assert Bank.open(bank.path).held()


def test_masks_on_units_are_held_without_the_network(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    names = [name for name, _ in model.named_parameters()]
    sites = attach(model, {n: Role("private" if n.startswith("2") else "frozen", "") for n in names}, {"0": 1})
    bank, _ = make(tmp_path / "bank", sites, builder=None, example=torch.ones(2, 4), head="2")
    for task, rows in {"a": [0], "b": [1, 2]}.items():
        mask = torch.tensor([unit in rows for unit in range(4)])
        found = reads(sites, {"0": mask})
        own = {name: sites.tensor(name).detach().clone() for name in sites.names("private")}
        bank.commit({task: TaskRecord({"0": pack(mask)}, {}, own, found, Meta(task, "by hand", 2, True))}, sites)
    assert bool_of(bank.held()["0.weight"]).any(1).tolist() == [True, True, True, False]
    bank.remove("a")
    assert bool_of(Bank.open(bank.path).held()["0.weight"]).any(1).tolist() == [False, True, True, False]
    sites.write("0.weight", sites.base("0.weight") + torch.tensor([1.0, 0, 0, 1])[:, None])
    bank.commit({}, sites)
    sites.write("0.weight", sites.base("0.weight") + torch.tensor([0, 0, 1.0, 0])[:, None])
    with pytest.raises(AlteredNetwork, match=r"'0\.weight' .* read by task 'b'"):
        bank.commit({}, sites)


class Scaled(nn.Module):
    """A network with a buffer that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.register_buffer("scale", torch.ones(12), persistent=False)
        self.register_buffer("unused", torch.ones(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of scaled inputs."""
        found: torch.Tensor = self.inner(x * self.scale)
        return found


def scaled() -> Any:
    model = Scaled()
    return attach(model, {f"inner.{name}": role for name, role in roles(model.inner).items()})


def one_of(sites: Any, task: str) -> TaskRecord:
    private = {name: sites.tensor(name).detach().clone() for name in sites.names("private")}
    return TaskRecord({}, {}, private, reads(sites, {}), Meta(task, "by hand", 5, True))


def test_a_buffer_that_no_record_brings_is_reported(tmp_path: Path) -> None:
    sites = scaled()
    bank, _ = make(tmp_path / "bank", sites, builder=None, example=EXAMPLE)
    bank.commit({"a": one_of(sites, "a")}, sites)
    sites.model.unused += 1
    with pytest.warns(UserWarning, match="'unused' changed since the last commit"):
        bank.commit({"b": one_of(sites, "b")}, sites)
    bank.commit({"c": one_of(sites, "c")}, sites)
    sites.model.scale *= 2
    with pytest.raises(AlteredNetwork, match="'scale' changed, which no record brings"):
        bank.commit({}, sites)


def test_many_names_are_cut_short() -> None:
    assert _listed([str(k) for k in range(9)]) == "0, 1, 2, 3 and 5 more"
