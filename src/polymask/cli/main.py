"""The command line: ``polymask COMMAND``; errors in one line, exit codes that scripts can read."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polymask.cli.options import UsageError, nearest, words
from polymask.learning.config import Refused
from polymask.version import __version__

COMMANDS = {
    "demo": ("learning", "learn five small tasks by six methods and see which of them forget, about a minute"),
    "run": ("learning", "learn a stream of tasks by one method"),
    "compare": ("learning", "several methods and seeds on one stream, one table"),
    "add": ("add", "give a finished run more tasks, without the data of the older ones"),
    "verify": ("looking", "prove that a run's finished tasks are what they were"),
    "methods": ("looking", "list the methods, their options and their recipes"),
    "roles": ("looking", "say what a method does with every tensor of a network"),
}
"""Subcommand -> the module that holds it, imported when it is called, and what it does."""

HERE = Path(__file__).parents[1]
"""Where all of our code lies."""

GOES_ON = ("run", "compare", "add")
STOPPED, WRONG_USE, FAILED = 130, 2, 1
EXPECTED = (ValueError, KeyError, RuntimeError, ArithmeticError, ImportError, OSError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: the words after ``polymask``; None: those of this process.

    Returns:
        0; 1 if something failed or a bank is not what it was; 2 for a command line that cannot be meant; 130 if it was
        stopped by Ctrl-C.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    before, warnings.formatwarning = warnings.formatwarning, _one_line
    path, sys.path = sys.path, [*sys.path, str(Path.cwd())]  # so that --model can name a module of the user's
    try:
        return _call(argv)
    except (UsageError, Refused) as error:
        return _complain(f"error: {error}", WRONG_USE)
    except KeyboardInterrupt:
        goes_on = "; finished tasks are on disk, and the same command goes on"
        return _complain("stopped" + (goes_on if argv[0] in GOES_ON else ""), STOPPED)
    except EXPECTED as error:
        if not _is_ours(error):
            raise
        return _complain(f"error: {error.args[0] if isinstance(error, KeyError) else error}", FAILED)
    finally:
        warnings.formatwarning, sys.path = before, path


def _call(argv: list[str]) -> int:
    name = next((word for word in argv if not word.startswith("-")), None)
    asks = any(word in ("-h", "--help") for word in argv)
    if "--version" in argv:
        print(__version__)
        return 0
    if name is None or (name == "help" and len(argv) == 1):
        print(_help())
        return 0 if asks or name == "help" else WRONG_USE
    if name not in COMMANDS:
        raise UsageError(f"no command {name!r}{nearest(name, COMMANDS) or ': there are ' + ', '.join(COMMANDS)}")
    rest = words([word for i, word in enumerate(argv) if i != argv.index(name) and word not in ("-h", "--help")])
    module = importlib.import_module(f"polymask.cli.commands.{COMMANDS[name][0]}")
    if asks:
        print(module.PARSERS[name](rest).format_help())
        return 0
    code: int = module.CALLS[name](rest, _say)
    return code


def _help() -> str:
    lines = [f"  {name:<9} {what}" for name, (_, what) in COMMANDS.items()]
    head = (
        "usage: polymask COMMAND [options]\n\nOne network, many tasks, a mask per task, nothing forgotten.\n\ncommands:"
    )
    return "\n".join([head, *lines, "", "polymask COMMAND --help lists a command's options."])


def _say(line: str) -> None:
    # Of several processes that learn together one speaks.
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(line, flush=True)


def _complain(line: str, code: int) -> int:
    print(f"polymask: {' '.join(line.split())}", file=sys.stderr)
    return code


def _one_line(message: Warning | str, *_: Any, **__: Any) -> str:
    return f"polymask: warning: {message}\n"


def _is_ours(error: BaseException) -> bool:
    """Whether our own checks raised it, or the system did over a file; anything else is a bug and shows where."""
    if isinstance(error, OSError):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and HERE in Path(trace.tb_frame.f_code.co_filename).parents


if __name__ == "__main__":
    sys.exit(main())
