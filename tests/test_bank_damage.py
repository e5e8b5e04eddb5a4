"""What can happen to files: flipped, cut, missing, newer, a full disk, a process that dies; nothing passes unseen."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.banks import filled, make, on_disk, record
from torch import Tensor

from polymask.bank import head, store
from polymask.bank.bank import Bank


def whole(path: Path) -> bool:
    """Whether a bank opens and verifies; a failure must be a ValueError (DamagedBank is one), never another error."""
    try:
        return Bank.open(path).verify().ok
    except ValueError:
        return False


def flipped(file: Path, place: int, bits: int) -> bytes:
    """Flip bits of a byte; the bytes as they were."""
    data = file.read_bytes()
    file.write_bytes(data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :])
    return data


def test_a_flipped_byte_in_any_file_is_found(tmp_path: Path) -> None:
    filled(tmp_path / "bank")
    files = [tmp_path / "bank" / name for name in on_disk(tmp_path / "bank")]
    # Json, base, three entries, three records, planes, learner, held, probe and three times logits.
    assert len(files) == 15
    assert whole(tmp_path / "bank")
    for file in files:
        size = file.stat().st_size
        for place in (0, 9, size // 2, size - 1):
            data = flipped(file, place, 0x01)
            assert not whole(tmp_path / "bank"), f"byte {place} of {file.name}"
            file.write_bytes(data)
    assert whole(tmp_path / "bank")


@pytest.mark.parametrize("bits", [0x01, 0xFF])
def test_no_byte_of_a_file_is_unguarded(tmp_path: Path, bits: int) -> None:
    tensors = {"a": torch.arange(5, dtype=torch.int16), "b": torch.ones(2, 2, dtype=torch.bool), "c": torch.zeros(0, 3)}
    digest = store.write_tensors(tmp_path, tensors)
    file = store.path_of(tmp_path, digest)
    head.write_json(tmp_path / store.COMMIT, '{"tasks": ["a"], "size": 0.5}', 1)
    for path, read in (
        (file, lambda: store.read_tensors(tmp_path, digest)),
        (tmp_path / store.COMMIT, lambda: head.read_json(tmp_path / store.COMMIT, 1)),
    ):
        for place in range(path.stat().st_size):
            data = flipped(path, place, bits)
            with pytest.raises(ValueError, match=r"restore it from a copy|format 1 or older"):
                read()
            path.write_bytes(data)
        read()


def test_failures_name_the_task_the_file_and_the_way_out(tmp_path: Path) -> None:
    bank = filled(tmp_path / "bank")
    entry = bank.about["records"][0]
    file = store.path_of(tmp_path / "bank", entry["tensors"])
    data = file.read_bytes()
    for bad, message in ((data[:-5], "cut short or changed"), (data[:-1] + b"\xfe", "expected content"), (b"", "cut")):
        file.write_bytes(bad)
        with pytest.raises(store.DamagedBank, match=f"{message}.*restore it from a copy") as failure:
            bank.record("a")
        assert file.name in str(failure.value)
        found = bank.verify()
        assert [task for task, proof in found.tasks.items() if not proof.ok] == ["a"]
        assert "task 'a': NOT OK, not compared" in str(found)
        assert str(found).endswith("NOT verified")
    file.unlink()
    with pytest.raises(store.DamagedBank, match=r"found none: if the bank was written to since you opened it, open it"):
        bank.record("a")


def test_a_damaged_base_is_reported_and_records_are_still_checked(tmp_path: Path) -> None:
    bank = filled(tmp_path / "bank")
    base = store.path_of(tmp_path / "bank", bank.about["base"]["digest"])
    flipped(base, base.stat().st_size - 1, 1)
    found = bank.verify()
    assert base.name in found.failures[0]
    assert all(proof.ok and "base is damaged" in proof.notes[0] for proof in found.tasks.values())
    with pytest.raises(store.DamagedBank):
        bank.plain("a")


def test_a_newer_format_is_refused_in_its_own_words(tmp_path: Path) -> None:
    filled(tmp_path / "bank")
    file = tmp_path / "bank" / "bank.json"
    text = json.loads(file.read_text())
    file.write_text(json.dumps({**text, "format": 4, "bank": {"quite": "another"}}))
    with pytest.raises(ValueError, match=r"expected a bank of format 3 or older .*found 4: update polymask") as failure:
        Bank.open(tmp_path / "bank")
    assert not isinstance(failure.value, store.DamagedBank)
    for text in ("", "{", "[]", '{"format": 1}', '{"format": "1", "bank": {}}', '{"format": 1, "bank": []}'):
        file.write_text(text)
        with pytest.raises(store.DamagedBank, match="cut short or changed"):
            Bank.open(tmp_path / "bank")


class Fuse:
    """Lets a number of calls pass, then fails each: with a full disk, or as a process that dies."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: int, error: BaseException) -> None:
        self.left, self.error, self.blown = left, error, False
        for name in ("fsync", "replace"):
            monkeypatch.setattr(os, name, self.guard(getattr(os, name)))
        path_open, unlink = Path.open, Path.unlink
        written = self.guard(path_open)
        monkeypatch.setattr(
            Path, "open", lambda path, mode="r", *a: (written if mode == "xb" else path_open)(path, mode)
        )
        monkeypatch.setattr(Path, "unlink", lambda path, **kw: None if self.dead else unlink(path, **kw))

    @property
    def dead(self) -> bool:
        """Whether there is no process any more that could clean up."""
        return self.blown and not isinstance(self.error, Exception)

    def guard(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, behind the fuse."""

        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self.left <= 0:
                self.blown = True
                raise self.error
            self.left -= 1
            return call(*args, **kwargs)

        return guarded


class Died(BaseException):
    """A process that was killed."""


@pytest.mark.parametrize(
    ("error", "every"),
    [
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), 3, id="a full disk, now and then"),
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), 1, id="a full disk", marks=pytest.mark.full),
        pytest.param(Died(), 1, id="a death"),
    ],
)
def test_whatever_fails_leaves_the_last_good_state(tmp_path: Path, error: BaseException, every: int) -> None:
    before = filled(tmp_path / "good").about
    _, sites = make(tmp_path / "other")
    new = {"d": record(sites, "d", 2)}
    for step in range(0, 25, every):
        path = shutil.copytree(tmp_path / "good", tmp_path / str(step))
        bank = Bank.open(path)
        with pytest.MonkeyPatch.context() as patch:
            fuse = Fuse(patch, step, error)
            # Record, logits, entry, learner, held and json: each is opened, synced, renamed, and its folder synced.
            if step < 24:
                with pytest.raises(type(error)) as failure:
                    bank.commit(new, sites, learner={"step": 4})
                assert fuse.dead or failure.match(r"expected to write .*No space left on device.*make room")
            else:
                bank.commit(new, sites, learner={"step": 4})
        assert fuse.dead or not list(path.glob(".*.tmp"))
        again = Bank.open(path)
        assert again.tasks == ("a", "b", "c", "d") if step >= 23 else again.about == before
        assert again.verify().ok
        again.commit(new, sites, learner={"step": 4})
        assert len(on_disk(path)) == 18


def test_a_full_disk_at_creation_leaves_no_bank(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Fuse(patch, 4, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(OSError, match=r"expected to write \d+ bytes to .*, found: No space left .* make room"):
            make(tmp_path / "bank")
    make(tmp_path / "bank")
    assert sorted(Path(name).suffix for name in on_disk(tmp_path / "bank")) == [".json", ".safetensors"]


def test_a_second_writer_is_told_to_open_again(tmp_path: Path) -> None:
    one, sites = make(tmp_path / "bank")
    two = Bank.open(tmp_path / "bank")
    one.commit({"a": record(sites, "a")}, sites)
    with pytest.raises(RuntimeError, match="found a later commit: open it again"):
        two.commit({"b": record(sites, "b")}, sites)
    with pytest.raises(RuntimeError, match="open it again"):
        two.remove("a")


def test_a_users_own_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    names = ["model.safetensors", "notes.txt", ".hidden.tmp", "f" * 31 + ".safetensors"]
    for name in names:
        (tmp_path / name).write_text("mine")
    stale = ["f" * 32 + ".safetensors", "." + "f" * 32 + ".safetensors.tmp", ".bank.json.tmp"]
    for name in stale:
        (tmp_path / name).write_text("left by a process that died")
    bank, sites = make(tmp_path)
    bank.commit({"a": record(sites, "a")}, sites)
    assert all((tmp_path / name).read_text() == "mine" for name in names)
    assert not any((tmp_path / name).exists() for name in stale)


def test_a_file_of_known_content_is_not_written_again(tmp_path: Path) -> None:
    tensors = {"b": torch.ones(2), "a": torch.zeros(1)}
    digest = store.write_tensors(tmp_path, tensors)
    store.path_of(tmp_path, digest).write_bytes(b"as it is")
    assert store.write_tensors(tmp_path, dict(reversed(tensors.items()))) == digest
    assert store.path_of(tmp_path, digest).read_bytes() == b"as it is"


@pytest.mark.parametrize(
    "changed",
    [
        {"a": torch.zeros(2)},
        {"b": torch.ones(2)},
        {"a": torch.ones(2, 1)},
        {"a": torch.ones(2, dtype=torch.float64)},
        {"a": torch.ones(2), "b": torch.ones(0)},
        {},
    ],
)
def test_a_digest_tells_names_dtypes_shapes_and_values_apart(changed: dict[str, Tensor]) -> None:
    assert store.digest_of(changed) != store.digest_of({"a": torch.ones(2)})
    assert store.digest_of({"a": torch.ones(4)[::2]}) == store.digest_of({"a": torch.ones(2)})
