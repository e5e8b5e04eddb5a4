"""The tables of methods, made from each class's card, signature and records, for README, docs and command line."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from docstring_parser import parse

from polymask.bank.bank import Bank
from polymask.learning.config import options_of
from polymask.method.contract import Method
from polymask.methods import METHODS
from polymask.nets import build_net
from polymask.report.table import human_bytes, markdown

Rows = list[dict[str, object]]
TASKS = 5


def methods_table() -> Rows:
    """One row per method in the field's terms, with the bytes that a task takes on a small network.

    >>> [row["method"] for row in methods_table()][:2]
    ['packnet', 'piggyback']
    """
    return [_row(name, kind) for name, kind in METHODS.items()]


def options_table() -> Rows:
    """One row per option of a method, with its default and what its docstring says of it.

    >>> options_table()[0]["option"]
    'tasks'
    """
    rows: Rows = []
    for name, kind in METHODS.items():
        said = {one.arg_name: " ".join((one.description or "").split()) for one in parse(kind.__doc__ or "").params}
        for option, default in options_of(kind).items():
            text = "none" if default is None else str(default)
            rows.append({"method": name, "option": option, "default": text, "meaning": said.get(option, "")})
    return rows


def recipes_table() -> Rows:
    """One row per phase of a method: how it is trained unless the run says otherwise."""
    return [
        {"method": name, "phase": phase, **{key: str(value) for key, value in vars(kind.recipes[phase]).items()}}
        for name, kind in METHODS.items()
        for phase in kind.phases
    ]


def _row(name: str, kind: type[Method]) -> dict[str, object]:
    card = kind.card
    return {
        "method": name,
        "source": card.source,
        "masks": card.masks,
        "values": card.values,
        "chosen": card.chosen,
        "overlap": card.overlap,
        "sparsity": card.sparsity,
        "shared weights": card.backbone,
        "scenarios": " ".join(card.scenarios),
        "stores per task, besides its head": card.stores,
        "bytes per task": human_bytes(bytes_per_task(kind)),
        "exact": "yes" if card.exact is True else "no: it forgets" if card.exact is None else f"to {card.exact}",
    }


def bytes_per_task(kind: type[Method]) -> int:
    """What a task adds to a bank's files, the head among it: mean of five tasks of two classes, MLP 64-100-100.

    No training is needed: sizes follow from shapes, and every parameter is moved by 0.
    """
    model, example = build_net("mlp", (1, 8, 8), 2), torch.zeros(2, 1, 8, 8)
    own = {"tasks": TASKS, "backbone": "first-task"}
    options: dict[str, Any] = {name: value for name, value in own.items() if name in options_of(kind)}
    method = kind(model, example, **options)
    for task in map(str, range(TASKS)):
        for phase in method.phases:
            method.begin(task, phase, outputs=2, batches=[(example, torch.zeros(2, dtype=torch.long))])
            method.on_step(0.0)
            with torch.no_grad():
                for parameter in method.parameters():
                    parameter.add_(0.0)
        method.end(task)
    with tempfile.TemporaryDirectory() as folder:
        bank = Bank.create(Path(folder) / "bank", method.sites, method=method.name, drawn=method.drawn)
        bank.commit(method.records, method.sites)
        sizes: dict[str, int] = bank.sizes()["per_task"]
    return round(sum(sizes.values()) / TASKS)


BLOCKS = {"methods": methods_table, "options": options_table, "recipes": recipes_table}
"""Marker in a Markdown file -> the table that stands behind it."""


def rewritten(text: str) -> str:
    """A Markdown text with every block ``<!-- methods -->`` ... ``<!-- /methods -->`` made anew, and the others."""
    for name, rows in BLOCKS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if pattern.search(text):
            # A function's result is taken as it is; a string's backslashes would be read as references.
            text = pattern.sub(partial(_filled, markdown(rows())), text)
    return text


def _filled(table: str, found: re.Match[str]) -> str:
    return f"{found[1]}{table}\n{found[2]}"


def main(paths: Sequence[str]) -> None:
    """Rewrite the blocks of some files in place: ``python -m polymask.cli.catalog README.md docs/methods.md``."""
    for path in map(Path, paths):
        path.write_text(rewritten(path.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
