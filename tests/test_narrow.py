"""What a task has of its own in fewer bits: rounded before it is proved, stored without another loss, its cost said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.contract import drive
from tests.contract.zoo import BACKBONES
from tests.learning import small
from torch import Tensor, nn

from polymask import CTR, Bank, Piggyback, Training
from polymask.bank.entry import to_entry
from polymask.learning.learner import make_bank
from polymask.method import fold
from polymask.methods import METHODS
from polymask.parts.narrow import narrow, narrowed, widen
from polymask.parts.pack import unpack
from polymask.task import TaskRecord

BITS = (16, 8)


@pytest.mark.parametrize("bits", BITS)
def test_what_is_rounded_stays_so_and_is_stored_to_the_bit(bits: int) -> None:
    draw = torch.Generator().manual_seed(0)
    for shape in ((7, 15), (7, 5), (4, 4, 2, 2), (6,), (1, 1), (0, 4), ()):
        for power in (-3, 0, 3, 4):
            value = torch.randn(shape, generator=draw) * 10.0**power
            kept = narrowed(value, bits)
            assert torch.equal(narrowed(kept, bits), kept)
            found = narrow("w", kept, bits)
            assert torch.equal(widen(found)["w"].view(torch.int32), kept.view(torch.int32))
            assert sum(t.nbytes for t in found.values()) <= max(value.nbytes // 2, 2)
    assert widen(narrow("w", narrowed(torch.tensor([[-1e-9, 1.0]] * 32), 8), 8))["w"].signbit().sum() == 0


def test_a_level_is_wrong_by_half_a_step_of_its_row_at_most() -> None:
    value = torch.randn(40, 9, generator=torch.Generator().manual_seed(1)) * torch.logspace(-8, 8, 40)[:, None]
    largest = value.abs().amax(1, keepdim=True)
    assert ((narrowed(value, 8) - value).abs() <= largest / 127).all()
    assert (narrowed(value, 8) != value).any()


def test_what_cannot_be_narrowed_stays_as_it_is() -> None:
    far = torch.tensor([1e6])
    assert torch.equal(narrowed(far, 16), far)
    assert list(narrow("w", far, 16)) == ["w"]
    for other in (torch.ones(2, 2, dtype=torch.float64), torch.ones(2, dtype=torch.int64)):
        assert narrowed(other, 8) is other
        assert list(narrow("w", other, 8)) == ["w"]
    assert list(narrow("w", torch.tensor([0.1]), 16)) == ["w"]  # was not rounded: nothing is lost


@pytest.mark.parametrize("bits", BITS)
def test_nothing_becomes_infinite_or_vanishes(bits: int) -> None:
    most = torch.full((8, 8), torch.finfo(torch.float32).max)
    draw = torch.Generator().manual_seed(0)
    for value in (most, most[0], torch.full((5,), 1e-9), torch.randn(3, generator=draw) * 1e-40, torch.tensor([-0.0])):
        kept = narrowed(value, bits)
        assert bool(kept.isfinite().all())
        assert torch.equal(kept == 0, value == 0)
        assert torch.equal(widen(narrow("w", kept, bits))["w"].view(torch.int32), kept.view(torch.int32))


class Whitened(nn.Module):
    """Features so small that their statistics do not fit half precision, and divided by them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.register_buffer("std", torch.full((16, 4), 1e-9))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x) * 1e-9
        if self.training:
            with torch.no_grad():
                self.std.mul_(0.9).add_(h.std(0)[:, None], alpha=0.1)
        logits: Tensor = self.head(h / self.std[:, 0])
        return logits


@pytest.mark.parametrize("bits", BITS)
def test_statistics_keep_their_relative_precision(bits: int) -> None:
    net, x = Whitened(), torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    method = Piggyback(net, x)
    method.private_bits = bits
    method.begin("a", outputs=3)
    net(x).square().sum().backward()
    torch.optim.AdamW(method.parameters(), 1e-2).step()
    before = net.eval()(x)
    method.end("a")
    torch.testing.assert_close(method.plain("a")(x), before, rtol=0.05, atol=0.05)


