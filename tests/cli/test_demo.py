"""The demonstration says who forgets and who does not, from what it measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from polymask.cli.demo import SHOWN, conclusion
from polymask.cli.main import main


def test_the_demo_shows_one_table_and_who_forgot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--epochs", "1", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{name} " in out for name in SHOWN)
    assert out.count("average accuracy") == 1
    said = next(line for line in out.splitlines() if line.startswith("Largest change"))
    exact, _, moved = said.partition(";")
    assert exact.endswith(": 0 for packnet, piggyback, supsup, wsn, linear_probe, independent")
    assert "for finetune" in moved
    assert str(tmp_path) in out
    assert main(["verify", str(tmp_path / "packnet-0")]) == 0


def test_an_exact_method_that_moved_is_not_called_exact() -> None:
    reports = {"packnet": [{"max_logit_drift": 0.25}], "supsup": [{"max_logit_drift": 0.0}]}
    assert conclusion(reports) == "Largest change of a logit of a finished task: 0 for supsup; 0.25 for packnet."
