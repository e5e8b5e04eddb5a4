"""Comparisons: one table, resumable, in which a run that fails is seen to fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polymask.cli.main import main
from polymask.learning import compare as module
from polymask.learning.compare import compare, rows
from polymask.learning.loop import NotFinite
from polymask.learning.training import Training

SAME: dict[str, Any] = {"tasks": 2, "training": Training(epochs=1), "net": {"hidden": [16]}}


def test_one_table_over_methods_and_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["compare", "--methods", "packnet", "finetune", "independent", "joint", "--seeds", "0", "1", "--tasks", "2"]
    argv += ["--epochs", "1", "--net.hidden", "[16]", "--ratio", "0.4", "--out", str(tmp_path)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    found = {row["method"]: row for row in json.loads((tmp_path / "table.json").read_text())}
    assert list(found) == ["packnet", "finetune", "independent", "joint"]
    assert all("±" in row["average accuracy"] for row in found.values())
    assert (found["packnet"]["max logit drift"], found["independent"]["max logit drift"]) == ("0", "0")
    assert float(found["finetune"]["max logit drift"]) > 0
    assert (found["joint"]["bwt"], found["joint"]["max logit drift"]) == ("-", None)
    assert all(method in (tmp_path / "table.md").read_text() for method in found)
    assert "average accuracy" in out
    assert json.loads((tmp_path / "packnet-1" / "results.json").read_text())["options"]["ratio"] == 0.4
    assert main(argv) == 0
    assert capsys.readouterr().out == out


def test_what_is_finished_is_not_learned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(["packnet"], [0], tmp_path, **SAME)
    monkeypatch.setattr("polymask.learning.session.train_phase", lambda *_: pytest.fail("learned again"))
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
        "seconds",
    ]
    assert next(iter(rows({"hat": [{"error": "NaN", "seconds": None}]})[0].items())) == ("method", "hat")
    assert rows({"hat": [{"error": "NaN", "seconds": None}]})[0]["average metric"] == "-"
