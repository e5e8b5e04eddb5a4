"""The bank: what goes in comes out bit for bit, without a method, at the size that it reports."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.banks import (
    BUILDER,
    EXAMPLE,
    WEIGHTS,
    answer,
    attached,
    filled,
    flat,
    logits,
    make,
    network,
    on_disk,
    record,
    same_record,
)
from torch import nn

from polymask.bank.bank import Bank
from polymask.builder import Builder
from polymask.parts.draw import signed_constant
from polymask.parts.pack import pack, unpack
from polymask.sites.table import Role, attach, detach
from polymask.task import Meta, TaskRecord, reads


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_records_and_answers_come_back_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    sites, x = attached(dtype=dtype), EXAMPLE.to(dtype)
    bank, _ = make(tmp_path / "bank", sites, builder=None, example=x)
    given = {
        "a": record(sites, "a", 3, labels=("x", "y", "z"), inputs={"mean": [0.5]}),
        "b/../b": record(sites, "b/../b", 7, revision=1, reason="for a test"),
    }
    bank.commit(given, sites)
    again = Bank.open(tmp_path / "bank")
    assert again.tasks == ("a", "b/../b")
    for task, one in given.items():
        assert same_record(again.record(task), one)
        plain = again.plain(task, network(seed=9).to(dtype))
        assert torch.equal(logits(plain, x), answer(sites, one, x))
        assert len(logits(plain, x)[0]) == one.meta.outputs
    assert again.verify(network(seed=9).to(dtype)).ok
    assert flat(again.sizes()) == sum(map(len, on_disk(tmp_path / "bank").values()))


def test_a_builder_rebuilds_the_network_with_its_roles(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    one = record(sites, "a", delta=True)
    bank.commit({"a": one}, sites)
    before = torch.get_rng_state()
    rebuilt = Bank.open(tmp_path / "bank").model()
    assert torch.equal(torch.get_rng_state(), before)
    assert rebuilt.roles == sites.roles
    assert not any(module.training for module in rebuilt.model.modules())
    bank.activate(rebuilt, "a")
    assert torch.equal(logits(rebuilt.model), answer(sites, one))
    assert list(detach(rebuilt.model).state_dict()) == list(network().state_dict())


def test_units_and_ties_come_back(tmp_path: Path) -> None:
    def build() -> nn.Module:
        net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
        net[2].weight = net[0].weight
        return net

    def table(model: nn.Module) -> dict[str, Role]:
        return {name: Role("masked" if "weight" in name else "frozen", "") for name, _ in model.named_parameters()}

    model = build()
    sites = attach(model, table(model), {"0": 1})
    units = torch.tensor([True, False, True, True])
    masks = {"0.weight": pack(torch.eye(4) == 0), "0": pack(units)}
    found = reads(sites, {name: unpack(one) for name, one in masks.items()})
    bank, _ = make(tmp_path / "bank", sites, builder=None, example=torch.ones(2, 4), head="3")
    bank.commit({"a": TaskRecord(masks, {}, {}, found, Meta("a", "by hand", 2, True))}, sites)
    again = Bank.open(tmp_path / "bank")
    x = torch.rand(3, 4)
    assert torch.equal(logits(again.plain("a", build()), x), answer(sites, bank.record("a"), x))
    rebuilt = again.model(build())
    assert rebuilt.units["0"].axis == 1
    assert rebuilt.model[0].parametrizations.weight[0] is rebuilt.model[2].parametrizations.weight[0]
    assert again.verify(build()).ok


def test_a_drawn_base_needs_no_file(tmp_path: Path) -> None:
    sites = attached()
    for name in WEIGHTS:
        sites.write(name, signed_constant(sites.tensor(name).shape, 7, name))
    bank, _ = make(tmp_path / "bank", sites, drawn=dict.fromkeys(WEIGHTS, 7))
    one = record(sites, "a")
    bank.commit({"a": one}, sites)
    stored = sum(sites.tensor(name).nbytes for name in sites.names("frozen"))
    assert stored < bank.sizes()["backbone"] < stored + 300
    assert torch.equal(logits(Bank.open(tmp_path / "bank").plain("a")), answer(sites, one))
    with pytest.raises(ValueError, match=r"expected 'body.1.weight' to be the signed constant of seed 8"):
        make(tmp_path / "other", sites, drawn={WEIGHTS[0]: 8})
    with pytest.raises(ValueError, match=r"expected drawn tensors of the base, found 'head.weight'"):
        make(tmp_path / "other", sites, drawn={"head.weight": 8})


def test_a_fingerprint_stands_for_the_users_backbone(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank", builder=None, base="fingerprint")
    one = record(sites, "a")
    bank.commit({"a": one}, sites)
    again = Bank.open(tmp_path / "bank")
    assert again.sizes()["backbone"] == 0
    assert torch.equal(logits(again.plain("a", network())), answer(sites, one))
    wrong = network(seed=1)
    before = {name: value.clone() for name, value in wrong.state_dict().items()}
    with pytest.raises(ValueError, match=r"expected 'body.1.weight' of the base .* bring the backbone"):
        again.model(wrong)
    assert all(torch.equal(value, before[name]) for name, value in wrong.state_dict().items())
    assert "_polymask" not in str(vars(wrong.body[1]))
    sites.write(WEIGHTS[0], sites.base(WEIGHTS[0]) + 1)
    with pytest.raises(ValueError, match="cannot be kept as a fingerprint"):
        bank.commit({"b": record(sites, "b")}, sites)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: nn.Linear(2, 2), "expected a tensor 'body.1.weight' in the network, found none"),
        (lambda: network().half(), "to be float32 of shape .16, 12., found float16"),
        (lambda: nn.Sequential(), "found none"),
        (lambda: attached().model, "expected a plain network, found one with sites"),
        (lambda: widened(), "they differ in extra.weight"),
    ],
)
def test_another_network_is_refused_before_it_is_touched(tmp_path: Path, other: object, message: str) -> None:
    bank, _ = make(tmp_path / "bank", builder=None)
    model = other()  # type: ignore[operator]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        bank.model(model)
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def widened() -> nn.Module:
    """The network with a layer more."""
    model = network()
    model.extra = nn.Linear(2, 2, bias=False)
    return model


def test_builders_that_cannot_build_are_refused_at_once(tmp_path: Path) -> None:
    for name in ("no.such:thing", "torch.nn:NoSuch", "__main__:build", "torch"):
        with pytest.raises(ValueError, match=r"expected a builder 'package.module:function'"):
            make(tmp_path / "bank", builder=Builder(name))
    with pytest.raises(ValueError, match="expected a module from the builder 'builtins:float', found float"):
        make(tmp_path / "bank", builder=Builder("builtins:float"))
    with pytest.raises(ValueError, match="to be float32 of shape"):
        make(tmp_path / "bank", builder=replace(BUILDER, args={**BUILDER.args, "hidden": [16, 9]}))
    assert not (tmp_path / "bank").exists()


def test_a_user_must_bring_a_network_that_has_no_builder(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank", builder=None)
    bank.commit({"a": record(sites, "a")}, sites)
    with pytest.raises(ValueError, match="bring the network as base="):
        bank.plain("a")


def test_a_layer_that_grew_comes_back_grown(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank", builder=None)
    sites.write("body.4.bias", torch.arange(9.0))
    sites.write("body.4.weight", torch.rand(9, 16))
    bank.commit({}, sites)
    grown = Bank.open(tmp_path / "bank").model(network())
    assert torch.equal(grown.tensor("body.4.bias"), torch.arange(9.0))
    assert grown.tensor("body.4.weight").shape == (9, 16)


def test_unknown_tasks_are_answered_with_those_there_are(tmp_path: Path) -> None:
    bank, _ = make(tmp_path / "bank")
    for verb in (bank.record, bank.plain, bank.remove):
        with pytest.raises(KeyError, match=r"expected one of the tasks \(none yet\), found 'a'"):
            verb("a")


def test_a_bank_is_never_overwritten_nor_missed(tmp_path: Path) -> None:
    make(tmp_path / "bank")
    with pytest.raises(FileExistsError, match=r"Bank.open it, or choose another folder"):
        make(tmp_path / "bank")
    with pytest.raises(FileNotFoundError, match=r"expected a bank at .*nowhere"):
        Bank.open(tmp_path / "nowhere")


def test_the_learner_lies_apart_and_may_be_thrown_away(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    with pytest.raises(FileNotFoundError, match="expected the state of a learner"):
        bank.learner()
    shared = torch.arange(6.0)
    state = {
        "scores": {"a/b": shared, "a": {"b": shared[2:]}, "~": torch.tensor(3, dtype=torch.int64)},
        "finished": ["x", ("y", None)],
        "empty": {},
        "rate": 0.1,
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    bank.commit({}, sites, learner=state)
    found = Bank.open(tmp_path / "bank").learner()
    assert list(found) == list(state)
    assert (found["finished"], found["empty"], found["rate"]) == (["x", ["y", None]], {}, 0.1)
    assert torch.equal(found["scores"]["a/b"], shared)
    assert torch.equal(found["scores"]["a"]["b"], shared[2:])
    assert found["scores"]["~"].dtype == torch.int64
    assert bank.sizes()["learner"] > 0
    with pytest.raises(TypeError, match="with string keys at '/state', found dict"):
        bank.commit({}, sites, learner={"state": {0: 1}})
    bank.commit({"a": record(sites, "a")}, sites)
    assert bank.sizes()["learner"] == 0


def test_equal_runs_give_equal_files(tmp_path: Path) -> None:
    filled(tmp_path / "first")
    for again in range(5):
        filled(tmp_path / str(again))
        assert on_disk(tmp_path / "first") == on_disk(tmp_path / str(again))


def test_options_that_are_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected options of names, numbers"):
        make(tmp_path / "bank", options={"loss": torch.zeros(1)})


ALONE = """
import sys
from importlib.machinery import PathFinder

class Blocked(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.startswith(("polymask.method", "polymask.learning", "polymask.cli", "torchvision")):
            raise ImportError(f"{name} is blocked")
        return None

sys.meta_path.insert(0, Blocked)
import pickle
import torch
torch.set_num_threads(1)
torch.load = pickle.load = pickle.loads = pickle.Unpickler = None
from polymask import Bank
bank = Bank.open(sys.argv[1])
print(bank.verify())
for task in bank.tasks:
    with torch.no_grad():
        out = bank.plain(task)(torch.linspace(-2, 2, 24).view(2, 12))
    print(task, out.double().flatten().tolist())
assert not any(name.startswith("polymask.method") for name in sys.modules)
"""


def test_a_fresh_process_answers_without_any_method(tmp_path: Path) -> None:
    bank = filled(tmp_path / "bank")
    command = [sys.executable, "-c", ALONE, str(tmp_path / "bank")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[:4] == [f"task {task!r}: ok, bit-equal" for task in bank.tasks] + ["verified: nothing was forgotten"]
    for line, task in zip(said[4:], bank.tasks, strict=True):
        assert line == f"{task} {logits(bank.plain(task)).double().flatten().tolist()}"
