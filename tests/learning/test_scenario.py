"""What a run scores where nobody says at test which task an input is of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from polymask.cli.main import main
from polymask.learning.by_name import run_named
from polymask.learning.learn import Learned, learn
from polymask.learning.objective import Objective
from polymask.learning.options import Refused
from polymask.learning.training import Training
from polymask.learning.unnamed.scenario import score_unnamed
from polymask.loaded import load
from polymask.nets import build_net
from polymask.streams import make_stream, prepare
from polymask.streams.stream import Stream

SPARE = 40


def stream() -> Stream:
    return make_stream("digits-permuted", tasks=3, seed=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    net = build_net("mlp", (1, 8, 8), 10 + SPARE, hidden=(100,), seed=0)
    training = Training(epochs=6, optimizer="rmsprop", lr=2e-3, batch_size=32, device="cpu", quiet=True)
    training = replace(training, val_fraction=0.2, calibration_fraction=0.5)
    out, options = tmp_path_factory.mktemp("run"), {"select": "threshold"}
    return learn(net, stream(), "supsup", options=options, training=training, spare=SPARE, scenario="GNu", out=out)


def by_hand(run: Learned, found: dict[str, Any], scenario: str) -> dict[str, float]:
    """The same shares, a batch at a time, each task's own network asked."""
    named = right = given = count = batches = 0.0
    for task in stream():
        feed = prepare(task, seed=0, val_fraction=0.2).test
        assert feed is not None
        for x, y in feed.ordered(found["rows"]):
            choice = found["choices"].pop(0)
            own = (run.method.plain(task.name)(x)[:, :10].argmax(1) == y).sum()
            other = (run.method.plain(choice)(x)[:, :10].argmax(1) == y).sum()
            named, batches, count = named + (choice == task.name), batches + 1, count + len(y)
            given += float(own)
            right += float(other if scenario == "GNs" else own if choice == task.name else 0)
    return {"inference": named / batches, "inferred": right / count, "given": given / count}


def test_a_run_says_what_it_scores_without_identities(run: Learned) -> None:
    found = run.report["identities"]
    assert (found["scenario"], found["way"], found["by"], found["rows"]) == ("GNu", "one-shot", "superfluous", 128)
    assert [*found["per_task"]] == run.report["finished"]
    assert found["given"] == pytest.approx(run.report["average_accuracy"])
    assert found["inference"] == 1.0
    assert found["inferred"] == pytest.approx(found["given"])


def test_what_a_run_kept_says_what_belongs_to_none_of_its_tasks(
    run: Learned,
) -> None:
    assert run.bank is not None
    held = load(run.bank.path, build_net("mlp", (1, 8, 8), 10 + SPARE, hidden=(100,), seed=0))
    test = prepare(stream()[1], seed=0).test
    assert test is not None
    x, _ = next(test.ordered(100))
    found, none = held.infer(x), held.infer(torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert found.choice.count(stream()[1].name) >= 90
    assert found.known is not None
    assert none.known is not None
    assert float(found.known.double().mean()) > 0.85 > 0.6 > float(none.known.double().mean())
    stricter = held.infer(x, reject=0.5).known
    assert stricter is not None
    assert float(stricter.double().mean()) < float(found.known.double().mean())


@pytest.mark.parametrize("scenario", ["GNu", "GNs"])
def test_a_batch_of_another_task_scores_nothing_or_what_its_labels_say(
    run: Learned, scenario: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from polymask.inference.inferred import Inferred

    said: list[str] = []

    def wrong_at_times(self: Inferred) -> list[str]:
        said.append(self.tasks[len(said) % 3])
        return [said[-1]]

    monkeypatch.setattr(Inferred, "choice", property(wrong_at_times))
    found = score_unnamed(
        run.method, list(stream()), lambda task: prepare(task, seed=0, val_fraction=0.2), scenario, rows=100
    )
    expected = by_hand(run, {**found, "choices": list(said)}, scenario)
    assert 0 < found["inference"] < 1
    # Tasks are equally large, so that the mean over tasks is that over batches and inputs.
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert found["given"] > found["inferred"]


def test_the_command_line_says_it_and_a_finished_run_can_be_asked_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--method", "supsup", "--stream", "digits-permuted", "--tasks", "2", "--epochs", "1", "--quiet"]
    words += ["--net.hidden", "[20]", "--spare", "5", "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main(words) == 0
    assert "identities" not in json.loads((tmp_path / "run" / "results.json").read_text())
    capsys.readouterr()
    assert main([*words, "--scenario", "GNs"]) == 0
    assert "GNs, asked by one-shot (superfluous), 128 inputs together: task found " in capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "results.json").read_text())["identities"]
    assert found["scenario"] == "GNs"
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "tasks found (GNs, 128 inputs at once)" in (tmp_path / "run" / "report.html").read_text()


def test_norms_of_a_tasks_own_are_asked_by_every_mask() -> None:
    net, training = build_net("convnet", (1, 8, 8), 10, widths=(4,), seed=0), Training(epochs=1, quiet=True)
    report = learn(net, stream()[:2], "piggyback", training=training, scenario="GNu").report
    assert (report["identities"]["way"], report["identities"]["by"]) == ("every-mask", "entropy")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"scenario": "NN"}, "expected a scenario of GG, GNu or GNs, found 'NN'|violates type hint"),
        ({"scenario": "GNu", "objective": Objective(metric=lambda z, y: 0.0, metric_name="zero")}, "found zero"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_learned(how: dict[str, Any], words: str) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with pytest.raises((Refused, TypeError), match=words):
        learn(net, stream(), "supsup", **how)


def test_shared_labels_and_masks_are_needed_where_they_count() -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with pytest.raises(Refused, match="same labels for GNs"):
        learn(net, make_stream("digits", tasks=5), "supsup", scenario="GNs")
    with pytest.raises(Refused, match="found joint training"):
        run_named("joint", "digits", scenario="GNu")
