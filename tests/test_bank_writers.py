"""Several handles on one bank: one writes at a time, none overwrites, older ones answer to the bit or say why not."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.banks import EXAMPLE, WEIGHTS, answer, attached, filled, logits, make, nested, on_disk, record
from torch import Tensor

from polymask import lock
from polymask.bank import bank as module
from polymask.bank import store
from polymask.bank.bank import Bank


def two_at_once(write: Callable[[str], None]) -> list[BaseException | None]:
    """Call for "one" and "two" in two threads at the same moment; what each raised."""
    found: dict[str, BaseException | None] = {}
    barrier = threading.Barrier(2)

    def run(name: str) -> None:
        barrier.wait()
        try:
            write(name)
            found[name] = None
        except Exception as error:  # noqa: BLE001 - it is looked at
            found[name] = error

    threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found["one"], found["two"]]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing takes so long that two commits meet."""
    write = store.write_file
    monkeypatch.setattr("polymask.bank.head.write_file", lambda *args: time.sleep(0.2) or write(*args))


def commits(path: Path) -> list[BaseException | None]:
    """Two writers, each with a handle, a network and a task of its own."""
    handles = {name: (Bank.open(path), attached()) for name in ("one", "two")}
    return two_at_once(lambda name: handles[name][0].commit({name: record(handles[name][1], name)}, handles[name][1]))


@pytest.mark.usefixtures("slow")
def test_of_two_writers_at_once_one_is_told_to_open_again(tmp_path: Path) -> None:
    make(tmp_path / "bank")
    failed = [error for error in commits(tmp_path / "bank") if error is not None]
    assert [type(error) for error in failed] == [RuntimeError]
    assert "found a later commit: open it again first" in str(failed[0])
    bank = Bank.open(tmp_path / "bank")
    assert len(bank.tasks) == 1
    assert bank.verify().ok


def test_without_the_lock_one_of_them_would_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: what the test above sees. One has looked and is about to commit while the other does all of it."""

    @contextmanager
    def free(path: Path) -> Iterator[None]:
        yield

    def meanwhile(*args: Any) -> None:
        monkeypatch.setattr("polymask.bank.head.write_file", store.write_file)
        late.commit({"two": record(other, "two")}, other)
        assert Bank.open(tmp_path / "bank").tasks == ("two",)
        store.write_file(*args)

    make(tmp_path / "bank")
    bank, late, sites, other = *(Bank.open(tmp_path / "bank") for _ in range(2)), attached(), attached()
    monkeypatch.setattr(module, "writing", free)
    monkeypatch.setattr("polymask.bank.head.write_file", meanwhile)
    bank.commit({"one": record(sites, "one")}, sites)  # nobody is told of the other
    assert Bank.open(tmp_path / "bank").tasks == ("one",)


@pytest.mark.usefixtures("slow")
def test_of_two_that_create_at_once_one_finds_a_bank(tmp_path: Path) -> None:
    failed = [error for error in two_at_once(lambda _: make(tmp_path / "bank") and None) if error is not None]
    assert [type(error) for error in failed] == [FileExistsError]
    assert Bank.open(tmp_path / "bank").verify().ok


def hold(path: Path, told: Any) -> None:
    """Take a bank's lock, say so, and never let go."""
    with lock.writing(path):
        told.send(True)
        time.sleep(60)


def test_a_lock_is_waited_for_and_dies_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, sites = make(tmp_path / "bank")
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=hold, args=(bank.path, there))
    process.start()
    here.recv()
    monkeypatch.setattr(lock, "WAIT", 0.1)
    for write in (lambda: bank.commit({}, sites), lambda: bank.remove("a"), bank.sweep):
        with pytest.raises(RuntimeError, match="found another process writing: try again later"):
            write()
    process.kill()
    process.join()
    bank.commit({"a": record(sites, "a")}, sites)
    assert bank.tasks == ("a",)


def test_a_lock_is_neither_counted_nor_swept(tmp_path: Path) -> None:
    bank, _ = make(tmp_path / "bank")
    bank.sweep()
    assert (bank.path / lock.LOCK).stat().st_size == 0


