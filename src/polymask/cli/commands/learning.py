"""The subcommands that learn from the start: run, compare, demo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polymask.cli.demo import demo
from polymask.cli.options import Parser, parse, said
from polymask.cli.parsers import add_config, add_options, add_run, chosen, method_of, regrouped, stream_of
from polymask.learning.by_name import run_named
from polymask.learning.compare import compare, shown
from polymask.learning.config import JOINT
from polymask.methods import METHODS
from polymask.report.table import human_bytes, table

Say = Callable[[str], None]


def run_parser(argv: list[str]) -> Parser:
    """Of ``polymask run``, with the options of the method and the stream that the command line names."""
    parser = Parser("run", "Learn a stream of tasks, one after the other. The same command goes on after a stop.")
    add_config(parser)
    add_run(parser, run_named, stream_of(argv))
    add_options(parser, method_of(argv))
    return parser


def run(argv: list[str], say: Say) -> int:
    """Learn a stream by one method."""
    values = regrouped(parse(run_parser(argv), argv), stream_of(argv))
    report = run_named(**{**values, "method": method_of(argv)})
    for line in summary(report):
        say(line)
    return 0


def summary(report: dict[str, Any]) -> list[str]:
    """A finished run in a table and two lines."""
    tasks, first, last = report["tasks"], report["accuracy_when_learned"], report["accuracy_at_the_end"]
    added = dict(zip(report["finished"], report["bytes"].get("per_task", ()), strict=False))
    rows = [
        {
            "task": task,
            f"{report['metric']} when learned": first[i],
            "at the end": last[i] if last else None,
            "logit drift": _short(report["logit_drift"].get(task)),
            "bytes": human_bytes(added[task]) if task in added else None,
        }
        for i, task in enumerate(tasks)
    ]
    average, seconds = report["average_accuracy"], report["seconds"]
    words = "not measured" if average is None else f"{average:.4f}"
    return [
        *([table(rows, floatfmt=".4f")] if rows else []),
        f"{report['method']}: average {report['metric']} {words}, bwt {_short(report['bwt_gem']) or '-'}, "
        f"largest logit drift {_short(report['max_logit_drift']) or '-'}, {seconds:.1f} s",
        f"Files: {report['out']}",
    ]


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value + 0.0:.4g}"


def compare_parser(argv: list[str]) -> Parser:
    """Of ``polymask compare``, with the options of every method that it names."""
    parser = Parser("compare", "Learn one stream by several methods and seeds, and print and write one table.")
    add_config(parser)
    everything = [*METHODS, JOINT]
    parser.add_argument("--methods", type=list[str], default=everything, help="Names of methods; joint is one, too.")
    parser.add_argument("--seeds", type=list[int], default=[0], help="Seeds, one run each.")
    parser.add_argument("--out", type=str, default="runs/compare", help="The folder of the comparison.")
    add_run(parser, run_named, stream_of(argv), skip=("method", "seed", "out", "relearn"))
    for name in methods_of(argv):
        add_options(parser, name, name)
    return parser


def methods_of(argv: list[str]) -> list[str]:
    """The methods that a comparison names."""
    names = said(argv, "methods", "").strip("[]").replace('"', "").replace("'", "").split(",")
    return [chosen("method", name.strip(), [*METHODS, JOINT]) for name in names if name.strip()] or [*METHODS, JOINT]


def comparison(argv: list[str], say: Say) -> int:
    """Learn a stream by several methods and seeds."""
    values = regrouped(parse(compare_parser(argv), argv), stream_of(argv))
    names = methods_of(argv)
    options = {name: values.pop(name) for name in names if name in values}
    seeds, out, _ = values.pop("seeds"), values.pop("out"), values.pop("methods")
    reports = compare(names, seeds, out, options=options, say=say, **values)
    say(f"\n{shown(reports)}\nFiles: {out} (table.md, table.json, and a folder for each run)")
    return 1 if any("error" in report for runs in reports.values() for report in runs) else 0


def demo_parser(argv: list[str]) -> Parser:
    """Of ``polymask demo``."""
    parser = Parser("demo", "Learn five small tasks by six methods, about a minute, and see which of them forget.")
    parser.add_argument("--out", type=str, help="Where the runs go; without it a new temporary folder.")
    parser.add_argument("--epochs", type=int, help="Passes over the data in every phase; without it each method's own.")
    return parser


def demonstration(argv: list[str], say: Say) -> int:
    """Show what the package does."""
    demo(say, **parse(demo_parser(argv), argv))
    return 0


PARSERS = {"run": run_parser, "compare": compare_parser, "demo": demo_parser}
CALLS = {"run": run, "compare": comparison, "demo": demonstration}
