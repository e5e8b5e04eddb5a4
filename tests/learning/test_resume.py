"""A run that is stopped at any moment and started again ends as if it had never been stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.learning import small
from torch.nn import functional as F

from polymask.bank import store
from polymask.bank.bank import Bank
from polymask.learning import folder
from polymask.learning.learn import learn
from polymask.learning.objective import Objective
from polymask.learning.train.loop import NotFinite
from polymask.learning.train.session import Session
from polymask.learning.training import Training
from polymask.methods import METHODS
from polymask.nets import build_net
from polymask.streams import make_stream

EPOCH = 4  # steps: 64 examples in batches of 16
REPOSITORY = Path(__file__).parents[2]


class At:
    """Do something at the n-th call, then go on as what is wrapped."""

    def __init__(self, n: int, do: Callable[[], object], wrapped: Callable[..., Any] = F.cross_entropy) -> None:
        self.left, self.do, self.wrapped = n, do, wrapped

    def __call__(self, *args: Any, **more: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            self.do()
        return self.wrapped(*args, **more)


def interrupt() -> None:
    raise KeyboardInterrupt


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def patched(name: str, n: int, method: str, out: Path) -> None:
    """A run that is killed just before its n-th call of a function of paths; to be used in a process of its own."""
    trap = At(n, kill, getattr(Path, name))
    setattr(Path, name, lambda *args, **more: trap(*args, **more))
    small.run_saved(method, out)


def survives(work: Callable[[], object]) -> bool:
    """Whether work in a process of its own comes to its end; else it must have been killed by itself."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode == 0


@cache
def never_stopped(method: str, home: Path) -> Path:
    """The folder of a run that was not stopped."""
    small.run_saved(method, home / method)
    return home / method


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("never-stopped")


def steps_of(out: Path) -> int:
    """How many steps a run took."""
    return EPOCH * (len((out / "epochs.csv").read_text().splitlines()) - 1)


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=() if m in ("packnet", "tfm") else pytest.mark.full) for m in small.METHODS]
)
def test_interrupted_in_every_epoch(method: str, tmp_path: Path, home: Path) -> None:
    expected, out, stops = never_stopped(method, home), tmp_path / "run", 0
    while True:
        # Whatever ran before in this process has no say.
        torch.manual_seed(stops)
        try:
            small.run_saved(method, out, objective=Objective(loss=At(EPOCH + 2, interrupt)))
        except KeyboardInterrupt:
            stops += 1
            continue
        break
    # Each part comes as far as the last step before its stop, also in the middle of an epoch.
    assert stops == (steps_of(expected) - 1) // (EPOCH + 1)
    small.assert_same(out, expected)


@pytest.mark.parametrize("more", [{"accumulate": 3, "clip": 1.0}, {"schedule": "plateau", "optimizer": "adam"}])
def test_in_the_middle_of_an_epoch_nothing_is_lost(more: dict[str, Any], tmp_path: Path) -> None:
    """Gradients that are summed, the optimizer's moments, the schedule, dropout, the loss that the journal notes."""
    training = replace(small.SAVED, **more)
    small.run_saved("piggyback", tmp_path / "whole", training=training)
    middles = 0
    for _ in range(40):
        torch.manual_seed(middles)
        try:
            small.run_saved(
                "piggyback", tmp_path / "parts", training=training, objective=Objective(loss=At(4, interrupt))
            )
        except KeyboardInterrupt:
            saved = folder.load_checkpoint(tmp_path / "parts", torch.device("cpu"))
            middles += saved is not None and bool(saved["progress"]["begun"])
            continue
        break
    assert middles > 2
    small.assert_same(tmp_path / "parts", tmp_path / "whole")


