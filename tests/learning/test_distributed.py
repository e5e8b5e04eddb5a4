"""Two processes learn the same: one record on both, nothing forgotten, and no process left waiting."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learning import small
from torch import Tensor, nn
from torch.nn import functional as F

from polymask.bank.bank import Bank
from polymask.bank.store import digest_of
from polymask.learning.learn import Learned, learn
from polymask.learning.objective import Objective
from polymask.methods import METHODS

REPOSITORY = Path(__file__).parents[2]
TWO = replace(small.SAVED, devices=2, device="cpu", batch_size=32)


def told(run: Learned) -> dict[str, Any]:
    """All that has to be the same on both processes."""
    return {
        "reads": {task: dict(record.reads) for task, record in run.method.records.items()},
        "masks": {
            task: {name: digest_of({"": mask.payload}) for name, mask in record.masks.items()}
            for task, record in run.method.records.items()
        },
        "private": {task: digest_of(record.private) for task, record in run.method.records.items()},
        "model": digest_of(run.method.model.state_dict()),
        "drift": run.report["max_logit_drift"],
        "accuracy": run.report["accuracy"],
    }


def one_of_two(work: Callable[[], Learned], home: Path, rank: int, port: int) -> None:
    """What a process does."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        run = work()
        (home / f"{rank}.json").write_text(json.dumps(told(run)))
        torch.distributed.barrier()
    except ArithmeticError as error:
        (home / f"{rank}.json").write_text(json.dumps(str(error)))
    torch.distributed.destroy_process_group()


def both(work: Callable[[], Learned], home: Path) -> list[int | None]:
    """Do the same in two processes, which find each other; how they ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=one_of_two, args=(work, home, rank, port)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        process.kill()
    return [process.exitcode for process in ranks]


def said(home: Path) -> list[Any]:
    """What both processes told."""
    return [json.loads((home / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=() if m in ("packnet", "tfm") else pytest.mark.full) for m in small.METHODS],
)
def test_both_processes_have_the_same_and_forget_nothing(
    method: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    training, options = replace(TWO, logger="csv"), small.METHODS[method]
    if method == "packnet":
        # Of six units a fresh draw is not learned in so few steps, and the score is to show that something is.
        options = {**options, "start": "zero"}
    if method == "supsup":
        training = replace(training, lr=0.01)  # likewise
    run = partial(small.run, method, tmp_path / "run", training=training, options=options)
    assert both(run, tmp_path) == [0, 0]
    # One of them tells.
    phases = 3 * len(METHODS[method].phases)
    assert capfd.readouterr().err.count("polymask: task ") == phases
    assert len((tmp_path / "run" / "csv" / "metrics.csv").read_text().splitlines()) == 1 + 2 * phases + 3
    first, second = said(tmp_path)
    assert first == second
    assert (first["drift"] == 0.0) is (METHODS[method].card.exact is True)
    assert first["accuracy"][2][2] > 0.3
    bank = Bank.open(tmp_path / "run" / "bank")
    assert bank.verify(small.net()).ok
    assert {task: dict(bank.record(task).reads) for task in bank.tasks} == first["reads"]


class OnRank:
    """A loss in which something happens on the second process alone, at its n-th call."""

    def __init__(self, n: int, happens: Callable[[Tensor], Tensor]) -> None:
        self.left, self.happens = n, happens

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        self.left -= 1
        loss = F.cross_entropy(logits, y)
        return self.happens(loss) if self.left == 0 and os.environ["LOCAL_RANK"] == "1" else loss


def test_a_nan_on_one_process_stops_both(tmp_path: Path) -> None:
    """In the last batch of an epoch, so that no gradient carries it to the other."""
    loss = OnRank(2, lambda loss: loss.detach() * float("nan") + 0 * loss)
    work = partial(small.run, "finetune", tmp_path / "run", training=TWO, objective=Objective(loss=loss))
    assert both(work, tmp_path) == [0, 0]
    assert all("found a loss of nan in epoch 0" in error for error in said(tmp_path))


def kill(loss: Tensor) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    return loss


def test_a_process_that_is_killed_takes_the_other_along_and_both_go_on(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert both(partial(small.run, "packnet", whole, training=TWO), tmp_path) == [0, 0]
    dies = partial(small.run, "packnet", stopped, training=TWO, objective=Objective(loss=OnRank(13, kill)))
    ends = both(dies, tmp_path)
    assert ends[1] == -signal.SIGKILL
    assert ends[0] != 0
    assert Bank.open(stopped / "bank").tasks == ("one",)
    assert both(partial(small.run, "packnet", stopped, training=TWO), tmp_path) == [0, 0]
    small.assert_same(stopped, whole)


class Plain(nn.Module):
    """Neither norms nor dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(small.WIDTH, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


def plain(devices: int) -> Learned:
    """A run whose result does not depend on how its batches are shared out, but for rounding."""
    torch.manual_seed(0)
    training = replace(TWO, devices=devices, optimizer="sgd", lr=0.1, accumulate=2, clip=0.5)
    return learn(Plain(), [small.task("one", count=64)], "finetune", training=training)


def share(home: Path) -> Learned:
    run = plain(2)
    torch.save(run.method.model.state_dict(), home / f"{os.environ['LOCAL_RANK']}.pt")
    return run


def test_two_processes_step_as_one_with_the_whole_batch(tmp_path: Path) -> None:
    assert both(partial(share, tmp_path), tmp_path) == [0, 0]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found, plain(1).method.model.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.full
def test_a_script_starts_its_second_process_itself(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from pathlib import Path\n"
        "from tests.learning import small; from tests.learning.test_distributed import TWO\n"
        "print(small.run('packnet', Path(sys.argv[1]), training=TWO).report['max_logit_drift'])\n"
    )
    inherited = {key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "WORLD_SIZE")}
    environment = {**inherited, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(script), str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split().count("0.0") == 2
    assert "deprecated" not in done.stderr
    assert both(partial(small.run, "packnet", tmp_path / "forked", training=TWO), tmp_path) == [0, 0]
    small.assert_same(tmp_path / "run", tmp_path / "forked")
