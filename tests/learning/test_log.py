"""What a run tells while it goes: lines on stderr, loggers of Fabric's interface, also after a stop."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from lightning_fabric.loggers.csv_logs import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.learning import small

from polymask.learning.joint.prefixes import learn_joint
from polymask.learning.log.loggers import makers
from polymask.learning.log.screen import Screen
from polymask.learning.objective import Objective
from polymask.learning.training import Training

IN_TASK_TWO = 4 * 4 + 6
"""The call of the loss in the middle of the second epoch of the second task."""


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    """A class of the user's that is a logger, at ``recorder:Recorder``."""

    class Recorder:
        def __init__(self, save_dir: str = "") -> None:
            self.place, self.told, self.params, self.ended = save_dir, [], {}, ""
            made.append(self)

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.told.append((step, metrics))

        def log_hyperparams(self, params: dict[str, Any]) -> None:
            self.params = params

        def save(self) -> None:
            pass

        def finalize(self, status: str) -> None:
            self.ended = status

    made: list[Recorder] = []
    module = ModuleType("recorder")
    module.Recorder, module.made = Recorder, made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "recorder", module)
    return Recorder


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What stands on stderr; stdout has nothing of it."""
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_without_a_terminal_a_line_a_task_and_phase(capsys: pytest.CaptureFixture[str]) -> None:
    small.run("packnet", None, small.tasks()[:2])
    found = lines(capsys)
    assert [line.rpartition(":")[0] for line in found] == [
        f"polymask: task {place} of 2, {task}, {phase}"
        for place, task in enumerate(("one", "two"), 1)
        for phase in ("train", "retrain")
    ]
    assert all("validation accuracy 0." in line and line.endswith(" s") for line in found)


def test_every_so_many_epochs_a_line_more_and_quiet_none(capsys: pytest.CaptureFixture[str]) -> None:
    training = replace(small.FAST, epochs=5, log_every=2)
    small.run("finetune", None, small.tasks()[:1], training=training)
    assert [line.partition(":")[2].partition(":")[0] for line in lines(capsys)] == [
        " one, train, epoch 2 of 5",
        " one, train, epoch 4 of 5",
        " task 1 of 1, one, train",
    ]
    small.run("finetune", None, small.tasks()[:1], training=replace(training, quiet=True))
    assert lines(capsys) == []


def test_joint_training_is_heard_as_well(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    learn_joint(small.net(), small.tasks()[:2], training=replace(small.FAST, logger="csv"), out=tmp_path)
    assert [line.partition(": validation")[0] for line in lines(capsys)] == [
        "polymask: task 1 of 2, one, joint",
        "polymask: task 2 of 2, two, joint",
    ]
    assert "two/joint/loss" in (tmp_path / "csv" / "metrics.csv").read_text()


def test_on_a_terminal_lines_stand_above_the_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    screen = Screen(4, 1, "accuracy", every=2)
    screen.start()
    for epoch in range(4):
        screen.epoch("[one]", "train", {"epoch": epoch, "loss": 1.0, "val": 0.5, "lr": 0.1}, 4)
    screen.phase(1, "[one]", "train", 0.5, 1.0)
    screen.stop()
    shown = capsys.readouterr().err
    assert "[one], train, epoch 4 of 4: loss 1, validation accuracy 0.5000" in shown
    assert "task 1 of 1" not in shown


def test_a_logger_is_told_of_epochs_scores_and_settings(recorder: type) -> None:
    logger = recorder()
    run = small.run("packnet", None, small.tasks()[:1], logger=logger)
    assert [step for step, _ in logger.told] == [0, 1, 0, 1, 1]
    assert list(logger.told[0][1]) == ["one/train/loss", "one/train/val", "one/train/lr"]
    assert logger.told[-1] == (1, {"one/test accuracy": run.report["accuracy_when_learned"][0]})
    assert logger.params["epochs"] == 2
    assert logger.params["options"]["tasks"] == 1
    assert logger.ended == "success"
    with pytest.raises(KeyboardInterrupt):
        small.run(
            "packnet", None, logger=[logger, "recorder:Recorder"], objective=Objective(loss=small.Once(3, small.stop))
        )
    assert logger.ended == sys.modules["recorder"].made[-1].ended == "failed"


def test_a_class_is_told_the_folder_and_a_score_without_test_is_called_validation(
    recorder: type, tmp_path: Path
) -> None:
    training = replace(small.FAST, logger=["recorder:Recorder"])
    small.run("finetune", tmp_path, [replace(small.task("one"), test=None)], training=training)
    (logger,) = sys.modules["recorder"].made
    assert logger.place == str(tmp_path)
    assert list(logger.told[-1][1]) == ["one/validation accuracy"]
    assert not (tmp_path / "tensorboard").exists()


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        return [{key: text for key, text in row.items() if text} for row in csv.DictReader(file)]


def scalars(folder: Path) -> dict[str, list[int]]:
    """Tag -> the steps that were noted."""
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {tag: sorted({event.step for event in found.Scalars(tag)}) for tag in found.Tags()["scalars"]}


def test_fabrics_own_loggers_go_on_in_the_same_log_after_a_stop(tmp_path: Path) -> None:
    training = replace(small.SAVED, logger="csv,tensorboard")
    small.run("packnet", tmp_path / "whole", training=training)
    for stop in (small.stop, lambda loss: loss * float("nan")):
        with pytest.raises((KeyboardInterrupt, ArithmeticError)):
            small.run(
                "packnet", tmp_path / "run", training=training, objective=Objective(loss=small.Once(IN_TASK_TWO, stop))
            )
    assert len(rows_of(tmp_path / "run")) > 4
    small.run("packnet", tmp_path / "run", training=training)
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")
    assert len(rows_of(tmp_path / "whole")) == 3 * 5
    assert scalars(tmp_path / "run") == scalars(tmp_path / "whole")
    assert scalars(tmp_path / "run")["two/train/loss"] == [0, 1]


def test_an_error_of_the_disk_in_a_logger_says_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: CSVLogger, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CSVLogger, "log_metrics", full)
    with pytest.raises(OSError, match="Finished tasks are kept: make room and start again"):
        small.run("finetune", tmp_path, training=replace(small.FAST, logger="csv"))


class Runs:
    """A stand-in for wandb or mlflow: runs by id, what each was told, and how it ended."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}

    def begin(self, old: str | None, **more: Any) -> str:
        name = old or f"run-{len(self.runs)}"
        self.runs.setdefault(name, {"told": [], "config": {}, "began": []})["began"].append(more)
        return name


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    """A package that looks like wandb."""
    kept, module = Runs(), ModuleType("wandb")

    def init(*, project: str, name: str | None, dir: str | None, id: str | None, resume: str | None) -> Any:
        run = kept.runs[kept.begin(id, resume=resume, project=project)]

        def update(params: dict[str, Any], allow_val_change: bool) -> None:
            run["config"].update(params)

        return SimpleNamespace(
            id=id or f"run-{len(kept.runs) - 1}",
            log=run["told"].append,
            config=SimpleNamespace(update=update),
            finish=lambda exit_code: run.update(code=exit_code),
        )

    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return iter([kept])


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    """A package that looks like mlflow."""
    kept, module = Runs(), ModuleType("mlflow")

    class MlflowClient:
        def get_experiment_by_name(self, name: str) -> None:
            assert name == "polymask"

        def create_experiment(self, name: str) -> str:
            return "7"

        def create_run(self, experiment_id: str, run_name: str | None = None) -> Any:
            assert experiment_id == "7"
            return SimpleNamespace(info=SimpleNamespace(run_id=kept.begin(None)))

        def update_run(self, run_id: str, status: str) -> None:
            kept.begin(run_id, status=status)

        def log_metric(self, run_id: str, key: str, value: float, step: int | None = None) -> None:
            kept.runs[run_id]["told"].append((key, step))

        def log_param(self, run_id: str, key: str, value: str) -> None:
            assert key not in kept.runs[run_id]["config"], "mlflow refuses to change it"
            kept.runs[run_id]["config"][key] = value

        def set_terminated(self, run_id: str, status: str) -> None:
            kept.runs[run_id]["code"] = status

    module.MlflowClient = MlflowClient  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return iter([kept])


