"""A large host: its tensors lie in a file of their own, which banks of one host share, and no task writes anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tests.contract import drive
from torch import nn

from polymask import HAT, Bank, Piggyback, load
from polymask.bank import store
from polymask.learning.learner import make_bank
from polymask.method.contract import Method
from polymask.surgery import add_adapters

EXAMPLE = torch.randn(2, 3, 256, generator=torch.Generator().manual_seed(0))


class Host(nn.Module):
    """A layer of a transformer of two megabytes, before a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(256, 2, 512, dropout=0.0, batch_first=True)
        self.body, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(256, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.body(x).mean(1))
        return found


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POLYMASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def adapted() -> HAT:
    return HAT(add_adapters(Host(), EXAMPLE, 4), EXAMPLE, c=0.1)


def bank_of(method: Method, path: Path) -> Bank:
    return make_bank(path, method, None, {})


def host_file(bank: Bank) -> Path:
    return store.path_of(bank.path, bank.outline["base"]["host"]["digest"])


def learn_one(method: Method, bank: Bank, name: str) -> None:
    records = drive.learn(method, [drive.Task(name, EXAMPLE)], drive.adamw())
    bank.commit(records, method.sites)


def test_a_second_run_on_the_same_host_stores_none_of_it(tmp_path: Path) -> None:
    one, other = bank_of(adapted(), tmp_path / "a"), bank_of(adapted(), tmp_path / "b")
    assert host_file(one).stat().st_size > 1 << 20
    assert host_file(one).samefile(host_file(other))
    own = [file.stat().st_size for file in other.path.iterdir() if file != host_file(other)]
    assert sum(own) < 100_000
    learned = bank_of(Piggyback(Host(), EXAMPLE), tmp_path / "c")
    again = bank_of(Piggyback(Host(), EXAMPLE), tmp_path / "d")
    assert host_file(learned).samefile(host_file(again))
    assert sum(file.stat().st_size for file in learned.path.iterdir() if file != host_file(learned)) < 20_000


def test_a_task_of_adapters_writes_nothing_of_the_host_anew(tmp_path: Path) -> None:
    method = adapted()
    bank = bank_of(method, tmp_path / "bank")
    written = host_file(bank).stat().st_mtime_ns
    learn_one(method, bank, "a")
    before = Bank.open(bank.path).plain("a", Host())(EXAMPLE)
    learn_one(method, bank, "b")
    assert host_file(bank).stat().st_mtime_ns == written
    held = Bank.open(bank.path)
    assert torch.equal(held.plain("a", Host())(EXAMPLE), before)
    assert held.verify(Host()).ok
    assert held.sizes()["backbone"] > 1 << 20
    assert torch.equal(held.tensors()["body.layers.0.linear1.weight"], Host().body.layers[0].linear1.weight)


def test_a_bank_goes_on_where_it_is_copied_to(tmp_path: Path, cache: Path) -> None:
    method = adapted()
    bank = bank_of(method, tmp_path / "bank")
    learn_one(method, bank, "a")
    expected = load(bank.path, Host()).logits("a", EXAMPLE)
    shutil.copytree(bank.path, tmp_path / "elsewhere" / "bank")
    shutil.rmtree(cache)
    shutil.rmtree(bank.path)
    assert torch.equal(load(tmp_path / "elsewhere", Host()).logits("a", EXAMPLE), expected)
    # The values are the bank's, whatever network is brought to hold them.
    other = Host()
    nn.init.ones_(other.body.layers[0].linear1.weight)
    assert torch.equal(load(tmp_path / "elsewhere", other).logits("a", EXAMPLE), expected)


def test_a_flipped_byte_of_the_host_is_found_and_does_no_harm_to_new_banks(tmp_path: Path, cache: Path) -> None:
    method = adapted()
    bank = bank_of(method, tmp_path / "bank")
    learn_one(method, bank, "a")
    file = host_file(bank)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(store.DamagedBank, match="it was changed, restore it from a copy"):
        Bank.open(bank.path).plain("a", Host())
    assert not Bank.open(bank.path).verify(Host()).ok
    fresh = bank_of(adapted(), tmp_path / "fresh")
    assert fresh.tensors()
    assert not host_file(fresh).samefile(file)
    assert host_file(fresh).samefile(cache / "hosts" / file.name)


def test_where_no_link_can_be_made_the_bank_has_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("no folder")
    monkeypatch.setenv("POLYMASK_CACHE", str(tmp_path / "taken"))
    method = adapted()
    bank = bank_of(method, tmp_path / "bank")
    learn_one(method, bank, "a")
    assert host_file(bank).stat().st_nlink == 1
    assert Bank.open(bank.path).verify(Host()).ok


def test_a_host_that_changed_is_refused_at_a_commit(tmp_path: Path) -> None:
    method = adapted()
    bank = bank_of(method, tmp_path / "bank")
    records = drive.learn(method, [drive.Task("a", EXAMPLE)], drive.adamw())
    name = "body.layers.0.linear1.weight"
    method.sites.write(name, method.sites.base(name) + 1)
    with pytest.raises(ValueError, match=rf"expected the base as it was .* found '{name}' changed"):
        bank.commit(records, method.sites)
    assert Bank.open(bank.path).tasks == ()


def test_only_a_large_host_takes_the_newer_format(tmp_path: Path) -> None:
    large = bank_of(adapted(), tmp_path / "large")
    small = bank_of(
        Piggyback(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.ones(2, 4)), tmp_path / "small"
    )
    assert (large.path / store.COMMIT).read_text().startswith('{"format": 3,')
    assert (small.path / store.COMMIT).read_text().startswith('{"format": 2,')
    text = (large.path / store.COMMIT).read_text()
    (large.path / store.COMMIT).write_text(text.replace('"format": 3', '"format": 2', 1))
    with pytest.raises(store.DamagedBank):
        Bank.open(large.path)
    (large.path / store.COMMIT).write_text(text.replace('"format": 3', '"format": 4', 1))
    with pytest.raises(ValueError, match=r"a bank of format 3 or older .* found 4: update polymask"):
        Bank.open(large.path)
