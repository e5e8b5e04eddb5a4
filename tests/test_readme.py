"""The README's examples run, and its tables are those of the code."""

from __future__ import annotations

import doctest
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import polymask
from polymask.cli.catalog import BLOCKS, with_tables
from polymask.cli.generate import main, texts
from polymask.cli.main import main as program
from polymask.cli.parsers import parser_of
from polymask.methods import METHODS
from polymask.nets import build_net

ROOT = Path(__file__).parents[1]
GENERATED = ("README.md", "README.zh-CN.md", "docs/methods.md")


@pytest.mark.parametrize("name", GENERATED)
def test_generated_tables_are_up_to_date(name: str) -> None:
    text = (ROOT / name).read_text()
    assert with_tables(text) == text, f"run: python -m polymask.cli.generate {' '.join(GENERATED)}"
    assert all(f"| {method} " in text for method in METHODS)


def test_the_catalogues_are_what_the_classes_say_now() -> None:
    for path, text in texts().items():
        assert path.read_text() == text, f"run: python -m polymask.cli.generate {' '.join(GENERATED)}"


def test_a_stale_table_is_made_anew_and_the_rest_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A test writes no file of the repository: it would hide that a catalogue is stale.
    monkeypatch.setattr("polymask.cli.generate.texts", dict)
    path = tmp_path / "some.md"
    path.write_text("before\n<!-- recipes -->\n| old |\n<!-- /recipes -->\nafter\n")
    main([str(path)])
    text = path.read_text()
    assert "| old |" not in text
    assert text.startswith("before\n<!-- recipes -->\n| method ")
    assert text.endswith("<!-- /recipes -->\nafter\n")
    assert with_tables("no marker") == "no marker"
    assert set(BLOCKS) == {"methods", "options", "recipes"}


def test_the_examples_give_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest((ROOT / "README.md").read_text(), {}, "README.md", None, 0)
    assert len(test.examples) == 7
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test).failed == 0


@pytest.fixture
def own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The README's own method, in the file of which it speaks, in the folder where we are."""
    (text,) = re.findall(r"^```python\n(\"\"\".*?)```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "above.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "above", raising=False)
    return text


def test_a_method_of_ones_own_is_short_and_works_as_the_readme_shows_it(
    own_method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(own_method.splitlines()) < 40
    shown = re.findall(r"^    polymask (.*above.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [line.split()[0] for line in shown] == ["run", "add", "compare", "roles", "methods"]
    assert [program(shlex.split(line)) for line in shown] == [0] * 5
    out = capsys.readouterr().out
    assert re.search(r"^above:Above +me, now +weight", out, re.MULTILINE)
    assert re.search(r"^above:Above +start +0.01", out, re.MULTILINE)
    report = json.loads(Path("runs/above/results.json").read_text())
    assert (report["tasks"][-1], report["max_logit_drift"]) == ("digits/rotated-0", 0)
    assert report["accuracy"][-1][-1] > 0.5
    config = yaml.safe_load(Path("runs/above/config.yaml").read_text())
    assert (config["method"], config["options"]) == ("above:Above", {"start": 0.02})
    # The file that it wrote names it, so that the run goes on; a comparison's folder can be made anywhere.
    assert program(["run", "--config", "runs/above/config.yaml", "--out", "runs/above"]) == 0
    assert json.loads(Path("runs/above/results.json").read_text()) == report
    assert Path("runs/compare/above-Above-0/results.json").exists()
    assert program(["verify", "runs/above"]) == 0


@pytest.mark.parametrize("name", ["README.md", "docs/run.md", "docs/report.md"])
def test_every_command_that_is_shown_can_be_meant(name: str, own_method: str) -> None:
    commands = re.findall(r"^    polymask (\S+) ?(.*)$", (ROOT / name).read_text(), re.MULTILINE)
    assert len(commands) > 3
    for command, rest in commands:
        argv = [word for word in shlex.split(rest) if word not in ("--config", "runs/first/config.yaml")]
        parser_of(command, argv).read(argv)


def shown(text: str) -> dict[str, list[str]]:
    """What must not differ between languages: commands, code, tables of numbers, and where links lead."""
    indented = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    return {
        "commands": [line.partition("  #")[0].rstrip() for line in indented],
        "code": re.findall(r"^```\w+\n.*?^```$", text, re.MULTILINE | re.DOTALL),
        "tables": re.findall(r"<!-- methods -->.*?<!-- /methods -->", text, re.DOTALL),
        "headings": re.findall(r"^(#+) ", text, re.MULTILINE),
        "rows": ["|" for _ in re.findall(r"^\|", text, re.MULTILINE)],
        "links": re.findall(r"\]\((?!README)([^)]+)\)", text.replace("-zh-CN.md)", ".md)")),
    }


def test_both_languages_show_the_same_commands_tables_and_links() -> None:
    english, chinese = (shown((ROOT / name).read_text()) for name in ("README.md", "README.zh-CN.md"))
    assert english == chinese
    assert len(english["commands"]) > 10
    first = [(ROOT / name).read_text().partition("\n")[0] for name in ("README.md", "README.zh-CN.md")]
    assert first == ["English | [简体中文](README.zh-CN.md)", "[English](README.md) | 简体中文"]


@pytest.mark.parametrize("side", ["-", "+"])
def test_the_diff_of_a_loop_runs_on_both_sides(side: str) -> None:
    (diff,) = re.findall(r"^```diff\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    code = "".join(f"{line[1:]}\n" for line in diff.splitlines() if line[0] in (" ", side))
    net, x = build_net("mlp", (1, 8, 8), 2), torch.rand(4, 1, 8, 8)
    tasks = {name: (x, torch.tensor(labels)) for name, labels in (("first", [0, 1, 0, 1]), ("second", [1, 1, 0, 0]))}
    names: dict[str, Any] = {"polymask": polymask, "torch": torch, "net": net, "example": x, "tasks": tasks}
    exec(code, names)
    if side == "+":
        assert torch.equal(names["first"](x).argmax(1), tasks["first"][1])


def test_links_lead_somewhere() -> None:
    for name in (*GENERATED, "docs/run.md", "docs/report.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text()):
            assert ((ROOT / name).parent / link).exists(), f"{name} links to {link}"
