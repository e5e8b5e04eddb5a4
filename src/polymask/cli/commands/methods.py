"""The subcommand that lists the methods; torch is needed for a class of the user's own alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from polymask.cli.catalog import METHODS_FILE, methods_table, options_table, read, recipes_table
from polymask.cli.values import UsageError
from polymask.report.table import table

CHOOSING = "Which one is for whom: docs/choosing.md, where polymask comes from; what each reached: docs/fidelity.md."


def methods(say: Callable[[str], None], method: str | None = None) -> int:
    """List the methods: what they mask, learn and store, their options and their recipes.

    Examples:
        polymask methods --method packnet

    Args:
        say: called with every table.
        method: this one alone; package.module:Class for one's own.

    Raises:
        UsageError: if there is no such method.

    Example:
        polymask methods --method packnet
    """
    try:
        found = read(METHODS_FILE) if method is None else {method: read_or_measure(method)}
    except ValueError as error:
        raise UsageError(str(error)) from error
    for title, make in {"": methods_table, "Options:": options_table, "Recipes:": recipes_table}.items():
        if rows := make(found):
            say(f"{title}\n{table(rows)}\n".lstrip())
    if method is None:
        say(CHOOSING)
    return 0


def read_or_measure(method: str) -> dict[str, object]:
    """A method's entry in the catalogue, or what it would be."""
    if ":" not in method:
        return dict(read(METHODS_FILE)[method])
    kind = importlib.import_module("polymask.method.own").import_method(method)
    return dict(importlib.import_module("polymask.cli.measure").entry(kind))
