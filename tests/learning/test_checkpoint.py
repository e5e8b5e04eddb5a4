"""A checkpoint that is not what was written, or not of this moment, is one clear error; the bank stays as it is."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learning import small
from torch import nn
from torch.nn import functional as F

from polymask.bank.bank import Bank
from polymask.learning import folder
from polymask.learning.objective import Objective
from polymask.learning.training import MakeOptimizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped while its second task was open."""
    out, seen = tmp_path_factory.mktemp("stopped") / "run", [0]

    def loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen[0] += 1
        saved = folder.load_checkpoint(out, CPU)
        if saved is not None and (saved["task"], saved["phase"]) == ("two", "retrain"):
            raise KeyboardInterrupt
        return F.cross_entropy(logits, y)

    with pytest.raises(KeyboardInterrupt):
        small.run_saved("packnet", out, objective=Objective(loss=loss))
    assert Bank.open(out / "bank").tasks == ("one",)
    return out


def refuses(out: Path, **how: Any) -> None:
    """Say what is good and how to go on, and touch nothing."""
    before = small.files(out / "bank")
    with pytest.raises(folder.DamagedCheckpoint, match=r"the finished tasks in bank/ are whole: delete checkpoint\.pt"):
        small.run_saved("packnet", out, **how)
    assert small.files(out / "bank") == before


def test_every_flip_is_found(tmp_path: Path, stopped: Path) -> None:
    data = (stopped / "checkpoint.pt").read_bytes()
    places = [0, 5, 21, 52, 53, len(data) - 1, *random.Random(0).sample(range(len(data)), 200)]
    for place in places:
        (tmp_path / "checkpoint.pt").write_bytes(data[:place] + bytes([data[place] ^ 2]) + data[place + 1 :])
        with pytest.raises(folder.DamagedCheckpoint):
            folder.load_checkpoint(tmp_path, CPU)
    for length in (0, 10, 53, len(data) // 2, len(data) - 1):
        (tmp_path / "checkpoint.pt").write_bytes(data[:length])
        with pytest.raises(folder.DamagedCheckpoint):
            folder.load_checkpoint(tmp_path, CPU)
    (tmp_path / "checkpoint.pt").write_bytes(data)
    assert folder.load_checkpoint(tmp_path, CPU) is not None


def test_a_damaged_checkpoint_is_deleted_by_the_user_and_the_task_learned_anew(tmp_path: Path, stopped: Path) -> None:
    out = shutil.copytree(stopped, tmp_path / "run")
    data = (out / "checkpoint.pt").read_bytes()
    torch.save({"task": "two"}, out / "checkpoint.pt")  # as an older polymask wrote it
    refuses(out)
    (out / "checkpoint.pt").write_bytes(data[: len(data) // 2])
    refuses(out)
    (out / "checkpoint.pt").unlink()
    small.run_saved("packnet", out)
    assert Bank.open(out / "bank").verify(small.net()).ok
    assert small.results(out)["max_logit_drift"] == 0


def with_weight(saved: dict[str, Any]) -> None:
    state = saved["method"]
    for slots in (state["tensors"], *state["slots"].values()):
        for name, value in slots.items():
            if value.is_floating_point():
                slots[name] = value + 1


@pytest.mark.parametrize("change", [with_weight, lambda saved: saved["method"].update(finished=["another"])])
def test_a_checkpoint_of_another_moment_overwrites_nothing(tmp_path: Path, stopped: Path, change: Any) -> None:
    out = shutil.copytree(stopped, tmp_path / "run")
    saved = folder.load_checkpoint(out, CPU)
    assert saved is not None
    change(saved)
    folder.save_checkpoint(out, saved)
    refuses(out)


def by_sgd(named: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    return torch.optim.SGD([parameter for _, parameter in named], lr=0.1)


def by_groups(named: Iterable[tuple[str, nn.Parameter]]) -> torch.optim.Optimizer:
    return torch.optim.Adam([{"params": [parameter]} for _, parameter in named])


@pytest.mark.parametrize("other", [by_sgd, by_groups])
def test_an_open_task_of_another_optimizer_is_refused(tmp_path: Path, stopped: Path, other: MakeOptimizer) -> None:
    out = shutil.copytree(stopped, tmp_path / "run")
    refuses(out, optimizer=other)
    assert small.run_saved("packnet", out).tasks == ["one", "two", "three"]