@pytest.mark.parametrize(("package", "failed", "done"), [("wandb", 1, 0), ("mlflow", "FAILED", "FINISHED")])
def test_a_logger_of_another_package_goes_on_in_its_run(
    package: str, failed: object, done: object, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (kept,) = request.getfixturevalue(package)
    stream, training = [replace(small.task("one"), name="a+b/one")], replace(small.SAVED, logger=package)
    with pytest.raises(KeyboardInterrupt):
        small.run("finetune", tmp_path, stream, training=training, objective=Objective(loss=small.Once(6, small.stop)))
    (run,) = kept.runs.values()
    assert run["code"] == failed
    small.run("finetune", tmp_path, stream, training=training)
    assert len(kept.runs) == 1
    assert len(run["began"]) == 2
    assert run["code"] == done
    assert str(run["config"]["epochs"]) == "2"
    keys = {key for told in run["told"] for key in (told if isinstance(told, dict) else [told[0]])}
    name = "a_b/one" if package == "mlflow" else "a+b/one"
    assert {f"{name}/train/loss", f"{name}/test accuracy"} <= keys


@pytest.mark.parametrize(
    ("chosen", "error", "message"),
    [
        (
            "wandb",
            ModuleNotFoundError,
            r"expected the package wandb for --logger wandb, found none: pip install 'polymask\[wandb\]'",
        ),
        ("mlflow", ModuleNotFoundError, r"pip install 'polymask\[mlflow\]'"),
        ("csv", ValueError, "expected a folder for the logger 'csv', found none: give out="),
        ("nothing:here", ValueError, "found 'nothing:here': No module named 'nothing'"),
        (
            "collections:UserDict",
            ValueError,
            "expected 'collections:UserDict' to have log_metrics, log_hyperparams",
        ),
        ("functools:partial", ValueError, "that can be made without arguments"),
    ],
)
def test_what_is_no_logger_is_said_before_anything_is_learned(
    chosen: str, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(error, match=message):
        makers(chosen, None)
    with pytest.raises(error, match=message):
        small.run("finetune", None, training=replace(small.FAST, logger=chosen), objective=Objective(loss=never))


def never(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A loss that must not be asked for."""
    raise AssertionError("something was learned")


def test_settings_of_what_is_told() -> None:
    with pytest.raises(
        ValueError, match=r"expected a logger of csv, tensorboard, wandb, mlflow, or .*found 'tensorbord'"
    ):
        Training(logger="csv,tensorbord")
    with pytest.raises(ValueError, match="expected log_every of at least 1, found 0"):
        Training(log_every=0)
    assert Training(logger="csv, my.module:Own").logger == "csv, my.module:Own"
