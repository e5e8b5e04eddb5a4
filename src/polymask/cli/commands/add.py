"""The subcommand that gives a finished run more tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from polymask.cli.commands.learning import summary
from polymask.cli.options import Parser, UsageError, parse
from polymask.cli.parsers import add_run, chosen, regrouped, stream_of
from polymask.learning.by_name import run_named
from polymask.learning.extend import extend, trained
from polymask.learning.training import Training
from polymask.loaded import bank_folder, load
from polymask.streams.by_name import make_stream

SKIPPED = ("method", "seed", "out", "model", "net", "weights", "head", "relearn")


def add_parser(argv: list[str]) -> Parser:
    """Of ``polymask add``."""
    parser = Parser("add", "Learn more tasks on top of a finished run, without the data of its older tasks.")
    parser.add_argument("dir", type=str, help="The run's folder.")
    parser.add_argument("--task", type=str, help="Which task of the stream; without it all that the run does not have.")
    add_run(parser, run_named, stream_of(argv, _default(argv)), skip=SKIPPED)
    return parser


def _default(argv: list[str]) -> str:
    return "datasets" if "--data" in argv else "digits"


def add(argv: list[str], say: Callable[[str], None]) -> int:
    """Give a finished run more tasks."""
    stream = stream_of(argv, _default(argv))
    values = regrouped(parse(add_parser(argv), argv), stream)
    folder, wanted, how = Path(values["dir"]), values["task"], values["how"]
    held = load(folder)
    shape: list[int] = (held.bank.outline["builder"] or {}).get("args", {}).get("example_shape") or []
    fits = len(shape) == 3
    tasks = make_stream(
        stream,
        values["data"],
        data_root=values["data_root"],
        tasks=values["tasks"],
        order=values["order"] or (),
        size=values["size"] or ((shape[1], shape[2]) if fits else None),
        channels=values["channels"] or (shape[0] if fits else None),
        **{key: values[key] for key in ("mean", "std", "crop", "flip", "area")},
        **how,
    )
    names = [task.name for task in tasks]
    if wanted is not None:
        chosen("task", wanted, names)
    # A task that was removed is learned again only if it is named.
    removed = [] if wanted else [name for name in names if name in held.bank.removed]
    todo = [task for task in tasks if task.name not in (*held.tasks, *removed) and wanted in (None, task.name)]
    if not todo:
        hint = f"; to learn {removed[0]} again, which was removed, name it with --task" if removed else ""
        raise UsageError(f"expected a new task, found {wanted or ', '.join(names)}, which {folder} has already{hint}")
    for task in todo:
        report = extend(folder, task, training=_over(trained(folder), values["training"])).report
    for line in summary({**report, "out": str(bank_folder(folder).parent)}):
        say(line)
    return 0


def _over(base: Training, mine: Training) -> Training:
    """The settings of the run with those put over it that the command line gave."""
    default = asdict(Training())
    return replace(base, **{key: value for key, value in asdict(mine).items() if value != default[key]})


PARSERS = {"add": add_parser}
CALLS = {"add": add}
