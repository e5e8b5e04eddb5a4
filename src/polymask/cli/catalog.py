"""The methods and the options of a run as the shell knows them, from files that need no torch; tables made of them."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from polymask.cli.values import Options
from polymask.learning.options import CONTRACT, JOINT
from polymask.report.table import human_bytes, markdown

Rows = list[dict[str, object]]
Entries = Mapping[str, Mapping[str, Any]]
METHODS_FILE = Path(__file__).parents[1] / "methods" / "catalog.json"
"""Method -> its card, recipes, options and bytes per task; made by ``python -m polymask.cli.generate``."""

RUN_FILE = Path(__file__).parent / "run.json"
"""What the commands, ``run_named``, ``Training``, each stream and joint training take; made with it."""


@cache
def read(path: Path) -> dict[str, Any]:
    """What a catalogue says."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def options_for(method: str) -> Options:
    """A method's own options: from the catalogue, or of a class of the user's own from itself.

    Raises:
        ValueError: if an address leads to no method.

    >>> options_for("supsup")["density"]["default"]
    0.5
    """
    if ":" not in method:
        found: Options = read(RUN_FILE)[JOINT] if method == JOINT else read(METHODS_FILE)[method]["options"]
        return found
    own = importlib.import_module("polymask.method.own").import_method(method)
    return dict(importlib.import_module("polymask.cli.describe").options_in(own, CONTRACT))


def methods_table(methods: Entries) -> Rows:
    """One row per method in the field's terms, with the bytes that a task takes on a small network.

    >>> [row["method"] for row in methods_table(read(METHODS_FILE))][:2]
    ['packnet', 'piggyback']
    """
    return [_row(name, entry["card"], entry["bytes"]) for name, entry in methods.items()]


def options_table(methods: Entries) -> Rows:
    """One row per option of a method, with its default and what its docstring says of it.

    >>> options_table(read(METHODS_FILE))[0]["option"]
    'tasks'
    """
    return [
        {
            "method": name,
            "option": option,
            "default": "none" if about["default"] is None else str(about["default"]),
            "meaning": about["meaning"],
        }
        for name, entry in methods.items()
        for option, about in entry["options"].items()
    ]


def recipes_table(methods: Entries) -> Rows:
    """One row per phase of a method: how it is trained unless the run says otherwise."""
    return [
        {"method": name, "phase": phase, **{key: str(value) for key, value in recipe.items()}}
        for name, entry in methods.items()
        for phase, recipe in entry["recipes"].items()
    ]


def _row(name: str, card: Mapping[str, Any], size: int | None) -> dict[str, object]:
    return {
        "method": name,
        "source": card["source"],
        "masks": card["masks"],
        "values": card["values"],
        "chosen": card["chosen"],
        "overlap": card["overlap"],
        "sparsity": card["sparsity"],
        "shared weights": card["backbone"],
        "scenarios": " ".join(card["scenarios"]),
        "stores per task, besides its head": card["stores"],
        "bytes per task": "-" if size is None else human_bytes(size),
        "exact": _exactness(card),
    }


def _exactness(card: Mapping[str, Any]) -> str:
    if card["exact"] is None:
        return "no: it drifts" if card["drifts"] else "no: it forgets"
    return "yes" if card["exact"] is True else f"to {card['exact']}"


BLOCKS = {"methods": methods_table, "options": options_table, "recipes": recipes_table}
"""Marker in a Markdown file -> the table that stands behind it."""


def with_tables(text: str) -> str:
    """A Markdown text with every block ``<!-- methods -->`` ... ``<!-- /methods -->`` made anew, and the others."""
    for name, rows in BLOCKS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if pattern.search(text):
            # A function's result is taken as it is; a string's backslashes would be read as references.
            text = pattern.sub(partial(_fill, markdown(rows(read(METHODS_FILE)))), text)
    return text


def _fill(table: str, found: re.Match[str]) -> str:
    return f"{found[1]}{table}\n{found[2]}"