def test_a_step_that_is_lost_is_not_saved_over_one_that_is_not(tmp_path: Path) -> None:
    """A loss that is NaN in the middle of an epoch: the same command goes on from the step before it."""
    small.run_saved("piggyback", tmp_path / "whole")
    nan = Objective(loss=small.Once(EPOCH + 3, lambda loss: loss * float("nan")))
    with pytest.raises(NotFinite, match="found a loss of nan in epoch 1"):
        small.run_saved("piggyback", tmp_path / "run", objective=nan)
    saved = folder.load_checkpoint(tmp_path / "run", torch.device("cpu"))
    assert saved is not None
    assert (saved["progress"]["epoch"], saved["progress"]["begun"]["batches"]) == (1, 2)
    small.run_saved("piggyback", tmp_path / "run")
    small.assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=() if m == "packnet" else pytest.mark.full) for m in small.METHODS]
)
def test_killed_in_the_middle_of_epochs(method: str, tmp_path: Path, home: Path) -> None:
    expected, out, kills = never_stopped(method, home), tmp_path / "run", 0
    while not survives(partial(small.run_saved, method, out, objective=Objective(loss=At(2 * EPOCH + 3, kill)))):
        kills += 1
    assert kills == (steps_of(expected) - 1) // (2 * EPOCH + 2)
    small.assert_same(out, expected)


@pytest.mark.parametrize(
    ("function", "method"),
    [
        ("replace", "packnet"),
        pytest.param("unlink", "finetune", marks=pytest.mark.full),
        pytest.param("replace", "finetune", marks=pytest.mark.full),
        pytest.param("unlink", "packnet", marks=pytest.mark.full),
    ],
)
def test_killed_between_any_two_files(method: str, function: str, tmp_path: Path, home: Path) -> None:
    """Every time a little further: between checkpoints, the files of a commit, its json, its sweep, and the results."""
    expected, out, n = never_stopped(method, home), tmp_path / "run", 1
    while not survives(partial(patched, function, n, method, out)):
        n += 1
    assert n > 5
    small.assert_same(out, expected)


@pytest.mark.parametrize("task", ["one", pytest.param("two", marks=pytest.mark.full), "three"])
def test_killed_between_the_commit_and_the_results(
    task: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, out, commit = never_stopped("packnet", home), tmp_path / "run", Bank.commit

    def stop(self: Bank, records: Any, *args: Any, **more: Any) -> None:
        commit(self, records, *args, **more)
        if task == list(records)[-1]:
            kill()

    with monkeypatch.context() as patch:
        patch.setattr(Bank, "commit", stop)
        assert not survives(partial(small.run_saved, "packnet", out))
    assert Bank.open(out / "bank").tasks[-1] == task
    assert task not in small.results(out)["finished"] if (out / "results.json").exists() else task == "one"
    small.run_saved("packnet", out)
    small.assert_same(out, expected)


def test_killed_while_the_last_commit_tidies_up(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, out, free = never_stopped("packnet", home), tmp_path / "run", store.free

    def stop(folder: Path, digests: Any) -> None:
        if len(Bank.open(folder).tasks) == 3:
            kill()
        free(folder, digests)

    with monkeypatch.context() as patch:
        patch.setattr(store, "free", stop)
        assert not survives(partial(small.run_saved, "packnet", out))
    assert len(small.files(out / "bank")) > len(small.files(expected / "bank"))
    small.run_saved("packnet", out)
    small.assert_same(out, expected)


def start(method: str, out: Path, pause: float) -> subprocess.Popen[bytes]:
    """The run in a fresh interpreter, slowed down."""
    code = (
        "import sys, time; from pathlib import Path; from torch.nn import functional as F\n"
        "from polymask.learning.objective import Objective; from tests.learning import small\n"
        f"slow = lambda logits, y: time.sleep({pause}) or F.cross_entropy(logits, y)\n"
        "small.run_saved(sys.argv[1], Path(sys.argv[2]), objective=Objective(loss=slow))"
    )
    told = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code, method, str(out)], cwd=REPOSITORY, env=told)


