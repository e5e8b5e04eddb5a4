"""Write the catalogues from classes and signatures, and the tables of Markdown files from the catalogues."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from polymask.cli.catalog import METHODS_FILE, RUN_FILE, read, with_tables
from polymask.cli.commands.add import add
from polymask.cli.commands.ask import predict, tasks
from polymask.cli.commands.export import export
from polymask.cli.commands.look import roles, verify
from polymask.cli.commands.methods import methods
from polymask.cli.commands.remove import remove
from polymask.cli.commands.report import report
from polymask.cli.commands.run import compare, run
from polymask.cli.demo import demo
from polymask.cli.describe import examples_in, options_in
from polymask.cli.measure import entry
from polymask.learning.by_name import run_named
from polymask.learning.joint.prefixes import learn_joint
from polymask.learning.options import JOINT
from polymask.learning.training import Training
from polymask.methods import METHODS
from polymask.streams.by_name import NAMED

COMMANDS = (demo, run, compare, add, tasks, predict, remove, export, verify, report, methods, roles)

STREAM = ("data", "tasks", "order", "seed", "labels")
"""What ``run_named`` passes to every stream, or what no command line can say."""


def texts() -> dict[Path, str]:
    """What each of the files of catalogues should say."""
    commands = {
        call.__name__: {
            "what": (call.__doc__ or "").partition("\n")[0],
            "examples": examples_in(call.__doc__ or ""),
            "module": call.__module__,
            "options": options_in(call, ("say", "options")),
        }
        for call in COMMANDS
    }
    named = {
        "commands": commands,
        "run": options_in(run_named, ("how", "options", "training")),
        "training": options_in(Training),
        JOINT: {"prefixes": options_in(learn_joint)["prefixes"]},
        "streams": {name: options_in(make, STREAM) for name, make in NAMED.items()},
    }
    cards = {name: entry(kind) for name, kind in METHODS.items()}
    return {path: json.dumps(data, indent=1) + "\n" for path, data in ((METHODS_FILE, cards), (RUN_FILE, named))}


def main(paths: Sequence[str]) -> None:
    """Write the catalogues, then the tables of files: ``python -m polymask.cli.generate README.md docs/methods.md``."""
    for path, text in texts().items():
        path.write_text(text)
    read.cache_clear()
    for path in map(Path, paths):
        path.write_text(with_tables(path.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
