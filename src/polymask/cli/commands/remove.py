"""The subcommand that takes a task out of a run."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from polymask.bank.probe import batch_of
from polymask.cli.commands.ask import the_task
from polymask.learning.extend import network_of
from polymask.learning.folder import read_config
from polymask.learning.learner import method_class, open_learner
from polymask.loaded import Loaded, load
from polymask.method.removal import Removed

CANNOT = (ValueError, RuntimeError, ImportError, OSError, KeyError)
"""What stands in the way of making the learner again: a network of the user's own, a missing file or package."""


def remove(say: Callable[[str], None], dir: str, task: str, yes: bool = False) -> int:
    """Take a finished task out of a run: the others stay as they are, to the bit.

    Examples:
        polymask remove runs/first digits/0-1
        polymask remove runs/first '#2' --yes true

    Args:
        say: called with what was freed.
        dir: the run's folder, or a bank.
        task: its name, or '#3' for the third that was learned.
        yes: whether to remove it without asking; where nobody sits at a terminal, nobody is asked.

    Returns:
        1 if the answer was no.
    """
    held = load(dir)
    name = the_task(held, task)
    if not (yes or not sys.stdin.isatty() or confirmed(name, dir)):
        say("nothing is removed")
        return 1
    network = from_network(held, name)
    say(str(held.remove(name)))
    say(network)
    if (Path(dir) / "config.yaml").is_file():
        say(f"The same polymask run does not learn it again, but with --relearn {name!r}")
    return 0


def confirmed(name: str, folder: str) -> bool:
    """Whether the user says so."""
    return input(f"Remove task {name!r} from {folder} for ever? [y/N] ").strip().lower() in ("y", "yes")


def from_network(held: Loaded, name: str) -> str:
    """What of the network a removal gives back and what stays reserved, in a sentence; nothing is changed.

    The method is made as the bank left it: it alone knows.
    """
    about, path = held.bank.outline, held.bank.path
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batch, network = batch_of(path, about["probe"]), network_of(about["builder"], None)
            kind, head = method_class(_method_of(held)), about["head"]
            learner, _ = open_learner(kind, network, batch, head, 0, about["options"], path)
            found: Removed = learner.remove(name)
    except CANNOT as error:
        why = error.args[0] if isinstance(error, KeyError) else error
        return f"What of the network is free to learn is said when it learns again; here it cannot be made: {why}"
    rest = f"reserved stay {found.reserved}" if found.reserved else "nothing of it stays reserved"
    return f"{found.freed or 'no'} entries of the network may learn again; {rest}"


def _method_of(held: Loaded) -> str:
    """The name of a run's method, or its address where it is of the user's own."""
    config = held.bank.path.parent / "config.yaml"
    said = str(read_config(config).get("method", "")) if config.is_file() else ""
    method: str = said if ":" in said else held.bank.outline["method"]
    return method
