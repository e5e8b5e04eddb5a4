"""The subcommands that learn from the start: run and compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from polymask.cli.catalog import RUN_FILE, read
from polymask.cli.parsers import groups
from polymask.cli.values import UsageError
from polymask.learning.by_name import run_named
from polymask.learning.compare import compare as run_all
from polymask.learning.figures.table import as_table, bytes_added
from polymask.learning.options import JOINT
from polymask.learning.orders.run import compare_orders
from polymask.learning.results import named_score
from polymask.learning.training import Training
from polymask.methods import METHODS
from polymask.report.table import human_bytes, table

NO_TEST = (
    "Without a test part a score is the validation score, which has also chosen the epoch: expect less of new examples."
)


def run(say: Callable[[str], None], **values: Any) -> int:
    """Learn a stream of tasks by one method; the same command goes on after a stop.

    Examples:
        polymask run --method packnet --stream digits --tasks 5 --out runs/first
        polymask run --method piggyback --stream split --data ylecun/mnist --model convnet
        polymask run --stream datasets --data ./photos ./scans --size 32 32 --channels 3
        polymask run --stream datasets --data reviews.csv --text review --label verdict --model ./bert

    Args:
        say: called with every line.
        values: of the run, the stream, training and the method.
    """
    for line in summary(run_named(**arguments(values))):
        say(line)
    return 0


def compare(
    say: Callable[[str], None],
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    out: str = "runs/compare",
    orders: int | Sequence[Sequence[int]] | Literal["apd"] | None = None,
    **values: Any,
) -> int:
    """Several methods and seeds on one stream, one table; with --orders under several orders of its tasks.

    Examples:
        polymask compare --methods packnet supsup joint --seeds 0 1 2
        polymask compare --methods packnet ksm finetune --seeds 0 1 2 --orders 5

    Args:
        say: called with every line.
        methods: names of methods, or package.module:Class for one's own; joint is one, too; without it all that fit any
            network.
        seeds: one run each.
        out: the folder of the comparison.
        orders: how many orders of the tasks to run, the stream's own and drawn ones, the same for all; or apd, the five
            of Yoon et al. 2020 for ten tasks; or the orders themselves, [[0, 1, 2], [2, 0, 1]]. The table then says how
            far the final score of a task depends on the order (AOPD, MOPD), and on the seed alone (noise floor).
        values: what all runs share, and under each method's name its own options.

    Example:
        polymask compare --methods packnet supsup joint --seeds 0 1 2 --out runs/compare
    """
    methods = methods or [*(name for name, kind in METHODS.items() if not kind.needs), JOINT]
    options = {method: values.pop(group) for method, group in groups(methods).items()}
    shared: dict[str, Any] = {"options": options, "say": say, **arguments(values)}
    if orders is None:
        reports, robust = run_all(methods, seeds, out, **shared), None
    else:
        reports, robust = compare_orders(methods, seeds, out, orders, **shared)
    files = "table.md, .tex and .json, runs.csv" + ("" if robust is None else ", orders.csv and .json")
    say(f"\n{as_table(reports, robust)}\nFiles: {out} ({files}, and a folder for each run)")
    say(f"As a page: polymask report {out}")
    if robust is not None and (count := len(seeds)) > 1:
        say(f"The noise floor is of single seeds; of a mean over {count} it is about {count**0.5:.1f} times smaller.")
    unknown = [method for method, found in (robust or {}).items() if not found.finals or not found.by_seed]
    if unknown:
        say(f"Without AOPD or its noise floor: {', '.join(unknown)}. A run failed, or has other tasks than the rest.")
    failed = any("error" in report for runs in reports.values() for report in runs)
    return 1 if failed or unknown else 0


def arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a command line as ``run_named`` takes them.

    Raises:
        UsageError: for a setting out of range.
    """
    rest, known = dict(values), read(RUN_FILE)
    given = {name: rest.pop(name) for name in known["training"]}
    settings = {name: value for name, value in given.items() if value is not None}
    rest["how"] = {name: rest.pop(name) for name in known["streams"][rest["stream"]]}
    try:
        rest["training"] = Training(**settings)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return rest


def summary(report: dict[str, Any]) -> list[str]:
    """A finished run in a table and a few lines."""
    score = named_score(report)
    tasks, first, last = report["tasks"], report["accuracy_when_learned"], report["accuracy_at_the_end"]
    added = bytes_added(report)
    others = {name: one["at_the_end"] for name, one in report.get("also", {}).items()}
    rows = [
        {
            "task": task,
            f"{score} when learned": first[i],
            "at the end": last[i] if last else None,
            **{name: values[i] for name, values in others.items() if i < len(values)},
            **({"of": report["splits"][i]} if report.get("split") == "mixed" else {}),
            "logit drift": _short(report["logit_drift"].get(task)),
            "bytes": human_bytes(added[task]) if task in added else None,
        }
        for i, task in enumerate(tasks)
    ]
    average, seconds = report["average_accuracy"], report["seconds"]
    words = "not measured" if average is None else f"{average:.4f}"
    beside = "".join(f", {name} {_short(one['average']) or '-'}" for name, one in report.get("also", {}).items())
    return [
        *([table(rows, floatfmt=".4f")] if rows else []),
        f"{report['method']}: average {score} {words}{beside}, bwt {_short(report['bwt_gem']) or '-'}, "
        f"largest logit drift {_short(report['max_logit_drift']) or '-'}, {seconds:.1f} s",
        *_identities(report.get("identities")),
        *([NO_TEST] if report.get("split") in ("validation", "mixed") else []),
        f"Files: {report['out']}",
    ]


def _identities(found: dict[str, Any] | None) -> list[str]:
    """What was scored where nobody names the task, in a line."""
    if not found:
        return []
    return [
        f"{found['scenario']}, asked by {found['way']} ({found['by']}), {found['rows']} inputs together: task found "
        f"{found['inference']:.4f}, accuracy {found['inferred']:.4f}, with the task named {found['given']:.4f}"
    ]


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value + 0.0:.4g}"