def kill_when(process: subprocess.Popen[bytes], moment: Callable[[], bool]) -> None:
    """SIGKILL a process as soon as something can be seen from outside."""
    while not moment():
        assert process.poll() is None, "the run ended before its moment came"
        time.sleep(0.002)
    process.kill()
    process.wait()


def in_phase(out: Path, task: str, phase: str) -> bool:
    """Whether the checkpoint is of a phase of a task."""
    try:
        saved = folder.load_checkpoint(out, torch.device("cpu")) or {}
    except FileNotFoundError:
        return False
    return (saved.get("task"), saved.get("phase")) == (task, phase)


@pytest.mark.full
def test_a_fresh_interpreter_is_killed_while_it_retrains(tmp_path: Path, home: Path) -> None:
    out = tmp_path / "run"
    kill_when(start("packnet", out, 0.02), lambda: in_phase(out, "two", "retrain"))
    small.run_saved("packnet", out)
    small.assert_same(out, never_stopped("packnet", home))


@pytest.mark.full
@pytest.mark.parametrize("method", small.METHODS)
def test_fresh_interpreters_are_killed_again_and_again(method: str, tmp_path: Path, home: Path) -> None:
    out = tmp_path / "run"
    moments: list[Callable[[], bool]] = [
        lambda: in_phase(out, "two", "retrain" if method == "packnet" else "train"),
        lambda: len(Bank.open(out / "bank").tasks) == 2,
    ]
    for moment in moments:
        kill_when(start(method, out, 0.02), moment)
    assert start(method, out, 0.0).wait() == 0
    small.assert_same(out, never_stopped(method, home))


def test_a_checkpoint_is_written_when_its_time_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=partial(next, map(float, count(0, 10))), perf_counter=time.perf_counter)
    monkeypatch.setattr("polymask.learning.train.open_task.time", clock)
    written: list[tuple[str, str, int, int]] = []

    def note(folder: Path, state: dict[str, Any]) -> None:
        progress = state["progress"]
        written.append((state["task"], state["phase"], progress["epoch"], progress["begun"].get("batches", 0)))

    monkeypatch.setattr("polymask.learning.folder.save_checkpoint", note)
    training = Training(epochs=4, batch_size=16, save_every=55)
    small.run_saved("packnet", tmp_path / "run", [small.task("one")], training=training)
    # It looks at the clock when it starts, after every step but an epoch's last, after every epoch, and when it has
    # written: of the looks, ten seconds apart, every sixth comes late enough.
    phases, epochs = ("train", "retrain"), range(4)
    looks = [("one", phase, epoch, done) for phase in phases for epoch in epochs for done in (1, 2, 3, 0)]
    expected = [(task, phase, epoch + (not done), done) for task, phase, epoch, done in looks[5::6]]
    assert written == expected


DRAWS = ("supsup", "exssnet", "tfm")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in DRAWS else pytest.mark.full) for n, kind in METHODS.items() if not kind.needs],
)
def test_a_finished_run_is_what_it_was_when_it_is_opened_again(name: str, tmp_path: Path) -> None:
    """A method that draws its weights when it is made must not draw them over what the finished tasks read."""
    reports = []
    for _ in range(2):
        net = build_net("mlp", (1, 8, 8), 10, hidden=(12, 12), seed=0)
        stream, training = make_stream("digits-permuted", tasks=2, seed=0), Training(epochs=1, device="cpu")
        reports.append(learn(net, stream, name, out=tmp_path / "run", training=training).report)
    assert reports[0]["logit_drift"] == reports[1]["logit_drift"]
    assert reports[0]["accuracy"] == reports[1]["accuracy"]


def test_what_rounding_costs_is_known_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training, begin = replace(small.SAVED, private_bits=8), Session._phase
    run = partial(small.run, "piggyback", tmp_path / "run", training=training)

    def stop(self: Session, task: Any, *args: Any) -> Any:
        return kill() if task.name == "three" else begin(self, task, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_phase", stop)
        assert not survives(run)
    assert list(run().report["rounding"]) == ["one", "two", "three"]
