"""The guides run: their commands and their Python, line by line, in an empty folder."""

from __future__ import annotations

import doctest
import re
import shlex
import warnings
from pathlib import Path

import pytest
from docs.method_pages import PAPERS, page

import polymask
from polymask.cli.main import main as program

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^( *)```(console|python)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def run_commands(text: str) -> int:
    """How many commands a block holds; each must end well, and nobody is shown a task that has learned nothing."""
    commands = [line.removeprefix("$ ") for line in text.splitlines()]
    for command in commands:
        name, *argv = shlex.split(command)
        assert name == "polymask", command
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".* chance: ")
            assert program(argv) == 0, command
    return len(commands)


@pytest.mark.parametrize("name", PAPERS)
def test_a_methods_page_is_what_its_class_says_now(name: str) -> None:
    assert (DOCS / "methods" / f"{name}.md").read_text() == page(name), "run: python docs/method_pages.py"
    assert "paper" in page(name).partition("## What")[0]


LONG = ("compare", "hand-over")
"""Guides that learn with many methods, or export: what they call has tests of its own."""


@pytest.mark.parametrize(
    "guide",
    [
        pytest.param(path.stem, marks=pytest.mark.full if path.stem in LONG else ())
        for path in sorted((DOCS / "guides").glob("*.md"))
    ],
)
def test_a_guide_runs_from_an_empty_folder(
    guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    ran = 0
    for at, (_, language, text) in enumerate(BLOCK.findall((DOCS / "guides" / f"{guide}.md").read_text())):
        if language == "console":
            ran += run_commands(text)
            capsys.readouterr()
        else:
            test = doctest.DocTestParser().get_doctest(text, names, f"{guide}[{at}]", None, 0)
            assert test.examples, text
            found = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, clear_globs=False)
            names = test.globs
            assert found.failed == 0, capsys.readouterr().out
    assert ran > 1 or guide in ("add-a-method", "adapters")


def test_the_reference_shows_every_public_name() -> None:
    text = "\n".join(path.read_text() for path in DOCS.glob("reference/*.md"))
    shown = set(re.findall(r"^\.\. auto\w+:: polymask\.(\S+)$", text, re.MULTILINE))
    assert {name for name in polymask.__all__ if name != "METHODS"} <= shown


def test_the_site_has_every_page() -> None:
    index = (DOCS / "index.md").read_text()
    listed = set(re.findall(r"^(?:.*<)?([\w/-]+)>?$", index, re.MULTILINE))
    pages = {
        path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md") if "site" not in path.parts
    }
    assert pages - {"index"} == listed & pages