@pytest.mark.skipif(os.name == "nt", reason="a link there needs a right of its own")
@pytest.mark.parametrize("name", [".lock", ".bank.json.tmp"])
def test_nothing_is_written_through_a_link(tmp_path: Path, name: str) -> None:
    bank, sites = make(tmp_path / "bank")
    (tmp_path / "mine.txt").write_text("mine")
    (bank.path / name).unlink(missing_ok=True)
    (bank.path / name).symlink_to(tmp_path / "mine.txt")
    if name == ".lock":
        with pytest.raises(OSError, match="expected to take the lock"):
            bank.commit({"a": record(sites, "a")}, sites)
    else:
        bank.commit({"a": record(sites, "a")}, sites)
        assert Bank.open(bank.path).verify().ok
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_no_file_is_written_through_a_link(tmp_path: Path) -> None:
    digest = store.digest_of({"a": torch.ones(2)})
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / f".{digest}.safetensors.tmp").symlink_to(tmp_path / "mine.txt")
    store.write_tensors(tmp_path, {"a": torch.ones(2)})
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert torch.equal(store.read_tensors(tmp_path, digest)["a"], torch.ones(2))


def test_an_older_handle_answers_to_the_bit(tmp_path: Path) -> None:
    """Base and planes of owners are swept by each later commit."""
    bank, sites = make(tmp_path / "bank")
    records = nested(sites, 4)
    first = next(records)
    bank.commit({"task 1": first}, sites)
    was, handles = answer(sites, first), [Bank.open(bank.path) for _ in range(3)]
    for one in records:
        bank.commit({one.meta.task: one}, sites)
        answer(sites, one)
    assert torch.equal(logits(handles[0].plain("task 1")), was)
    assert torch.equal(logits(handles[0].plain("task 1")), was)
    other = handles[1].model()
    handles[1].activate(other, "task 1")
    assert torch.equal(logits(other.model), was)
    assert handles[2].record("task 1").masks[WEIGHTS[0]].level == 1
    for handle in handles:
        assert handle.tasks == ("task 1",)
        with pytest.raises(RuntimeError, match="found a later commit: open it again first"):
            handle.commit({}, sites)
        assert handle.verify().ok


@pytest.mark.parametrize("change", ["removed", "reissued", "moved"])
def test_an_older_handle_says_what_it_cannot_answer(tmp_path: Path, change: str) -> None:
    bank, sites = make(tmp_path / "bank")
    exact = None if change == "moved" else True
    bank.commit({"a": record(sites, "a", 3, exact=exact), "b": record(sites, "b", exact=exact)}, sites)
    old = Bank.open(bank.path)
    if change == "removed":
        bank.remove("a")
    elif change == "reissued":
        bank.commit({"a": record(sites, "a", 4, revision=1, reason="a class more")}, sites)
    else:
        sites.write(WEIGHTS[0], sites.base(WEIGHTS[0]) + 1)
        bank.commit({}, sites)
    for read in (lambda: old.plain("a"), lambda: old.activate(old.model(), "a")):
        with pytest.raises(RuntimeError, match="a later commit changed this bank: open it again"):
            read()
    if change != "moved":
        assert len(logits(old.plain("b")))


def test_what_is_left_of_a_learner_is_that_of_the_last_commit(tmp_path: Path) -> None:
    filled(tmp_path / "bank")
    old, new = Bank.open(tmp_path / "bank"), Bank.open(tmp_path / "bank")
    new.commit({}, new.model(), learner={"step": 4})
    with pytest.raises(RuntimeError, match="a later commit changed this bank: open it again"):
        old.learner()


def test_a_file_that_is_lost_is_no_later_commit(tmp_path: Path) -> None:
    bank = filled(tmp_path / "bank")
    (bank.path / f"{bank.outline['base']['digest']}.safetensors").unlink()
    with pytest.raises(store.DamagedBank, match="found none"):
        bank.plain("a")


def test_a_reader_that_meets_a_commit_takes_the_newest(tmp_path: Path) -> None:
    """The json is read before the commit, the base after it."""
    bank, sites = make(tmp_path / "bank")
    was: dict[str, Tensor] = {}
    handles: list[Bank] = []
    for one in nested(sites, 3):
        handles.append(Bank.open(bank.path))
        bank.commit({one.meta.task: one}, sites)
        was[one.meta.task] = answer(sites, one)
    assert torch.equal(logits(Bank.open(bank.path).plain("task 1"), EXAMPLE), was["task 1"])
    assert handles[1].tasks == ("task 1",)
    assert torch.equal(logits(handles[1].plain("task 1")), was["task 1"])
    assert len(on_disk(bank.path)) == len(store_files(bank))


def store_files(bank: Bank) -> set[str]:
    """All that a bank refers to, and its json."""
    said = bank.about
    names = {said["base"]["digest"], said["held"], said["owners"]["file"], "bank"}
    for entry in said["records"]:
        names |= {entry["file"], entry["tensors"], entry["probe"]["logits"]}
    return names
