"""The README's examples run, and its tables are those of the code."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
from pathlib import Path

import pytest

from polymask.cli.catalog import BLOCKS, main, rewritten
from polymask.cli.main import COMMANDS
from polymask.cli.options import parse, words
from polymask.methods import METHODS

ROOT = Path(__file__).parents[1]
GENERATED = ("README.md", "docs/methods.md")


@pytest.mark.parametrize("name", GENERATED)
def test_generated_tables_are_up_to_date(name: str) -> None:
    text = (ROOT / name).read_text()
    assert rewritten(text) == text, f"run: python -m polymask.cli.catalog {' '.join(GENERATED)}"
    assert all(f"| {method} " in text for method in METHODS)


def test_a_stale_table_is_made_anew_and_the_rest_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "some.md"
    path.write_text("before\n<!-- recipes -->\n| old |\n<!-- /recipes -->\nafter\n")
    main([str(path)])
    text = path.read_text()
    assert "| old |" not in text
    assert text.startswith("before\n<!-- recipes -->\n| method ")
    assert text.endswith("<!-- /recipes -->\nafter\n")
    assert rewritten("no marker") == "no marker"
    assert set(BLOCKS) == {"methods", "options", "recipes"}


def test_the_examples_give_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest((ROOT / "README.md").read_text(), {}, "README.md", None, 0)
    assert len(test.examples) == 7
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test).failed == 0


@pytest.mark.parametrize("name", ["README.md", "docs/run.md"])
def test_every_command_that_is_shown_can_be_meant(name: str) -> None:
    commands = re.findall(r"^    polymask (\S+) ?(.*)$", (ROOT / name).read_text(), re.MULTILINE)
    assert len(commands) > 3
    for command, rest in commands:
        argv = [word for word in words(shlex.split(rest)) if word not in ("--config", "runs/first/config.yaml")]
        module = importlib.import_module(f"polymask.cli.commands.{COMMANDS[command][0]}")
        parse(module.PARSERS[command](argv), argv)


def test_links_lead_somewhere() -> None:
    for name in (*GENERATED, "docs/run.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text()):
            assert ((ROOT / name).parent / link).exists(), f"{name} links to {link}"
