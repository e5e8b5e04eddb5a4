"""What a score is called, and what is said of a task that ended at chance."""

from __future__ import annotations

import csv
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learning import small
from torch.nn import functional as F

from polymask.cli.commands.run import summary
from polymask.learning.extend import extend
from polymask.learning.figures.table import rows
from polymask.learning.log.chance import at_chance
from polymask.learning.objective import Objective, accuracy
from polymask.learning.results import Results
from polymask.learning.training import Training
from polymask.parts.seeds import generator
from polymask.report.measured import Measured, read_rows
from polymask.streams.stream import Task


def noise(name: str = "noise", count: int = 60, test: bool = True) -> Task:
    """Labels that no input tells anything of."""
    parts = {
        part: (torch.randn(count, small.WIDTH, generator=generator(name, part)), torch.arange(count) % 3)
        for part in ("train", "val", "test")
    }
    return Task(name, parts["train"], parts["val"], parts["test"] if test else None)


def untested(name: str) -> Task:
    return replace(small.task(name), test=None)


def said(method: str, stream: list[Task] | None = None, **more: Any) -> tuple[str, dict[str, Any]]:
    """The one warning of a run over noise, and the run's report."""
    with pytest.warns(UserWarning, match="at chance|from chance") as caught:
        report = small.run(method, None, [noise()] if stream is None else stream, **more).report
    (text,) = [str(one.message) for one in caught if " chance" in str(one.message)]
    return text, report


def test_a_score_without_a_test_part_is_called_validation_wherever_it_stands(tmp_path: Path) -> None:
    report = small.run("finetune", tmp_path, [untested("one"), untested("two")]).report
    assert (report["split"], report["splits"]) == ("validation", ["validation"] * 2)
    with (tmp_path / "accuracy.csv").open(newline="") as file:
        assert {line["split"] for line in csv.DictReader(file)} == {"validation"}
    shown = "\n".join(summary({**report, "out": "here"}))
    assert "validation accuracy when learned" in shown
    assert "average validation accuracy" in shown
    assert "which has also chosen the epoch" in shown
    assert "average validation accuracy" in rows({"finetune": [report]})[0]


def test_of_a_stream_that_has_both_the_table_says_which() -> None:
    report = small.run("finetune", None, [small.task("one"), untested("two")]).report
    assert (report["split"], report["splits"]) == ("mixed", ["test", "validation"])
    table = summary({**report, "out": "here"})[0].splitlines()
    assert table[0].split()[4:7] == ["at", "the", "end"]
    assert [line.split()[3] for line in table[2:]] == ["test", "validation"]
    plain = small.run("finetune", None, [small.task("one")]).report
    assert plain["split"] == "test"
    assert "validation" not in "\n".join(summary({**plain, "out": "here"}))


def test_what_an_older_version_wrote_of_a_split_is_read(tmp_path: Path) -> None:
    sheet = tmp_path / "accuracy.csv"
    sheet.write_text("after,on,value,split,setting\none,one,0.5,val,s\ntwo,one,0.5,test,s\ntwo,two,0.5,test,s\n")
    found = read_rows(sheet)
    assert found["one"]["one"] == Measured(0.5, "validation", "s")
    assert found["two"]["two"] == Measured(0.5, "test", "s")
    old = {"tasks": ["one"], "accuracy": [[0.5]], "seconds_per_task": {}}
    report = Results.from_json(old, ["one"], True).as_json({}, {})
    assert (report["split"], report["splits"], report["warnings"]) == (None, [None], [])


