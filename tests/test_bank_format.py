"""What the files say: format 1 still opens, records are found by task, one damaged entry stops no other task."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tests.banks import WEIGHTS, answer, filled, flat, logits, make, nested, on_disk, record
from tests.contract import drive
from tests.contract.toys import Anchored
from torch import nn

from polymask.bank import store
from polymask.bank.bank import Bank
from polymask.bank.entry import to_entry
from polymask.builder import Builder
from polymask.held import bool_of, find_altered, proof
from polymask.method.learner import without_base
from polymask.methods.baselines import Finetune
from polymask.parts.pack import unpack
from polymask.sites.table import BASE, Role, attach
from polymask.task import Meta, TaskRecord, reads

GOLDEN = Path(__file__).parent / "golden"
X = torch.linspace(-1, 1, 12).view(2, 6)


@pytest.mark.parametrize("method", ["packnet", "hat"])
def test_a_bank_of_format_1_answers_and_is_upgraded_by_a_commit(tmp_path: Path, method: str) -> None:
    path = shutil.copytree(GOLDEN / method, tmp_path / method)
    expected = {task: torch.tensor(rows) for task, rows in json.loads((GOLDEN / f"{method}.json").read_text()).items()}
    before, bank = on_disk(path), Bank.open(path)
    assert bank.tasks == ("a", "b")
    for _ in range(2):
        for task, was in expected.items():
            torch.testing.assert_close(logits(bank.plain(task), X), was)
        assert bank.verify().ok, str(bank.verify())
        sites = bank.model()
        assert bank.held().keys() == set(sites.names(*BASE))
        assert not find_altered(bank.held(), sites, proof)
        if json.loads((path / "bank.json").read_text())["format"] == 1:
            assert on_disk(path) == before  # reading changes nothing
            bank.commit({}, sites, learner=bank.learner())
            bank = Bank.open(path)
    said = json.loads((path / "bank.json").read_text())
    assert said["format"] == 2
    assert [(line["task"], line["place"]) for line in said["bank"]["records"]] == [("a", 1), ("b", 2)]
    assert said["bank"]["removed"] == []
    assert flat(bank.sizes()) == sum(map(len, on_disk(path).values()))
    bank.remove("a")
    assert Bank.open(path).tasks == ("b",)


def test_a_bank_of_format_1_is_compared_before_its_first_commit(tmp_path: Path) -> None:
    bank = Bank.open(shutil.copytree(GOLDEN / "packnet", tmp_path / "bank"))
    sites = bank.model()
    sites.write("body.1.weight", sites.base("body.1.weight") + 1)
    with pytest.raises(RuntimeError, match=r"'body.1.weight' .* read by tasks 'a', 'b'"):
        bank.commit({}, sites)
    assert json.loads((bank.path / "bank.json").read_text())["format"] == 1


def test_opening_reads_the_json_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "bank")
    opened: list[str] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self.name) or read(self))
    bank = Bank.open(tmp_path / "bank")
    assert (bank.tasks, bank.removed, bank.outline["method"]) == (("a", "b", "c"), (), "by hand")
    assert opened == ["bank.json"]
    bank.plain("c")
    entries = [name for name in opened[1:] if name.endswith(".json")]
    assert entries == [f"{bank.outline['records'][2]['entry']}.json"]


def test_one_damaged_entry_stops_no_other_task(tmp_path: Path) -> None:
    bank = filled(tmp_path / "bank")
    was = {task: logits(bank.plain(task)) for task in bank.tasks}
    file = store.entry_path(bank.path, bank.outline["records"][0]["entry"])
    file.write_text("[" * 100_000)
    bank, sites = Bank.open(bank.path), bank.model()
    for task in "bc":
        assert torch.equal(logits(bank.plain(task)), was[task])
    with pytest.raises(store.DamagedBank, match=file.name):
        bank.record("a")
    assert [task for task, found in bank.verify().tasks.items() if not found.ok] == ["a"]
    assert file.name in str(bank.verify())
    before = on_disk(bank.path)
    bank.sweep()
    assert on_disk(bank.path) == before
    bank.remove("a")
    bank.sweep()
    assert bank.tasks == ("b", "c")
    assert bank.verify().ok
    assert flat(bank.sizes()) == sum(map(len, on_disk(bank.path).values()))
    bank.commit({"d": record(sites, "d")}, sites)


def test_nothing_is_swept_while_an_entry_cannot_be_read(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    bank.commit({task: record(sites, task) for task in "abc"}, sites)
    file = store.entry_path(bank.path, bank.outline["records"][0]["entry"])
    data = file.read_bytes()
    file.write_bytes(b"{")
    Bank.open(bank.path).remove("b")
    file.write_bytes(data)
    bank = Bank.open(bank.path)
    assert bank.verify().ok
    assert not find_altered(bank.held(), sites, proof)
    bank.sweep()
    assert flat(bank.sizes()) == sum(map(len, on_disk(bank.path).values()))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": 2, "bank": ' + "[" * 100_000])
def test_a_json_nested_too_deeply_is_damage(tmp_path: Path, text: str) -> None:
    bank = filled(tmp_path / "bank")
    (bank.path / "bank.json").write_text(text)
    with pytest.raises(store.DamagedBank, match="cut short or changed"):
        Bank.open(bank.path)
    assert "bank: expected" in str(bank.verify())


def test_meta_data_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match="nested too deeply: make it flatter"):
        make(tmp_path / "other", options={"deep": deep})
    one = record(sites, "a")
    with pytest.raises(ValueError, match="nested too deeply"):
        bank.commit({"a": replace(one, meta=replace(one.meta, inputs={"deep": deep}))}, sites)
    assert bank.tasks == ()


def test_names_are_any_text(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    names = ["", "a/b", "..", "\x00", "täsk ✓", "🦜", " ", "bank.json", "a" * 500]
    bank.commit({name: record(sites, name) for name in names}, sites)
    again = Bank.open(bank.path)
    assert again.tasks == tuple(names)
    assert all(again.record(name).meta.task == name for name in names)
    again.remove("")
    assert Bank.open(bank.path).removed == ("",)
    for name in ("\ud800", "b\udfff"):
        with pytest.raises(ValueError, match=r"expected a task's name that is text, found '.*\\ud.*lone surrogate"):
            again.commit({name: replace(record(sites, "a"), meta=Meta(name, "by hand", 3, True))}, again.model())
    assert Bank.open(bank.path).verify().ok


def test_places_are_never_given_twice(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")

    def places() -> dict[str, int]:
        return {line["task"]: line["place"] for line in Bank.open(bank.path).outline["records"]}

    bank.commit({task: record(sites, task) for task in "abc"}, sites)
    bank.remove("c")
    bank.remove("a")
    assert (places(), bank.removed) == ({"b": 2}, ("c", "a"))
    bank.commit({"d": record(sites, "d")}, sites)
    assert places() == {"b": 2, "d": 4}
    bank = Bank.open(bank.path)
    bank.commit({"c": record(sites, "c")}, sites)
    assert (places(), bank.removed, bank.tasks) == ({"b": 2, "d": 4, "c": 5}, ("a",), ("b", "d", "c"))
    assert bank.verify().ok


def test_a_removed_record_does_not_come_back_by_itself(tmp_path: Path) -> None:
    """Who commits all records each time still has it."""
    bank, sites = make(tmp_path / "bank")
    records = {task: record(sites, task) for task in "ab"}
    bank.commit(records, sites)
    bank.remove("a")
    bank.commit({**records, "c": record(sites, "c")}, sites)
    assert bank.tasks == ("b", "c")
    bank.commit({"a": record(sites, "a")}, sites)  # learned again
    assert bank.tasks == ("b", "c", "a")


def test_a_removed_task_leaves_planes_and_other_tasks_as_they_are(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    was = {}
    for one in nested(sites, 4):
        bank.commit({one.meta.task: one}, sites)
        was[one.meta.task] = answer(sites, one)
    bank.commit({}, sites, learner={"finished": list(was)})
    held = {name: bool_of(part) for name, part in bank.held().items()}
    for task in ("task 4", "task 2"):
        files = on_disk(bank.path)
        bank.remove(task)
        del was[task]
        assert len(on_disk(bank.path)) == len(files) - 3
        assert flat(bank.sizes()) == sum(map(len, on_disk(bank.path).values()))
        for handle in (bank, Bank.open(bank.path)):
            assert all(torch.equal(logits(handle.plain(other)), before) for other, before in was.items())
            assert handle.verify().ok
    left = unpack(bank.record("task 3").masks[WEIGHTS[0]])
    assert torch.equal(bool_of(bank.held()[WEIGHTS[0]]), left)  # masks are nested
    assert held[WEIGHTS[0]].sum() > left.sum()
    assert bank.learner()["finished"] == ["task 1", "task 2", "task 3", "task 4"]
    for task in list(was):
        bank.remove(task)
    assert (bank.tasks, bank.held(), bank.outline["held"], bank.outline["owners"]["file"]) == ((), {}, None, None)


def test_a_commit_lists_no_folder_and_looks_at_known_records_once(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    records = {task: record(sites, task) for task in "abc"}
    bank.commit(records, sites)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "iterdir", lambda self: pytest.fail("lists the folder"))
        looked: list[str] = []
        patch.setattr("polymask.bank.commit.to_entry", lambda one: looked.append(one.meta.task) or to_entry(one))
        records["d"] = record(sites, "d")
        bank.commit(records, sites)
    assert looked == ["d"]
    again = Bank.open(bank.path)
    loaded = {task: again.record(task) for task in again.tasks}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("polymask.bank.commit.to_entry", lambda one: pytest.fail("known from this handle"))
        again.commit(loaded, sites)


def test_who_goes_on_from_all_records_tidies_up_once(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    bank.commit({"a": record(sites, "a")}, sites)
    stale = bank.path / ("f" * 32 + ".safetensors")
    stale.write_text("left by a process that died")
    bank.commit({"b": record(sites, "b")}, sites)
    assert stale.exists()
    again = Bank.open(bank.path)
    records = {task: again.record(task) for task in again.tasks}
    again.commit(records, sites)
    assert not stale.exists()


def reissued(sites: Any, task: str, revision: int, by: float, exact: Any = 0.5) -> TaskRecord:
    """A record whose head moved."""
    one = record(sites, task, exact=exact, revision=revision, reason="a better head" if revision else "")
    return replace(one, private={**one.private, "head.bias": one.private["head.bias"] + by})


@pytest.mark.parametrize(
    ("exact", "ok", "by"), [(None, True, 0.25), (0.5, True, 0.25), (0.1, False, 0.25), (True, False, 0.25)]
)
def test_a_reissued_record_is_compared_with_what_was_learned(tmp_path: Path, exact: Any, ok: bool, by: float) -> None:
    bank, sites = make(tmp_path / "bank")
    bank.commit({"a": reissued(sites, "a", 0, 0, exact), "b": record(sites, "b")}, sites)
    for revision in (1, 2):
        bank = Bank.open(bank.path)
        bank.commit({"a": reissued(sites, "a", revision, revision * by / 2, exact)}, sites)
    found = Bank.open(bank.path).verify()
    assert found.ok is ok
    # What may forget is compared with what was learned alone.
    assert found.tasks["a"].behaviour == ("compared with when it was learned" if exact is None else "bit-equal")
    again = Bank.open(bank.path)
    assert {*again.probe_logits()} == {*again.probe_settings()} == {"a", "b"}
    assert "changed by 2.5e-1 since it was learned (revision 2: a better head)" in str(found)
    assert "nothing was forgotten" not in str(found)
    assert flat(bank.sizes()) == sum(map(len, on_disk(bank.path).values()))
    bank.remove("a")
    assert str(bank.verify()).endswith("nothing was forgotten")


def test_a_record_that_is_reissued_to_the_same_answers_has_not_changed(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    bank.commit({"a": reissued(sites, "a", 0, 0, True)}, sites)
    bank.commit({"a": reissued(sites, "a", 1, 0, True)}, sites)
    assert str(bank.verify()).splitlines() == ["task 'a': ok, bit-equal", "verified: nothing was forgotten"]


def test_records_are_reissued_before_and_after_a_bank_is_opened_again(tmp_path: Path) -> None:
    method, _ = drive.make(Anchored, "mlp_bn")
    todo = drive.tasks(method.example, 4)
    builder = Builder("tests.contract.zoo:network", {"name": "mlp_bn"})
    bank = Bank.create(tmp_path / "bank", method.sites, method="x", builder=builder, example=method.example)
    drive.learn(method, todo[:1], drive.adamw())
    bank.commit(method.records, method.sites, without_base(method.state_dict()))
    for count, task in enumerate(todo[1:], 1):
        drive.learn(method, [task], drive.adamw())
        bank.commit(method.records, method.sites, without_base(method.state_dict()))
        bank = Bank.open(tmp_path / "bank")
        assert [bank.record(name).meta.revision for name in bank.tasks] == [*range(count, 0, -1), 0]
        sites, state = bank.model(), bank.learner()
        state["tensors"] = {name: sites.base(name) for name in sites.names(*BASE)}
        method, _ = drive.make(Anchored, "mlp_bn")
        method.load_state_dict(state, {name: bank.record(name) for name in bank.tasks})
    assert bank.verify().ok
    assert "since it was learned (revision 3: the shared weights moved)" in str(bank.verify())
    one = bank.record("a")
    again = replace(one, deltas={}, meta=replace(one.meta, revision=0))
    with pytest.raises(ValueError, match="another record of revision 0: a reissued record has a higher revision"):
        bank.commit({"a": again}, method.sites)


class Reopening(Finetune):
    """A method under which a finished name may begin again."""

    reopens = True


def test_a_task_that_is_learned_again_and_again_is_revised_each_time(tmp_path: Path) -> None:
    method, todo = drive.make(Reopening, "mlp_bn")
    builder = Builder("tests.contract.zoo:network", {"name": "mlp_bn"})
    bank = Bank.create(tmp_path / "bank", method.sites, method="x", builder=builder, example=method.example)
    for revision in range(3):
        drive.learn(method, todo[:1], drive.adamw())
        assert method.record("a").meta.revision == revision
        bank.commit(method.records, method.sites, without_base(method.state_dict()))
        bank = Bank.open(bank.path)
    assert bank.tasks == ("a",)
    assert "since it was learned (revision 2: learned again)" in str(bank.verify())


class EightIsTooMany(nn.Module):
    """A network that takes the rows that it knows, as one of graphs does."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.mix = nn.Linear(4, 2), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rows mixed."""
        found: torch.Tensor = self.head(self.mix(x.T).T)
        return found


