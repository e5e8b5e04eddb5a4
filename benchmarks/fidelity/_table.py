"""One table of all published and specified numbers beside ours, from what was measured."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from _causes import why
from _row import HERE, RESULTS, SEEDS, Target, command_of

HEADER = ("method", "setting", "target", "ours", "seeds", "status", "command")
TEXT = """# Fidelity

Does a method reach the number? Targets are published, specified for this project, or recalled from a paper that was
not at hand; a status beside a recalled one is against that number, and decides nothing. "reproduced": the source's
protocol, and its number or relation reached by the criterion in the script; "approximated": measured under a smaller
protocol, which is said, or measured and missed, with its cause where one was measured; "reported": nothing was to be
reached; "not attempted": the script is there. Nothing is chosen by a test split. Each row is one command, which goes
on where it was stopped; `DATA` is a folder of data sets by their names on the hub, of texts in `local/asc`, `local/dsc`
and `local/20news-bydate`. This page is made by `python benchmarks/fidelity/_table.py --write docs/fidelity.md` from
`benchmarks/fidelity/results/`.

"""


def scripts() -> list[str]:
    """The modules that measure rows, in order."""
    return sorted(path.stem for path in HERE.glob("[!_]*.py"))


def lines() -> list[tuple[str, ...]]:
    """A line a target: what was measured, or that nothing was."""
    return [line(target, f"{name}.py") for name in scripts() for target in importlib.import_module(name).TARGETS]


def line(target: Target, script: str) -> tuple[str, ...]:
    path = RESULTS / f"{target.name}.json"
    setting = target.setting + (f"; reduced: {target.reduced}" if target.reduced else "")
    aim = f"{target.target} ({target.source})"
    command = f"`{command_of(script)} --only {target.name}{f' {target.asked}' if target.asked else ''}`"
    if not path.exists():
        return target.method, setting, aim, "-", "-", "not attempted", command
    row: dict[str, Any] = json.loads(path.read_text())
    setting = row["setting"] + (f"; reduced: {row['reduced']}" if row["reduced"] else "")
    if row["seeds"] != SEEDS:
        command = f"{command[:-1]} --seeds {' '.join(map(str, row['seeds']))}`"
    return row["method"], setting, aim, row["ours"], str(len(row["seeds"])), status_of(row), command


def status_of(row: dict[str, Any]) -> str:
    """A row's status, and why it is no better."""
    if row["status"] != "approximated":
        return str(row["status"])
    said = "reached under the smaller protocol" if row["reached"] else f"missed; {why(row['name'])}"
    return f"{row['status']}: {said}"


def page() -> str:
    """The table as a page."""
    rows = [HEADER, *lines()]
    rule = "| " + " | ".join(":--" for _ in HEADER) + " |"
    body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return TEXT + "\n".join([body[0], rule, *body[1:]]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="write the page here instead of printing the table")
    args = parser.parse_args()
    if args.write is not None:
        args.write.write_text(page())
        return
    for row in lines():
        print(f"{row[0]}\n    {row[1]}\n    target {row[2]}; ours {row[3]}; seeds {row[4]}: {row[5]}\n    {row[6]}")


if __name__ == "__main__":
    main()
