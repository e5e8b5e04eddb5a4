"""The accuracy matrix: what is proved is what would have been measured, and nothing is proved that was not."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.learning import small

from polymask.learning.extend import extend
from polymask.learning.figures.accuracy import append_row, fill, write_rows
from polymask.learning.objective import Objective, accuracy
from polymask.learning.results import WHOLE, Results
from polymask.report.measured import Measured, read_rows

PROVED = [["measured", None, None], ["proved", "measured", None], ["proved", "proved", "measured"]]
MEASURED = [["measured", None, None], ["measured", "measured", None], ["measured", "measured", "measured"]]


def lines(out: Path) -> list[dict[str, str]]:
    with (out / "accuracy.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=() if m in ("packnet", "finetune") else pytest.mark.full) for m in small.METHODS]
)
def test_what_is_proved_is_what_would_have_been_measured(method: str, tmp_path: Path) -> None:
    new = small.run(method, tmp_path / "new").report
    everything = small.run(method, tmp_path / "all", training=replace(small.FAST, measure="all")).report
    assert new["accuracy"] == everything["accuracy"]
    assert everything["source"] == MEASURED
    assert new["source"] == (MEASURED if method == "finetune" else PROVED)
    for key in ("average_accuracy", "bwt_gem", "forgetting_chaudhry", "accuracy_when_learned", "accuracy_at_the_end"):
        assert new[key] == everything[key]
    assert new["accuracy_at_the_end"] == new["accuracy"][-1]
    assert len(lines(tmp_path / "all")) == 6
    assert len(lines(tmp_path / "new")) == (6 if method == "finetune" else 3)


def test_a_run_in_two_parts_writes_the_same_marks(tmp_path: Path) -> None:
    whole = small.run("piggyback", tmp_path / "whole").report

    with pytest.raises(KeyboardInterrupt):
        small.run_saved("piggyback", tmp_path / "parts", objective=Objective(loss=small.Once(20, small.stop)))
    assert len(lines(tmp_path / "parts")) == 2
    parts = small.run("piggyback", tmp_path / "parts").report
    assert (parts["accuracy"], parts["source"]) == (whole["accuracy"], whole["source"])
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_under_another_version_what_was_measured_is_measured_again_once(tmp_path: Path) -> None:
    out = tmp_path / "run"
    small.run("piggyback", out, small.tasks()[:2])
    rows = read_rows(out / "accuracy.csv")
    older = {after: {on: replace(one, setting="older") for on, one in row.items()} for after, row in rows.items()}
    write_rows(out / "accuracy.csv", older)
    (out / "config.yaml").unlink()
    report = small.run("piggyback", out, [*small.tasks(), small.task("four")]).report
    assert report["source"][1][:2] == ["proved", "measured"]
    assert report["source"][2:] == [["measured"] * 3 + [None], ["proved"] * 3 + ["measured"]]


def test_another_metric_of_the_same_name_proves_nothing(tmp_path: Path) -> None:
    def half(logits: torch.Tensor, y: torch.Tensor) -> float:
        return accuracy(logits, y) / 2

    out = tmp_path / "run"
    small.run("piggyback", out, small.tasks()[:2])
    later = extend(out, small.task("three", 4), small.net(), objective=Objective(metric=half)).report
    assert later["source"][2] == [None, None, "measured"]
    assert later["average_accuracy"] is None


def test_extending_says_what_the_proof_implies(tmp_path: Path) -> None:
    before = small.run("piggyback", tmp_path / "run", small.tasks()[:2]).report
    later = extend(tmp_path / "run", small.task("three", 4), small.net()).report
    assert later["accuracy"][2][:2] == before["accuracy"][1]
    assert later["source"] == PROVED
    assert later["average_accuracy"] is not None


def test_a_row_that_was_cut_short_is_measured_again(tmp_path: Path) -> None:
    rows = {
        "a": {"a": Measured(0.1, "test", "s")},
        'b, "x"\n': {"a": Measured(float("nan"), "val", "s"), 'b, "x"\n': Measured(0.1 + 0.2, "test", "s")},
    }
    path = tmp_path / "accuracy.csv"
    write_rows(path, {"a": rows["a"]})
    append_row(path, 'b, "x"\n', rows['b, "x"\n'])
    whole = path.read_bytes()
    found = read_rows(path)
    assert found["a"] == rows["a"]
    assert found['b, "x"\n']['b, "x"\n'] == Measured(0.1 + 0.2, "test", "s")
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        left = read_rows(path)
        assert all(entry.setting in ("s", "") for row in left.values() for entry in row.values())
        assert all(after in row for after, row in left.items())


def test_a_long_stream_reports_its_diagonal_and_its_end() -> None:
    tasks = [f"t{place}" for place in range(WHOLE + 1)]
    rows = {task: {task: Measured(0.5 + place / 1000, "test", "s")} for place, task in enumerate(tasks)}
    results = Results(tasks, rows, proves=True)
    found = results.as_json({}, {})
    assert found["accuracy"] is found["source"] is None
    assert found["accuracy_when_learned"] == found["accuracy_at_the_end"] == [row[t].value for t, row in rows.items()]
    assert found["average_accuracy"] == pytest.approx(sum(found["accuracy_at_the_end"]) / len(tasks))
    assert results.stands("t0", "s")
    assert not results.stands("t0", "other")
    assert not Results(tasks, rows).stands("t0", "s")


def test_a_column_is_proved_by_the_entry_above_it_alone() -> None:
    one, two = Measured(0.1, "test", "s"), Measured(0.2, "test", "s")
    rows = {"a": {"a": one}, "b": {"b": two}, "c": {"a": two, "c": one}}
    values, measured = fill(["a", "b", "c"], rows, True)
    assert values.tolist()[2] == [0.2, 0.2, 0.1]
    assert measured.tolist() == [[True, False, False], [False, True, False], [True, False, True]]


@pytest.mark.parametrize("left", ["", "after,on,value,split,setting\none,one,abc,test,s\n"])
def test_without_its_sheet_a_run_has_the_figures_of_its_report(left: str, tmp_path: Path) -> None:
    before = small.run("piggyback", tmp_path).report
    (tmp_path / "accuracy.csv").write_text(left)
    after = small.run("piggyback", tmp_path).report
    for key in ("accuracy", "source", "average_accuracy", "bwt_gem"):
        assert after[key] == before[key]


def test_a_report_that_was_cut_short_is_named_with_the_way_out(tmp_path: Path) -> None:
    before = small.run("piggyback", tmp_path).report
    path = tmp_path / "results.json"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"expected JSON in .*results\.json, found it cut short.*delete it"):
        small.run("piggyback", tmp_path)
    path.unlink()
    after = small.run("piggyback", tmp_path).report
    assert (after["accuracy"], after["source"]) == (before["accuracy"], before["source"])


@pytest.mark.parametrize(("metric", "stands"), [(accuracy, True), (lambda logits, y: 0.25, False)])
def test_after_an_addition_elsewhere_old_figures_stand_where_no_logit_moved(
    metric: Callable[..., float], stands: bool, tmp_path: Path
) -> None:
    before = small.run("piggyback", tmp_path, small.tasks()[:2]).report
    sheet = (tmp_path / "accuracy.csv").read_text()
    (tmp_path / "accuracy.csv").write_text(sheet.replace("32-true", "64-true"))
    report = extend(tmp_path, small.task("three", 4), small.net(), objective=Objective(metric=metric)).report
    assert report["max_logit_drift"] == 0
    assert report["accuracy"][2][:2] == (before["accuracy"][1] if stands else [None, None])
    assert (report["average_accuracy"] is None) is not stands


def test_a_figure_of_another_setting_stands_only_for_logits_that_did_not_move() -> None:
    rows = {"a": {"a": Measured(0.5, "test", "m, here")}, "b": {"b": Measured(0.25, "test", "m, there")}}
    at_the_end = [
        fill(["a", "b"], rows, proves, still)[0][1, 0] for proves in (True, False) for still in ({"a"}, {"b"})
    ]
    assert at_the_end == pytest.approx([0.5, math.nan, math.nan, math.nan], nan_ok=True)
