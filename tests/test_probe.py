"""Proof by behaviour: a probe without anybody's data, and words for every way in which logits may differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.banks import EXAMPLE, WEIGHTS, filled, make, network, on_disk, record
from torch import Tensor, nn

from polymask.bank.bank import Bank
from polymask.bank.store import read_tensors, write_tensors
from polymask.bank.verify import behaviour, differences
from polymask.calling import logits_of
from polymask.held import AlteredNetwork
from polymask.probe import describe, probe_batch, run_probe, setting
from polymask.sites.table import Role, attach


def test_a_batch_has_the_examples_structure_dtypes_and_range() -> None:
    example = {
        "ids": torch.tensor([[3, 9]]),
        "more": (torch.tensor([[0.25, 2.0]], dtype=torch.float16), [torch.tensor([True, False])]),
        "mask": torch.tensor([[0.0, float("-inf")]]),
        "scale": torch.tensor(1.5),
        "return_dict": True,
        "nothing": None,
    }
    batch = probe_batch(example, 0)
    assert batch["ids"].shape == (8, 2)
    assert set(batch["ids"].unique().tolist()) <= set(range(3, 10))
    half, (flags,) = batch["more"]
    assert half.dtype == torch.float16
    assert half.min() >= 0.25
    assert half.max() <= 2
    assert flags.dtype == torch.bool
    assert torch.equal(batch["mask"], torch.zeros(8, 2))
    assert torch.equal(batch["scale"], torch.tensor(1.5))
    assert (batch["return_dict"], batch["nothing"]) == (True, None)


def test_a_batch_is_drawn_from_its_seed_alone() -> None:
    example = torch.randn(2, 5)
    before = torch.get_rng_state()
    one, two = (probe_batch((example, example), seed) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one[0], two[0])
    assert torch.equal(one[1], probe_batch((torch.stack([example.min(), example.max()]).expand(5, 2).T,) * 2, 0)[1])


def test_words_do_not_pass_for_a_description() -> None:
    with pytest.raises(
        ValueError, match="expected an example of tensors and numbers, found str: give a batch as probe="
    ):
        describe({"prompt": "a secret"})


def test_a_users_entries_reach_no_file_unless_they_pass_them(tmp_path: Path) -> None:
    example = torch.linspace(-2, 2, 24)[torch.randperm(24)].view(2, 12)
    row = example[0].numpy().tobytes()
    bank, sites = make(tmp_path / "bank", example=example)
    bank.commit({"a": record(sites, "a")}, sites)
    assert not any(row in data for data in on_disk(tmp_path / "bank").values())
    bank, _ = make(tmp_path / "given", sites, probe=example)
    bank.commit({"a": record(sites, "a")}, sites)
    assert any(row in data for data in on_disk(tmp_path / "given").values())
    assert bank.verify().tasks["a"].behaviour == "bit-equal"
    assert bank.probe_logits()["a"].shape == (2, 3)


class Drops(nn.Module):
    """A network that draws in evaluation mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Logits under noise."""
        return {"logits": self.inner(x + torch.randn_like(x)), "loss": None}


def test_run_probe_leaves_mode_and_random_state_as_they_were() -> None:
    model = Drops().train()
    before = torch.get_rng_state()
    found = run_probe(model, EXAMPLE)
    assert model.training
    assert model.inner.training
    assert torch.equal(torch.get_rng_state(), before)
    assert not found.requires_grad
    assert torch.equal(logits_of({"logits": found}), found)


def test_parts_in_another_mode_come_back_to_it() -> None:
    model = Drops().train()
    model.inner.body[2].eval()
    run_probe(model, EXAMPLE)
    assert not model.inner.body[2].training


def test_the_setting_says_what_the_last_bit_hangs_on() -> None:
    net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    found = setting(net, {"x": torch.zeros(2, 3, 8, 8)})
    assert found["torch"] == torch.__version__
    assert found["threads"] == 1
    assert found["cpu"].endswith(torch.backends.cpu.get_cpu_capability())
    assert found["memory format"] == "channels_last"
    assert found["batch"] == {"x": [2, 3, 8, 8]}
    assert (found["device"], found["dtype"], found["mode"]) == ("cpu", "float32", "baked, eval, no_grad")
    torch.set_num_threads(2)
    assert differences(found, setting(net, {"x": torch.zeros(2, 3, 8, 8)})) == "threads 1 -> 2"


def test_words_for_every_outcome() -> None:
    was = torch.tensor([[1.0, -3.0, float("-inf")]])
    near, far = was + 1e-5, was + 1.0
    assert behaviour(was, was.clone(), "threads 1 -> 2", True) == ("bit-equal", True)
    words, ok = behaviour(was, near, "threads 1 -> 2", True)
    assert ok
    assert words == "within tolerance (max diff 1e-05, tolerance 0.001) because setting differs: threads 1 -> 2"
    for found, changed in ((near, ""), (far, ""), (far, "threads 1 -> 2"), (was * float("nan"), "threads 1 -> 2")):
        words, ok = behaviour(was, found, changed, True)
        assert not ok
        assert words.startswith("differs (max diff")
    assert behaviour(was, near, "", 0.1) == (
        "within tolerance (max diff 1e-05, tolerance 0.1) that its method states",
        True,
    )
    assert not behaviour(was, far, "", 0.1)[1]
    assert behaviour(was, far, "", None) == ("differs (max diff 1), as its method may", True)
    words, ok = behaviour(was, was[:, :2], "", None)
    assert (words, ok) == ("differs (stored float32 of shape (1, 3), found float32 of shape (1, 2))", False)


def test_another_setting_is_named_and_tolerated(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank")
    bank.commit({"a": record(sites, "a")}, sites)
    entry = bank._reader.entry("a")["probe"]
    entry["logits"] = write_tensors(bank.path, {"logits": bank.probe_logits()["a"] + 1e-6})
    assert not bank.verify().ok
    assert "found others: differs (max diff" in str(bank.verify())
    entry["setting"]["threads"] = 64
    found = bank.verify()
    assert found.ok
    assert found.tasks["a"].behaviour.startswith("within tolerance")
    assert found.tasks["a"].behaviour.endswith("because setting differs: threads 64 -> 1")


def test_an_unstable_network_is_proved_by_content(tmp_path: Path) -> None:
    model = Drops()
    table = {name: Role("frozen", "") for name in (*dict(model.named_parameters()), *dict(model.named_buffers()))}
    sites = attach(model, table)
    bank, _ = make(tmp_path / "bank", sites, builder=None)
    bank.commit({"a": record(sites, "a", masks={})}, sites)
    assert bank.about["records"][0]["probe"]["stable"] is False
    found = bank.verify(Drops())
    assert found.ok
    assert found.tasks["a"].behaviour == "not stable"


@pytest.mark.parametrize(("exact", "ok"), [(True, False), (0.5, True), (None, True)])
def test_a_changed_base_is_enforced_only_where_the_method_is_exact(tmp_path: Path, exact: Any, ok: bool) -> None:
    bank, sites = make(tmp_path / "bank")
    bank.commit({"a": record(sites, "a", exact=exact)}, sites)
    sites.write(WEIGHTS[0], sites.base(WEIGHTS[0]) + 1e-6)
    if exact is True:
        with pytest.raises(AlteredNetwork, match=r"'body.1.weight' \(other values\) changed, read by task 'a'"):
            bank.commit({}, sites)
        # As a polymask without the comparison would write it.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("polymask.bank.compare.changed_base", lambda *_: {})
            patch.setattr("polymask.bank.compare.check_answer", lambda *_: None)
            bank.commit({}, sites)
    else:
        bank.commit({}, sites)
    found = Bank.open(tmp_path / "bank").verify()
    said = [*found.tasks["a"].failures, *found.tasks["a"].notes]
    assert found.ok is ok
    assert said[0].startswith("expected tensor 'body.1.weight', as task 'a' reads it, to have the hash")
    assert "differs" in found.tasks["a"].behaviour or "within" in found.tasks["a"].behaviour


def test_without_an_example_content_alone_is_proved(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank", example=None)
    bank.commit({"a": record(sites, "a")}, sites)
    found = bank.verify()
    assert str(found).splitlines() == ["task 'a': ok, no probe", "verified: nothing was forgotten"]
    assert bank.probe_logits() == {}


def test_the_users_network_is_left_alone_by_proofs(tmp_path: Path) -> None:
    bank, sites = make(tmp_path / "bank", builder=None)
    bank.commit({"a": record(sites, "a")}, sites)
    mine = network(seed=4).train()
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    assert bank.verify(mine).ok
    bank.plain("a", mine)
    assert mine.training
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())


def test_logits_are_kept_with_the_bank(tmp_path: Path) -> None:
    bank = filled(tmp_path / "bank")
    entry = bank.about["records"][1]["probe"]
    assert torch.equal(read_tensors(bank.path, entry["logits"])["logits"], bank.probe_logits()["b"])
    assert bank.sizes()["probe"] > 0
