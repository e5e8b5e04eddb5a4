"""The page of published numbers is made from what was measured, and never from anything else."""

from __future__ import annotations

import csv
import importlib
import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "fidelity" / "results"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The folder of scripts as one to import from."""
    monkeypatch.syspath_prepend(RESULTS.parent)
    yield
    for path in RESULTS.parent.glob("*.py"):
        sys.modules.pop(path.stem, None)  # their names are too short to be left to others


@pytest.mark.usefixtures("scripts")
def test_the_page_is_what_the_results_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "fidelity.md"
    monkeypatch.setattr(sys, "argv", ["_table.py", "--write", str(made)])
    runpy.run_module("_table", run_name="__main__")
    assert made.read_text() == (ROOT / "docs" / "fidelity.md").read_text(), "run benchmarks/fidelity/_table.py --write"


@pytest.mark.usefixtures("scripts")
def test_what_was_measured_is_what_its_command_measures() -> None:
    about = ("method", "setting", "target", "source", "reduced")
    for script in importlib.import_module("_table").scripts():
        for target in importlib.import_module(script).TARGETS:
            if (path := RESULTS / f"{target.name}.json").exists():
                row = json.loads(path.read_text())
                assert {name: row[name] for name in about} == {name: getattr(target, name) for name in about}


def test_the_board_is_what_its_results_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    page = importlib.import_module("_board_page")
    page.write_page(tmp_path / "board.md")
    for name in ("_board", "_board_page"):
        sys.modules.pop(name, None)
    for name in ("board.md", "board.svg"):
        assert (tmp_path / name).read_text() == (ROOT / "docs" / name).read_text(), "run benchmarks/board.py --write"


@pytest.mark.parametrize("page", ["docs/units.md", "benchmarks/README.md"])
def test_scales_on_a_convolutional_network_are_as_measured(page: str) -> None:
    with (ROOT / "benchmarks" / "starts.csv").open() as file:
        runs = [line for line in csv.DictReader(file) if line["phase"] == "B"]
    for scale in ("", ", a scale a tensor", ", a scale a unit"):
        arm = "all, magnitude, norms private" + scale
        found = [float(line["accuracy"]) for line in runs if line["arm"] == arm]
        assert f"{mean(found):.2f}" in (ROOT / page).read_text()


def test_the_picture_of_orders_is_what_the_results_say() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "apd_picture.py"))["draw"]()
    assert drawn == (ROOT / "docs" / "apd-capacity.svg").read_text(), "run docs/apd_picture.py"


def test_the_picture_of_inference_is_what_the_results_say() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "inference_picture.py"))["draw"]()
    assert drawn == (ROOT / "docs" / "inference.svg").read_text(), "run docs/inference_picture.py"


def test_a_reduced_protocol_or_a_missed_target_is_never_called_reproduced() -> None:
    rows = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    assert rows
    for row in rows:
        judged = "reproduced" if row["reached"] and not row["reduced"] else "approximated"
        assert row["status"] == ("reported" if row["reached"] is None else judged)
        for name, values in row["values"].items():
            # Orders are compared after accuracies are averaged over seeds.
            assert len(values) == (1 if name.endswith(("AOPD", "MOPD")) else len(row["seeds"]))
