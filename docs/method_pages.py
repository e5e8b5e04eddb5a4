"""Write docs/methods/: a page a method, from its docstrings, its card, its options and its recipes.

With ``--pictures`` every method, or those named behind it, is run on digits as its page says, and the run is drawn.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import tempfile
from pathlib import Path

from polymask import write_report
from polymask.cli.catalog import METHODS_FILE, methods_table, options_table, read, recipes_table
from polymask.learning.by_name import run_named
from polymask.methods import METHODS
from polymask.report.table import markdown

DOCS = Path(__file__).parent
PAPERS = [name for name, entry in read(METHODS_FILE).items() if entry["card"]["source"] != "baseline"]
"""The methods that have a page; baselines have none."""

SECTION = re.compile(r"^(Args|Raises|Returns):\n(?:    .*\n|\n)*", re.MULTILINE)


def prose(docstring: str) -> str:
    """A docstring's paragraphs as Markdown: without its sections and examples, code in single backticks.

    >>> prose("What ``x`` is.")
    'What `x` is.'
    """
    text = SECTION.sub("", inspect.cleandoc(docstring) + "\n")
    text = re.sub(r"^>>> (?:.+\n)+", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text.replace("``", "`")).strip()


def page(name: str) -> str:
    """The page of a method."""
    entry = {name: read(METHODS_FILE)[name]}
    module = importlib.import_module(METHODS[name].__module__)
    title, _, paper = inspect.cleandoc(module.__doc__ or "").replace("``", "`").partition("\n\n")
    (facts,) = methods_table(entry)
    parts = [
        f"# {METHODS[name].__name__}",
        f"{title}\n\n{paper.strip()}",
        "## What a task reads, and what trains",
        prose(METHODS[name].__doc__ or ""),
        "## Facts",
        markdown([{"": key, name: value} for key, value in facts.items() if key != "method"]),
        "The words of this table are explained in [methods](../methods.md).",
        "## Try it",
        *tried(name),
        "## Options",
        markdown([{key: row[key] for key in ("option", "default", "meaning")} for row in options_table(entry)]),
        "## Recipes",
        markdown([{key: value for key, value in row.items() if key != "method"} for row in recipes_table(entry)]),
    ]
    return f"<!-- made by docs/method_pages.py -->\n\n{chr(10).join(part + chr(10) for part in parts)}"


def tried(name: str) -> list[str]:
    """The commands that show a method at work, and a picture of what they leave where any network will do."""
    if METHODS[name].needs:
        tables = "--stream datasets --data phones.csv books.csv --text review --label verdict"
        run = f"polymask run --method {name} {tables} --model ./bert --weights pretrained --out runs/{name}"
        return [f"    {run}\n    polymask report runs/{name}", "The tables are those of [texts](../guides/texts.md)."]
    commands = f"    polymask run --method {name} --stream digits --out runs/{name}\n    polymask report runs/{name}"
    return [commands, f"![{picture_says(name)}]({name}.svg)"]


def picture_says(name: str) -> str:
    """What is read out instead of the picture of a method's run."""
    return f"Accuracy of five tasks of two digits each, after each of them was learned by {name}"


def draw(name: str, folder: Path) -> None:
    """Run a method as its page says, and keep two pictures of the run's report."""
    from report_picture import alone  # beside this script, which is in no package

    run_named(method=name, stream="digits", out=folder)
    picture = alone(write_report(folder).read_text(), ("matrix-picture", "masks-picture"))
    (DOCS / "methods" / f"{name}.svg").write_text(picture)


def main(argv: list[str]) -> None:
    """Write all pages, and their pictures if asked."""
    for name in PAPERS:
        (DOCS / "methods" / f"{name}.md").write_text(page(name))
    if argv[:1] == ["--pictures"]:
        for name in argv[1:] or [name for name in PAPERS if not METHODS[name].needs]:
            with tempfile.TemporaryDirectory() as folder:
                draw(name, Path(folder) / name)


if __name__ == "__main__":
    main(sys.argv[1:])
