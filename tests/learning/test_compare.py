"""Comparisons: one table, resumable, in which a run that fails is seen to fail."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from polymask.cli.main import main
from polymask.learning import compare as module
from polymask.learning.compare import compare
from polymask.learning.figures.cost import FILE
from polymask.learning.figures.table import RAW, numbers, raw, rows, write
from polymask.learning.results import Forgot
from polymask.learning.train.loop import NotFinite
from polymask.learning.training import Training

SAME: dict[str, Any] = {"tasks": 2, "training": Training(epochs=1), "net": {"hidden": [16]}}


def test_one_table_over_methods_and_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["compare", "--methods", "packnet", "finetune", "independent", "joint", "--seeds", "0", "1", "--tasks", "2"]
    argv += ["--epochs", "1", "--net.hidden", "[16]", "--ratio", "0.4", "--out", str(tmp_path)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    found = {row["method"]: row for row in json.loads((tmp_path / "table.json").read_text())}
    assert list(found) == ["packnet", "finetune", "independent", "joint"]
    assert all(row["average_accuracy"]["n"] == 2 and row["average_accuracy"]["std"] >= 0 for row in found.values())
    assert found["packnet"]["max_logit_drift"] == found["independent"]["max_logit_drift"] == 0
    assert found["finetune"]["max_logit_drift"] > 0
    assert (found["joint"]["bwt_gem"]["mean"], found["joint"]["max_logit_drift"]) == (None, None)
    assert out.count("±") > 8
    assert all(f"\n{name} & " in (tmp_path / "table.tex").read_text() for name in found)
    assert all(f"| {name} " in (tmp_path / "table.md").read_text() for name in found)
    # A network of 64 inputs, 16 units and a head of five.
    assert found["packnet"]["parameters"] == 64 * 16 + 16 + 16 * 5 + 5
    assert found["packnet"]["latency_ms"]["mean"] > 0
    assert (found["joint"]["parameters"], found["joint"]["latency_ms"]["mean"]) == (None, None)
    with (tmp_path / "runs.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(one["method"], one["seed"], one["place"]) for one in lines][:3] == [
        ("packnet", "0", "0"),
        ("packnet", "0", "1"),
        ("packnet", "1", "0"),
    ]
    ends = [float(one["at_the_end"]) for one in lines if one["method"] == "packnet"]
    assert sum(ends) / 4 == pytest.approx(found["packnet"]["average_accuracy"]["mean"])
    assert json.loads((tmp_path / "packnet-1" / "results.json").read_text())["options"]["ratio"] == 0.4
    assert main(argv) == 0
    assert capsys.readouterr().out == out


def test_what_is_finished_is_not_learned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(["packnet"], [0], tmp_path, **SAME)
    monkeypatch.setattr("polymask.learning.train.session.train_phase", lambda *_: pytest.fail("learned again"))
    compare(["packnet"], [0], tmp_path, **SAME)


def test_a_comparison_of_other_settings_is_refused(tmp_path: Path) -> None:
    compare(["linear_probe"], [0], tmp_path, **SAME)
    with pytest.raises(ValueError, match="epochs: 1 there, 2 now"):
        compare(["linear_probe"], [0], tmp_path, **{**SAME, "training": Training(epochs=2)})


def test_a_run_that_fails_leaves_the_others_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, lines = module.run_named, []

    def breaks(method: str, **how: Any) -> dict[str, Any]:
        if method == "finetune" and how["seed"] == 1:
            raise NotFinite("expected finite numbers, found NaN")
        return real(method, **how)

    monkeypatch.setattr(module, "run_named", breaks)
    reports = compare(["finetune", "linear_probe"], [0, 1], tmp_path, say=lines.append, **SAME)
    assert "finetune, seed 1: failed: expected finite numbers, found NaN" in lines
    table = rows(reports)
    # A mean over the seeds that happened to work would flatter the method.
    assert (table[0]["average accuracy"], table[0]["max logit drift"]) == ("-", None)
    assert "±" in str(table[1]["average accuracy"])


def test_weights_reach_only_the_methods_that_start_from_them(tmp_path: Path) -> None:
    reports = compare(["packnet", "piggyback", "supsup"], [0], tmp_path, weights="first-task", **SAME)
    assert reports["piggyback"][0]["options"]["backbone"] == "first-task"
    assert "backbone" not in reports["packnet"][0]["options"]


def test_each_method_is_given_what_it_can_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, tuple[str | None, dict[str, Any]]] = {}
    report = {"metric": "accuracy", "average_accuracy": 0.25, "bwt_gem": 0.0, "max_logit_drift": 0.0, "seconds": 2.0}

    def noted(method: str, *, weights: str | None, options: dict[str, Any], **_: Any) -> dict[str, Any]:
        given[method] = weights, options
        return {**report, "average_accuracy": None if method == "supsup" else 0.25}

    monkeypatch.setattr(module, "run_named", noted)
    lines: list[str] = []
    asked = {"packnet": {"ratio": 0.4}, "joint": {"heads": "own"}}
    compare(["packnet", "supsup", "joint"], [0], tmp_path, weights="a file", options=asked, say=lines.append)
    # SupSup draws its weights; joint training measures the last prefix of the stream alone, unless told otherwise.
    assert given == {
        "packnet": ("a file", {"ratio": 0.4}),
        "supsup": (None, {}),
        "joint": ("a file", {"prefixes": "last", "heads": "own"}),
    }
    assert lines == [
        f"{name}, seed 0: accuracy {x} in 2.0 s" for name, x in zip(given, ("0.2500", "-", "0.2500"), strict=True)
    ]
    assert (tmp_path / "table.md").read_text().splitlines()[-1].startswith("| joint")
    compare(["joint"], [0], tmp_path, options={"joint": {"prefixes": "all"}})
    assert given["joint"] == (None, {"prefixes": "all"})


def test_spare_outputs_are_given_to_methods_whose_tasks_share_a_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def noted(method: str, **how: Any) -> dict[str, Any]:
        given[method] = how.get("spare", "not said")
        return {"metric": "accuracy", "average_accuracy": None, "bwt_gem": None, "max_logit_drift": None, "seconds": 1}

    monkeypatch.setattr(module, "run_named", noted)
    lines: list[str] = []
    compare(["supsup", "packnet"], [0], tmp_path, spare=5, say=lines.append)
    assert given == {"supsup": 5, "packnet": 0}
    assert lines[0] == "Spare outputs are for heads='masked' alone, and not for packnet."
    compare(["supsup", "packnet"], [0], tmp_path)
    assert given == {"supsup": "not said", "packnet": "not said"}


def test_spare_outputs_that_no_method_can_use_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"supsup": {"heads": "private"}}
    monkeypatch.setattr(module, "run_named", lambda *_, **how: pytest.fail("learned"))
    with pytest.raises(ValueError, match="for spare=5, found packnet, supsup, where each has a head of"):
        compare(["packnet", "supsup"], [0], tmp_path, spare=5, options=options)
    with pytest.raises(ValueError, match="expected one device for a comparison, found 2: run each method by itself"):
        compare(["hat"], [0], tmp_path, training=Training(devices=2))


def test_every_method_that_spare_outputs_are_not_for_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run_named", lambda *_, **how: {"error": "none", "seconds": None})
    lines: list[str] = []
    compare(["packnet", "supsup", "wsn"], [0], tmp_path, spare=5, training=Training(), say=lines.append)
    assert lines[0] == "Spare outputs are for heads='masked' alone, and not for packnet, wsn."


def test_a_failed_run_is_one_row_and_any_other_error_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Exception] = [NotFinite("found NaN"), Forgot("found a change"), ValueError("found something else")]

    def fails(method: str, **how: Any) -> dict[str, Any]:
        raise errors.pop(0)

    monkeypatch.setattr(module, "run_named", fails)
    monkeypatch.setattr(module, "cost_of_run", lambda _: {"parameters": 5})
    lines: list[str] = []
    found = compare(["hat"], [0, 1], tmp_path, say=lines.append)["hat"]
    assert found == [{"error": "found NaN", "seconds": None}, {"error": "found a change", "seconds": None}]
    assert lines == ["hat, seed 0: failed: found NaN", "hat, seed 1: failed: found a change"]
    with pytest.raises(ValueError, match="something else"):
        compare(["hat"], [0], tmp_path)


def test_raw_rows_say_every_task_and_of_a_failed_run_why() -> None:
    run = {"tasks": ["a", "b"], "finished": ["a"], "accuracy_when_learned": [0.5, None], "accuracy_at_the_end": [0.25]}
    run |= {"logit_drift": {"a": 0.0}, "bytes": {"per_task": [7]}, "seconds_per_task": {"a": 1.0}}
    found = raw({"hat": [run, {"error": "NaN", "seconds": None}]}, [3, 4])
    assert [[row.get(name) for name in RAW] for row in found] == [
        ["hat", 3, "a", 0, 0.5, 0.25, 0.0, 7, 1.0, None],
        ["hat", 3, "b", 1, None, None, None, None, None, None],
        ["hat", 4, None, None, None, None, None, None, None, "NaN"],
    ]


def test_raw_rows_of_a_run_that_says_little() -> None:
    found = raw(
        {"hat": [{"tasks": ["a"]}], "joint": [{"tasks": ["a"], "accuracy_at_the_end": [0.5], "bytes": None}]}, [0]
    )
    assert [[row[name] for name in ("task", "when_learned", "at_the_end", "bytes")] for row in found] == [
        ["a", None, None, None],
        ["a", None, 0.5, None],
    ]


def test_every_number_of_a_table() -> None:
    run = {"metric": "accuracy", "average_accuracy": 0.25, "bwt_gem": -0.5, "max_logit_drift": 0.125, "seconds": 2.0}
    run |= {"latency_ms": 1.5, "parameters": 12345, "bytes": {"backbone": 4000, "per_task": [100, 300]}}
    other = {
        **run,
        "average_accuracy": 0.75,
        "bwt_gem": 0.5,
        "max_logit_drift": 0.25,
        "seconds": 4.0,
        "latency_ms": 2.5,
    }
    found = numbers({"hat": [{**run, "parameters": None}, other]})[0]
    std = {"average_accuracy": 0.5, "bwt_gem": 0.0, "latency_ms": 2.0, "seconds": 3.0, "bytes_per_task": 200.0}
    assert {name: found[name]["mean"] for name in std} == std
    assert [found[name]["n"] for name in std] == [2, 2, 2, 2, 4]
    rest = {name: value for name, value in found.items() if name not in std}
    assert rest == {
        "method": "hat",
        "metric": "accuracy",
        "max_logit_drift": 0.25,
        "shared_bytes": 4000,
        "parameters": 12345,
    }
    assert rows({"hat": [run]})[0] == {
        "method": "hat",
        "average accuracy": "0.2500",
        "bwt": "-0.5000",
        "max logit drift": "0.125",
        "bytes per task": "200 B",
        "shared bytes": "4.00 kB",
        "parameters": "12,345",
        "latency, ms": "1.50",
        "seconds": "2.0",
    }
    bare = numbers({"hat": [{"average_accuracy": 0.25}]})[0]
    assert (bare["shared_bytes"], bare["parameters"], bare["max_logit_drift"]) == (None, None, None)
    assert rows({"hat": [{"average_accuracy": 0.25}]})[0]["parameters"] is None


def test_what_a_comparison_writes(tmp_path: Path) -> None:
    reports = {"hat": [{"tasks": ["a"], "average_accuracy": 0.25}, {"error": "no \udcff letter", "seconds": None}]}
    write(tmp_path, reports, [3, 4])
    text = {one.name: one.read_bytes().decode() for one in tmp_path.iterdir()}
    assert set(text) == {"table.md", "table.tex", "table.json", "runs.csv"}
    assert "4,,,,,,,,no ? letter" in text["runs.csv"]
    assert all(content.endswith("\n") for content in text.values())
    assert text["table.tex"].endswith("\\end{tabular}\n")
    assert text["table.md"].count("\n") == 3
    assert json.loads(text["table.json"])[0]["seeds"] == [3, 4]


def test_a_mean_with_a_missing_seed_is_no_number(tmp_path: Path) -> None:
    found = numbers({"hat": [{"metric": "loss", "average_accuracy": 0.5}, {"error": "NaN", "seconds": None}]})[0]
    assert (found["metric"], found["average_accuracy"]) == ("loss", {"mean": None, "std": None, "n": 1})
    write(tmp_path, {"a&b_c": [{"error": "50 % \\ NaN", "seconds": None}]}, [0])
    assert r"a\&b\_c & - &" in (tmp_path / "table.tex").read_text()


def test_what_answering_costs_is_measured_once_and_again_after_a_new_task(tmp_path: Path) -> None:
    compare(["linear_probe"], [0], tmp_path, **SAME)
    path = tmp_path / "linear_probe-0" / FILE
    first = path.read_bytes()
    assert "32 rows" in json.loads(first)["how"]
    compare(["linear_probe"], [0], tmp_path, **SAME)
    assert path.read_bytes() == first
    for old in (first[:20], first.replace(b"digits/5..9", b"another")):
        path.write_bytes(old)
        (report,) = compare(["linear_probe"], [0], tmp_path, **SAME)["linear_probe"]
        assert json.loads(path.read_text())["latency_ms"] == report["latency_ms"] > 0
        assert report["task"] == "digits/5..9"


def test_several_devices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one device for a comparison, found 2"):
        compare(["packnet"], [0], tmp_path, training=Training(devices=2))


def test_a_table_reports_the_largest_drift_and_the_bytes_of_all_runs() -> None:
    run = {"metric": "accuracy", "average_accuracy": 0.5, "bwt_gem": 0.0, "seconds": 1.0}
    runs = [
        {**run, "max_logit_drift": drift, "bytes": {"backbone": 4000, "per_task": sizes}}
        for drift, sizes in ((0.1, [100]), (0.3, [300, 500]), (0.2, [100, 0]))
    ]
    row = rows({"adahat": runs})[0]
    assert (row["max logit drift"], row["bytes per task"], row["shared bytes"]) == ("0.3", "200 B", "4.00 kB")
    assert (row["average accuracy"], row["bwt"], row["seconds"]) == (
        "0.5000 ± 0.0000",
        "0.0000 ± 0.0000",
        "1.0 ± 0.0",
    )
    assert list(row) == [
        "method",
        "average accuracy",
        "bwt",
        "max logit drift",
        "bytes per task",
        "shared bytes",
        "parameters",
        "latency, ms",
        "seconds",
    ]
    assert next(iter(rows({"hat": [{"error": "NaN", "seconds": None}]})[0].items())) == ("method", "hat")
    assert rows({"hat": [{"error": "NaN", "seconds": None}]})[0]["average metric"] == "-"
