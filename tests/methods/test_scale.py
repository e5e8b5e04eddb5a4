"""A mask with a scale: learned with it, stored in half precision, multiplied into the weight."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract import drive
from tests.contract.zoo import BACKBONES

from polymask import Bank, Piggyback
from polymask.learning.learner import make_bank
from polymask.method.finite import NotFinite
from polymask.mixed import Mixed
from polymask.parts.binarize import as_half
from polymask.parts.pack import pack_scaled, unpack

KINDS: dict[str, dict[str, Any]] = {
    "tensor": {"scale": "tensor"},
    "rows": {"scale": "unit"},
    "ternary rows": {"scale": "unit", "values": "ternary"},
    "units": {"scale": "tensor", "granularity": "unit"},
    "units, rows": {"scale": "unit", "granularity": "unit"},
}
UNITS = ["units", "units, rows"]
LARGE = [pytest.param(name, marks=pytest.mark.full) for name in ("minilm", "timm_resnet")]


def learned(kind: str, network: str, **more: Any) -> tuple[Piggyback, list[drive.Task]]:
    model, example = BACKBONES[network]()
    method, todo = Piggyback(model, example, **KINDS[kind], **more), drive.tasks(example)
    drive.learn(method, todo, drive.adamw())
    return method, todo


@pytest.mark.parametrize("rows", [1, 5])
def test_a_scaled_mask_is_packed_at_its_bits_and_two_bytes_a_scale(rows: int) -> None:
    draw = torch.Generator().manual_seed(rows)
    scale = as_half(torch.rand(rows, 1, 1, generator=draw) + 0.5)
    live = torch.rand(5, 3, 3, generator=draw) > 0.5
    turned = live.to(torch.int8) * (1 - 2 * (torch.rand(5, 3, 3, generator=draw) > 0.5).to(torch.int8))
    for mask, bits in ((live, 1), (turned, 2)):
        packed = pack_scaled(scale, mask)
        assert packed.nbytes == bits * 6 + 2 * rows
        assert torch.equal(unpack(packed), mask.float() * scale)
    alone = pack_scaled(scale)
    assert alone.nbytes == 2 * rows
    assert torch.equal(unpack(alone), scale)


def test_a_payload_of_another_length_is_damage_and_says_so() -> None:
    packed = pack_scaled(torch.ones(4, 1), torch.ones(4, 2, dtype=torch.bool))
    for cut in (1, 2, 9):
        with pytest.raises(ValueError, match=r"expected 1 or 4 scales of 2 bytes behind 1 bytes of a mask .* damaged"):
            unpack(replace(packed, payload=packed.payload[: len(packed.payload) - cut]))


def test_a_scale_is_read_as_it_is_stored_and_never_infinite() -> None:
    scale = torch.tensor([0.1, -3.3, 1e9, 0.0], requires_grad=True)
    found = as_half(scale)
    assert torch.equal(found, found.half().float())
    assert found.isfinite().all()
    found.sum().backward()
    assert scale.grad is not None
    assert scale.grad.tolist() == [1.0, -1.0, 0.0, 0.0]


@pytest.mark.parametrize("backbone", ["mlp_bn", "convnet", "encoder", "lstm"])
@pytest.mark.parametrize("kind", KINDS)
def test_scales_learn_and_every_task_answers_to_the_bit(kind: str, backbone: str, tmp_path: Path) -> None:
    method, todo = learned(kind, backbone)
    bank = make_bank(tmp_path / "bank", method, None, {})
    bank.commit(method.records, method.sites)
    held = Bank.open(bank.path)
    scaled = [packed for packed in held.record("b").masks.values() if packed.codec == "scaled"]
    assert scaled or (backbone, method.granularity) == ("lstm", "unit")
    assert all((unpack(packed).abs() != 1).any() for packed in scaled)
    for task in todo:
        answers = drive.logits(method, task)
        assert torch.equal(answers, drive.answer(method.plain(task.name), drive.probe(method)))
        plain = held.plain(task.name, BACKBONES[backbone]()[0])
        assert torch.equal(answers, drive.answer(plain, drive.probe(method)))
    assert held.verify(BACKBONES[backbone]()[0]).ok


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("backbone", ["mlp_bn", "convnet", "encoder", *LARGE])
def test_a_batch_of_many_tasks_is_answered_with_their_scales(kind: str, backbone: str) -> None:
    method, todo = learned(kind, backbone)
    x = todo[0].inputs(0)
    rows = len(next(iter(x.values())) if isinstance(x, dict) else x)
    tasks = [todo[row % len(todo)].name for row in range(rows)]
    found = torch.stack(list(Mixed(method.sites, method.records)(x, tasks)))
    alone = torch.stack([drive.answer(method.plain(task), x)[row] for row, task in enumerate(tasks)])
    assert torch.allclose(found, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_that_is_not_finite_is_refused_before_a_scale_multiplies_it(kind: str) -> None:
    model, x = BACKBONES["mlp_bn"]()
    with torch.no_grad():
        model.get_parameter("0.weight")[0, 0] = torch.inf
    method = Piggyback(model, x, **KINDS[kind])
    with pytest.raises(NotFinite, match=r"found NaN or infinity in '0\.weight': a mask on units, or with a scale"):
        method.begin("a")


@pytest.mark.parametrize("kind", ["rows", "units, rows"])
def test_the_first_task_trains_its_network_without_scales(kind: str) -> None:
    method, todo = learned(kind, "mlp_bn", backbone="first-task")
    assert not method.record("a").masks
    assert any(packed.codec == "scaled" for packed in method.record("b").masks.values())
    before = drive.logits(method, todo[0])
    method.remove("c")
    assert torch.equal(drive.logits(method, todo[0]), before)