class Initialised(nn.Module):
    """A norm that takes its first batch's mean, and notes that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 3)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("begun", torch.tensor(False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(x)
        if self.training:
            with torch.no_grad():
                self.mean.copy_(torch.where(self.begun, self.mean, h.mean(0)))
                self.begun |= True
        logits: torch.Tensor = self.head(h - self.mean)
        return logits


@pytest.mark.parametrize("bits", BITS)
def test_flags_stay_as_they_are(bits: int) -> None:
    net, x = Initialised(), torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    method = Piggyback(net, x)
    method.private_bits = bits
    method.begin("a", outputs=3)
    net.train()(x).square().sum().backward()
    torch.optim.AdamW(method.parameters(), 1e-2).step()
    assert bool(method.end("a")["a"].private["begun"])


def test_other_numbers_of_bits_are_refused_before_a_task_begins() -> None:
    method, _ = drive.make(Piggyback, "mlp_bn")
    for bits in (None, 4, 0, True, "16"):
        method.private_bits = bits  # type: ignore[assignment]
        with pytest.raises(ValueError, match=f"expected private_bits of 32, 16, 8, found {bits!r}"):
            method.begin("a", outputs=3)
    method.private_bits = 8
    method.begin("a", outputs=3)


def bytes_of_own(record: TaskRecord) -> int:
    return sum(tensor.nbytes for name, tensor in to_entry(record)[1].items() if "private/" in name)


@pytest.mark.parametrize("bits", [pytest.param(16, marks=pytest.mark.full), 8])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_keeps_its_tasks_to_the_bit_and_in_fewer_bytes(name: str, bits: int, tmp_path: Path) -> None:
    backbone = "encoder" if METHODS[name].needs else "mlp_bn"
    method, tasks = drive.make(METHODS[name], backbone)
    bank, before = make_bank(tmp_path / "bank", method, None, {}), {}
    for task, width in zip(tasks, (32, bits, bits), strict=True):
        method.private_bits = width
        drive.learn(method, [task], drive.adamw())
        bank.commit(method.records, method.sites)
        before[task.name] = drive.logits(method, task)
    own = method.record("c").private
    assert all(torch.equal(narrowed(value, bits), value) for value in own.values())
    held = Bank.open(bank.path)
    for task in tasks if method.exact is True else tasks[-1:]:
        plain, probe = held.plain(task.name, BACKBONES[backbone]()[0]), drive.probe(method)
        assert torch.equal(drive.answer(plain, probe), drive.answer(method.plain(task.name), probe))
        assert torch.equal(drive.logits(method, task), before[task.name])
        assert held.record(task.name).meta == method.record(task.name).meta
    if own:
        assert bytes_of_own(held.record("b")) < bytes_of_own(held.record("a"))
    assert json.loads((bank.path / "bank.json").read_text())["format"] == 3


def test_a_bank_whose_tasks_are_stored_as_they_are_says_nothing_new(tmp_path: Path) -> None:
    method, tasks = drive.make(METHODS["packnet"], "mlp_bn")
    bank = make_bank(tmp_path / "bank", method, None, {})
    bank.commit(drive.learn(method, tasks[:1]), method.sites)
    assert json.loads((bank.path / "bank.json").read_text())["format"] == 2


def test_small_masks_are_one_tensor_and_come_back_as_they_were(tmp_path: Path) -> None:
    for name, backbone in (("hat", "convnet"), ("hat", "encoder"), ("piggyback", "mlp_bn"), ("ksm", "convnet")):
        method, tasks = drive.make(METHODS[name], backbone)
        bank = make_bank(tmp_path / f"{name}-{backbone}", method, None, {})
        bank.commit(drive.learn(method, tasks, drive.adamw()), method.sites)
        held = Bank.open(bank.path)
        _, tensors = to_entry(held.record("b"))
        assert ("masks" in tensors) == (len(method.record("b").masks) > 1)
        assert not any(key.startswith("mask/") for key in tensors)
        assert json.loads((bank.path / "bank.json").read_text())["format"] == 3
        for task in tasks:
            mine, theirs = method.record(task.name).masks, held.record(task.name).masks
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(unpack(packed), unpack(theirs[key])) for key, packed in mine.items())
        assert held.verify(BACKBONES[backbone]()[0]).ok
    assert "private_bits" not in bank.about["records"][0]["meta"]


def test_an_end_that_is_stopped_leaves_the_task_open_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, backbone in ((Piggyback, "mlp_bn"), (CTR, "encoder")):
        method, tasks = drive.make(kind, backbone)
        method.private_bits = 8
        drive.begin(method, tasks[0])
        drive.train(method, tasks[0], drive.adamw()(method), range(3))
        before = drive.tensors(method.model)

        def stopped(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(fold.cycle, "record_of", stopped)
            with pytest.raises(KeyboardInterrupt):
                method.end("a")
        assert method.task == "a"
        method._unfold()
        after = drive.tensors(method.model)
        assert all(torch.equal(after[name], value) for name, value in before.items())
        method.end("a")


def test_a_run_says_what_rounding_costs_and_goes_on_with_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    training = replace(small.FAST, private_bits=8, quiet=False)
    report = small.run("piggyback", tmp_path / "run", training=training).report
    assert list(report["rounding"]) == report["tasks"]
    assert all(one["bits"] == 8 and 0 <= one["after"] <= 1 for one in report["rounding"].values())
    assert "its own tensors in 8 bits: validation accuracy" in capfd.readouterr().err
    whole = small.run("piggyback", tmp_path / "whole").report
    assert "rounding" not in whole
    fewer, more = (one["bytes"]["per_task"] for one in (report, whole))
    assert all(one < other for one, other in zip(fewer, more, strict=True))
    again = small.run("piggyback", tmp_path / "run", training=training).report
    assert again["rounding"] == report["rounding"]
    assert report["max_logit_drift"] == 0


def test_another_number_of_bits_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="expected private_bits to be one of 32, 16, 8, found 4"):
        Training(private_bits=4)