def test_a_network_of_a_fixed_batch_is_asked_with_the_examples_own(tmp_path: Path) -> None:
    model = EightIsTooMany()
    sites = attach(model, {name: Role("frozen", "") for name, _ in model.named_parameters()})
    bank, _ = make(tmp_path / "bank", sites, builder=None, example=torch.zeros(3, 4))
    assert bank.outline["probe"]["rows"] == "own"
    one = TaskRecord({}, {}, {}, reads(sites, {}), Meta("a", "by hand", 2, True))
    bank.commit({"a": one}, sites)
    assert bank.probe_logits()["a"].shape == (3, 2)
    assert len(bank.probe_logits()["a"].unique()) > 2  # an example of zeros draws more than zeros
    assert bank.verify(model_like(model)).ok
    with pytest.raises(ValueError, match=r"refuses .*give a batch that it takes as probe="):
        make(tmp_path / "other", sites, builder=None, example=torch.zeros(5, 4))
    assert not (tmp_path / "other").exists()


def model_like(model: nn.Module) -> nn.Module:
    """The network, plain."""
    plain = EightIsTooMany()
    plain.load_state_dict(model.state_dict())
    return plain


def test_what_is_held_is_read_without_polymask(tmp_path: Path) -> None:
    """By the page on the format, and NumPy."""
    bank, sites = make(tmp_path / "bank")
    bank.commit({task: record(sites, task) for task in "ab"}, sites)
    said = json.loads((bank.path / "bank.json").read_text())["bank"]
    own = load_file(bank.path / f"{said['held']}.safetensors")
    base = load_file(bank.path / f"{said['base']['digest']}.safetensors")
    parts = json.loads(own["json"].tobytes())["read"]
    assert parts.keys() == base.keys()
    for name, part in parts.items():
        bits = own.get(f"/read/{name}/bits")
        read = True if bits is None else np.unpackbits(bits, count=base[name].size, bitorder="little").astype(bool)
        shape = tuple(part["shape"])
        masks = [unpack(bank.record(task).masks[name]).numpy() for task in "ab" if name in WEIGHTS]
        held = np.broadcast_to(read, base[name].size).reshape(shape)
        assert np.array_equal(held, np.any(masks, 0) if masks else np.ones(shape, bool))
        found = hashlib.blake2b(f"{part['dtype']}{shape}".encode(), digest_size=16)
        found.update(np.where(held, base[name], 0).tobytes())
        assert found.hexdigest() == part["digest"]


def test_the_format_is_the_first_thing_that_is_said(tmp_path: Path) -> None:
    """An older polymask reads it and refuses; a line a record is what a person reads."""
    bank = filled(tmp_path / "bank")
    text = (bank.path / "bank.json").read_text()
    assert text.startswith('{"format": 3, "hash": "')
    lines = [line.rstrip(",") for line in text.splitlines() if line.startswith('{"task"')]
    assert [json.loads(line)["task"] for line in lines] == ["a", "b", "c"]
