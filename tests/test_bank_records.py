"""Records in a bank: planes of owners that nested masks share, revisions, what is refused, what is removed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.banks import WEIGHTS, answer, filled, flat, logits, make, nested, on_disk, record, same_record
from torch import Tensor

from polymask.bank.bank import Bank
from polymask.parts.pack import pack_owners, unpack
from polymask.task import Meta


def test_owners_of_nested_tasks_are_one_plane(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    answers: dict[str, Tensor] = {}
    entries: list[object] = []
    for one in nested(sites, 5):
        bank.commit({one.meta.task: one}, sites)
        answers[one.meta.task] = answer(sites, one)
        assert bank.about["records"][:-1] == entries
        entries = bank.about["records"]
        bits = len(answers).bit_length()
        planes = sum(-(-sites.tensor(name).numel() * bits // 8) for name in WEIGHTS)
        file = tmp_path / "bank" / f"{bank.about['owners']['file']}.safetensors"
        assert planes < file.stat().st_size < planes + 200
        assert flat(bank.sizes()) == sum(map(len, on_disk(tmp_path / "bank").values()))
    again = Bank.open(tmp_path / "bank")
    for task, was in answers.items():
        assert torch.equal(logits(again.plain(task)), was)
        assert again.record(task).masks[WEIGHTS[0]].bits == 3
    assert again.verify().ok


def test_all_records_on_the_newest_plane_say_the_same_record(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    old, new = nested(sites, 2)
    bank.commit({"task 1": old}, sites)
    again = replace(old, masks={name: replace(plane, level=1) for name, plane in new.masks.items()})
    bank.commit({"task 1": again, "task 2": new}, sites)
    other, _ = make(tmp_path / "other", sites)
    other.commit({"task 1": again, "task 2": new}, sites)
    assert bank.about["records"] == other.about["records"]
    assert bank.verify().ok


def test_a_plane_that_changes_an_older_mask_is_refused(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    shape = sites.tensor(WEIGHTS[0]).shape
    codes = torch.randint(0, 3, shape, dtype=torch.uint8)
    one = record(sites, "a", masks={WEIGHTS[0]: pack_owners(codes, 1, 2)})
    bank.commit({"a": one, "b": record(sites, "b", masks={WEIGHTS[0]: pack_owners(codes, 2, 2)})}, sites)
    moved = codes.clone()
    moved.view(-1)[int((codes == 1).flatten().nonzero()[0])] = 2
    before = on_disk(tmp_path / "bank")
    with pytest.raises(ValueError, match=r"leave the mask of task 'a' \(codes 1 to 1\) as it was"):
        bank.commit({"c": record(sites, "c", masks={WEIGHTS[0]: pack_owners(moved, 3, 3)})}, sites)
    assert before.items() <= on_disk(tmp_path / "bank").items()
    free = torch.where(codes == 0, 3, codes)
    bank.commit({"c": record(sites, "c", masks={WEIGHTS[0]: pack_owners(free.to(torch.uint8), 3, 3)})}, sites)
    assert torch.equal(unpack(bank.record("a").masks[WEIGHTS[0]]), codes == 1)
    assert len(on_disk(tmp_path / "bank")) == len(before) + 3


def test_a_record_is_reissued_under_a_higher_revision(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    bank.commit({"a": record(sites, "a", 3), "b": record(sites, "b", 2)}, sites)
    before = bank.about["records"]
    new = replace(record(sites, "a", 4), meta=Meta("a", "by hand", 4, True))
    with pytest.raises(ValueError, match="expected task 'a' as it is in the bank"):
        bank.commit({"a": new}, sites)
    new = replace(new, meta=replace(new.meta, revision=1, reason="a class more"))
    bank.commit({"a": new}, sites)
    assert bank.tasks == ("a", "b")
    assert same_record(Bank.open(tmp_path / "bank").record("a"), new)
    assert bank.about["records"][1] == before[1]
    assert bank.about["records"][0]["digest"] != before[0]["digest"]


def test_a_record_must_read_the_base_it_is_committed_with(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    one = record(sites, "a")
    sites.write(WEIGHTS[0], sites.base(WEIGHTS[0]) + 1)
    with pytest.raises(
        ValueError, match=r"expected tensor 'body.1.weight', as task 'a' reads it, .* has changed since"
    ):
        bank.commit({"a": one}, sites)
    bank.commit({"a": replace(one, meta=replace(one.meta, exact=None))}, sites)
    with pytest.raises(ValueError, match="under the name of its task, found 'b' of task 'a'"):
        bank.commit({"b": one}, sites)
    wide = replace(one, private={"head.bias": torch.zeros(5, dtype=torch.float64)})
    with pytest.raises(ValueError, match=r"the private 'head.bias' of task 'a' to be torch.float32"):
        bank.commit({"a": replace(wide, meta=replace(one.meta, revision=1))}, sites)


def test_nothing_is_committed_while_a_task_is_open(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    one = record(sites, "a")
    sites.open_gate(WEIGHTS[0], None)
    with pytest.raises(RuntimeError, match=r"expected no open task, found 'body.1.weight' in training"):
        bank.commit({"a": one}, sites)


def test_adding_a_task_touches_no_other_tasks_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, sites = make(tmp_path / "bank")
    bank.commit({f"task {k}": record(sites, f"task {k}") for k in range(4)}, sites)
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "bank").iterdir()}
    held = bank.outline["held"]
    opened: list[str] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self.name) or read(self))
    bank.commit({"new": record(sites, "new")}, sites)
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "bank").iterdir()}
    assert {name for name in after if after[name] != before.get(name)} - before.keys() == after.keys() - before.keys()
    assert [name for name in before if name in after and after[name] != before[name]] == ["bank.json"]
    assert before.keys() - after.keys() == {f"{held}.safetensors"}  # what all tasks read, in one file
    assert len(after) == len(before) + 3
    assert opened == ["bank.json"]


def test_a_task_is_removed_and_the_others_stay_as_they_are(tmp_path: Path) -> None:
    bank = filled(tmp_path / "bank")
    before, files = bank.about["records"], on_disk(tmp_path / "bank")
    bank.remove("b")
    again = Bank.open(tmp_path / "bank")
    assert again.tasks == ("a", "c")
    assert again.about["records"] == [before[0], before[2]]
    assert again.verify().ok
    assert flat(again.sizes()) == sum(map(len, on_disk(tmp_path / "bank").values()))
    assert len(on_disk(tmp_path / "bank")) == len(files) - 4
    with pytest.raises(KeyError, match="expected one of the tasks 'a', 'c', found 'b'"):
        again.remove("b")
