"""The command line: ``polymask COMMAND``; errors in one line, exit codes that scripts can read."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polymask.cli.catalog import RUN_FILE, read
from polymask.cli.parsers import parser_of
from polymask.cli.values import UsageError
from polymask.learning.options import Refused
from polymask.near import nearest
from polymask.version import __version__

COMMANDS: dict[str, Any] = read(RUN_FILE)["commands"]
"""Subcommand -> what it does, its options, and the module that holds it: torch is imported when the line is right."""

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
    path, sys.path = sys.path, [*sys.path, str(Path.cwd())]  # --model and --method can name a module that lies there
    try:
        return _call(argv)
    except (UsageError, Refused) as error:
        return _complain(f"error: {error}", WRONG_USE)
    except KeyboardInterrupt:
        goes_on = "; finished tasks are on disk, and the same command goes on"
        return _complain("stopped" + (goes_on if argv[0] in GOES_ON else ""), STOPPED)
    except BrokenPipeError:
        # Whoever read has seen enough, and Python would complain of what is left when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except EXPECTED as error:
        if not _is_ours(error):
            raise
        return _complain(f"error: {_sentence(error)}", FAILED)
    finally:
        warnings.formatwarning, sys.path = before, path


def _call(argv: list[str]) -> int:
    if argv[:1] == ["help"] and len(argv) > 1:
        argv = [*argv[1:], "--help"]
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
    argv = [word for i, word in enumerate(argv) if i != argv.index(name) and word not in ("-h", "--help")]
    parser = parser_of(name, argv)
    if asks:
        print(parser.format_help())
        return 0
    values = parser.read(argv)
    return int(getattr(importlib.import_module(COMMANDS[name]["module"]), name)(_say, **values))


def _help() -> str:
    lines = [f"  {name:<9} {about['what']}" for name, about in COMMANDS.items()]
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


def _sentence(error: BaseException) -> object:
    """What an error says: Python puts quotes around that of a KeyError, and a number before that of an OSError."""
    if isinstance(error, OSError) and error.strerror and error.filename is None:
        return error.strerror
    return error.args[0] if isinstance(error, KeyError) else error


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