@pytest.mark.parametrize(
    ("value", "examples", "chance", "found"),
    [
        (0.59, 100, 0.5, True),
        (0.61, 100, 0.5, False),
        (0.51, 10_000, 0.5, True),
        (0.52, 10_000, 0.5, False),
        (0.2, 100, 0.5, True),  # worse than any constant answer
        (1.0, 3, 0.4, False),
        (1.0, 2, 0.5, True),  # two examples cannot tell
        (1.0, 30, 1.0, False),  # of one class alone something else is said
        (0.1, 100, None, False),
        (0.1, 0, 0.5, False),
    ],
)
def test_what_is_within_noise_of_chance(value: float, examples: int, chance: float | None, found: bool) -> None:
    assert at_chance(Measured(value, "test", "s", examples, chance)) is found


def test_a_task_at_chance_says_so_with_numbers_and_the_rate(tmp_path: Path) -> None:
    training = Training(epochs=15, batch_size=16, lr=3e-3)
    with pytest.warns(UserWarning, match="task 'noise' ended at chance: test accuracy") as caught:
        report = small.run("finetune", tmp_path, [small.task("one"), noise()], training=training).report
    (found,) = report["warnings"]
    assert (found["task"], found["kind"], found["split"], found["examples"]) == ("noise", "chance", "test", 60)
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["noise"] == pytest.approx(1 / 3 + 2 * (2 / 9 / 60) ** 0.5)
    assert found["score"] == report["accuracy_when_learned"][1] <= found["noise"]
    assert "more epochs" not in found["text"]
    assert found["text"].endswith("What may help: another learning rate (--lr, now 0.003)")
    assert [str(one.message) for one in caught if "at chance" in str(one.message)] == [found["text"]]
    assert json.loads((tmp_path / "results.json").read_text())["warnings"] == [found]


def test_too_few_epochs_for_annealed_gates() -> None:
    text, _ = said("hat", options={})
    assert "more epochs, its gates are annealed and settle slowly (--epochs, now 2; its recipe has 30)" in text


def test_a_density_that_leaves_a_layer_without_weights_is_named_with_what_it_keeps() -> None:
    text, _ = said("wsn", options={"density": 0.02})
    assert "a larger density (--density, now 0.02): more.0.weight keeps 5 of 192 weights" in text
    assert text.index("density") < text.index("more epochs") < text.index("learning rate")
    assert "keeps" not in said("wsn", options={"density": 0.5})[0]


def test_an_untrained_network_under_piggyback() -> None:
    assert "trained weights to start from" in said("piggyback", options={"backbone": "given"})[0]
    assert "trained weights" not in said("piggyback", options={"backbone": "first-task"})[0]


def test_two_examples_cannot_tell() -> None:
    text, _ = said("finetune", [noise(count=2)])
    assert "cannot be told from chance" in text
    assert "ended at chance" not in text
    assert text.endswith("too few for any score to tell. What may help: more examples to measure it on")


class OwnAccuracy:
    """A metric of the user's; what chance is under it nobody knows."""

    def __call__(self, logits: torch.Tensor, y: torch.Tensor) -> float:
        return accuracy(logits, y)


@pytest.mark.parametrize("what", ["learned", "other metric"])
def test_nothing_is_said_of_what_was_learned_or_has_another_metric(what: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if what == "learned":
            report = small.run("finetune", None, [small.task("one")], training=Training(epochs=15, lr=1e-2)).report
        else:
            objective = Objective(F.cross_entropy, OwnAccuracy(), "accuracy")
            report = small.run("finetune", None, [noise()], objective=objective).report
    assert report["warnings"] == []


def test_a_run_that_was_killed_finds_again_what_it_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="ended at chance"):
        before = small.run("wsn", tmp_path, [noise()], options={"density": 0.02}).report
    (tmp_path / "results.json").unlink()
    after = small.run("wsn", tmp_path, [noise()], options={"density": 0.02}).report
    assert after["warnings"] == before["warnings"] != []
    with pytest.warns(UserWarning, match="task 'more' ended at chance"):
        later = extend(tmp_path, noise("more"), small.net(), training=Training(epochs=1)).report
    assert [one["task"] for one in later["warnings"]] == ["noise", "more"]
    assert later["warnings"][0] == before["warnings"][0]
