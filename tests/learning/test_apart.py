"""What a run keeps to tell its tasks apart: from inputs that chose nothing, whole after any stop, and only if asked."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learning import small
from torch import Tensor, nn

from polymask.bank.bank import Bank
from polymask.inference.beside import Evidence, calibration_in, path_of, read_evidence, statistics_in, write_evidence
from polymask.inference.infer import Inference
from polymask.inference.statistics import Statistics
from polymask.learning.extend import extend
from polymask.learning.joint.prefixes import learn_joint
from polymask.learning.learn import learn
from polymask.learning.objective import Objective
from polymask.learning.train import loop
from polymask.learning.training import Training
from polymask.learning.watch import apart
from polymask.loaded import load
from polymask.streams.prepare import Feeds, prepare
from polymask.streams.stream import Task

HALF = replace(small.FAST, calibration_fraction=0.5, device="cpu")


def rows_of(feeds: Feeds, part: str) -> set[tuple[float, ...]]:
    """The inputs of a part, each once."""
    return {tuple(row.tolist()) for x, _ in getattr(feeds, part).ordered(7) for row in x}


@pytest.mark.parametrize("given", [True, False])
def test_the_half_that_calibrates_is_cut_from_validation_class_by_class_and_is_in_no_other_part(given: bool) -> None:
    task = small.task("one", count=120)
    task = task if given else replace(task, val=None)
    whole, cut = (prepare(task, seed=0, val_fraction=0.2, calibration_fraction=f) for f in (None, 0.5))
    assert whole.calibration is None
    assert cut.calibration is not None
    val, calibration = rows_of(cut, "val"), rows_of(cut, "calibration")
    assert not val & calibration
    assert val | calibration == rows_of(whole, "val")
    assert len(val) == len(calibration) == 12
    assert rows_of(cut, "train") == rows_of(whole, "train")
    y = torch.cat([y for _, y in cut.calibration.ordered(5)])
    assert y.bincount().tolist() == [4, 4, 4]
    again = prepare(task, seed=1, val_fraction=0.2, calibration_fraction=0.5)
    assert rows_of(again, "calibration") != calibration
    assert rows_of(prepare(task, seed=0, val_fraction=0.2, calibration_fraction=0.5), "calibration") == calibration


def test_nothing_that_chose_an_epoch_calibrates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chose: list[Tensor] = []
    measured: list[Tensor] = []
    evaluate, measure, calibrate = loop.evaluate, Statistics.measure.__func__, apart.calibrate

    def noted(model: Any, feed: Any, *more: Any) -> Any:
        chose.extend(x for x, _ in feed.ordered(100))
        return evaluate(model, feed, *more)

    def held(cls: Any, network: Any, head: str, train: Any, held_out: Any, **more: Any) -> Any:
        train, held_out = list(train), list(held_out)
        measured.extend(x for x, _ in held_out)
        assert sum(len(y) for _, y in train) == 64
        return measure(cls, network, head, train, held_out, **more)

    def asked(inference: Any, held_out: Any) -> Any:
        measured.extend(held_out.values())
        return calibrate(inference, held_out)

    monkeypatch.setattr(loop, "evaluate", noted)
    monkeypatch.setattr(Statistics, "measure", classmethod(held))
    monkeypatch.setattr(apart, "calibrate", asked)
    small.run("piggyback", tmp_path, small.tasks()[:2], training=HALF)
    assert len(measured) == 7  # statistics, of one in the features of the other too, and two ways of asking
    rows = {tuple(row.tolist()) for x in chose for row in x}
    assert len(rows) == 24
    assert not rows & {tuple(row.tolist()) for x in measured for row in x}


@pytest.mark.parametrize("method", ["piggyback", pytest.param("packnet", marks=pytest.mark.full)])
def test_a_stopped_run_keeps_what_a_whole_one_does_and_one_that_does_not_ask_nothing(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    learned = small.run(method, one, training=HALF)
    stop = Objective(loss=small.Once(20, small.stop))
    with pytest.raises(KeyboardInterrupt):
        small.run(method, other, training=replace(HALF, save_every=0), objective=stop)
    assert 0 < len(small.files(other / "inference")) < 3
    small.run(method, other, training=HALF)
    small.assert_same(one, other)
    kept = small.files(one / "inference")
    assert kept == small.files(other / "inference")
    records = {task: learned.bank.record(task) for task in learned.tasks}  # type: ignore[union-attr]
    assert [read_evidence(one, task).is_of(record) for task, record in records.items()] == [True] * 3  # type: ignore[union-attr]
    statistics = statistics_in(one, records)
    x, _ = small.blobs("three", 4, 50, "test")
    found = Inference(Bank.open(one / "bank"), "statistics", base=small.net(), statistics=statistics)(x)
    assert found.choice.count("three") > 30
    assert calibration_in(one, records, "statistics", "distance").count == 36
    # The same command again asks nothing anew; what was lost, damaged or is of another record is measured, the same.
    monkeypatch.setattr(apart.Apart, "_ways", lambda self: pytest.fail("asked again"))
    small.run(method, one, training=HALF)
    monkeypatch.undo()
    path_of(one, "one").unlink()
    path_of(one, "two").write_bytes(b"x")
    write_evidence(one, "three", Evidence(b"another", None, {("every-mask", "entropy", 1): torch.rand(3)}))
    with pytest.warns(UserWarning, match="cut short or changed"):
        small.run(method, one, training=HALF)
    assert kept == small.files(one / "inference")
    small.run(method, tmp_path / "plain", small.tasks()[:1])
    assert not (tmp_path / "plain" / "inference").exists()


def test_a_later_task_is_measured_as_the_run_was_and_a_removed_one_leaves_nothing(tmp_path: Path) -> None:
    small.run("piggyback", tmp_path, small.tasks()[:2], training=HALF)
    later = extend(tmp_path, small.task("three", 4), small.net())
    assert [read_evidence(tmp_path, task) is None for task in later.tasks] == [False] * 3
    values = read_evidence(tmp_path, "three").values  # type: ignore[union-attr]
    assert {*values} == {("every-mask", "entropy", 1), ("statistics", "distance", 1)}
    load(tmp_path, small.net()).remove("two")
    assert not path_of(tmp_path, "two").exists()
    assert path_of(tmp_path, "one").exists()


def test_a_network_without_features_is_learned_and_said_to_have_none(tmp_path: Path) -> None:
    class Twice(small.Net):
        """Whose head reads two things."""

        def forward(self, x: Tensor) -> Tensor:
            z = self.more(self.body(x))
            return self.head(z) + self.head(z.roll(1, -1))

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = small.run("piggyback", tmp_path, small.tasks()[:1], training=HALF, model=Twice())
    assert [str(one.message) for one in said if "once in a forward pass, found 2 calls" in str(one.message)]
    evidence = read_evidence(tmp_path, run.tasks[0])
    assert evidence is not None
    assert (evidence.statistics, [*evidence.values]) == (None, [("every-mask", "entropy", 1)])


def test_what_cannot_be_calibrated_is_refused_at_the_door(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected calibration_fraction between 0 and 1, found 1"):
        Training(calibration_fraction=1.0)
    with pytest.raises(ValueError, match=r"expected out=, .*name a folder"):
        learn(small.net(), small.tasks(), training=HALF)
    with pytest.raises(ValueError, match=r"no calibration fraction for joint training, found 0\.5"):
        learn_joint(small.net(), small.tasks(), training=HALF)
    tiny = Task("tiny", small.blobs("tiny", 2, 20), val=small.blobs("tiny", 2, 1))
    with pytest.raises(ValueError, match="its validation part,' has one example, too few"):
        small.run("piggyback", tmp_path, [tiny], training=HALF)


@pytest.mark.parametrize("spare", [5, 0])
def test_a_run_is_asked_and_calibrated_by_the_entropy_whatever_is_spare(tmp_path: Path, spare: int) -> None:
    stream, x = [small.task("one"), small.task("two", 2)], small.blobs("one", 3, 5)[0]
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8))
    run = small.run("supsup", tmp_path, model=copy.deepcopy(net), stream=stream, spare=spare, training=HALF)
    by = {by: Inference(run.method, "one-shot", by)(x).scores for by in ("entropy", "superfluous")}
    assert not torch.equal(*by.values())
    kept = read_evidence(tmp_path, "one")
    assert kept is not None
    assert ("one-shot", "entropy", 1) in kept.values
    assert torch.equal(load(tmp_path, net).infer(x).scores, by["entropy"])
