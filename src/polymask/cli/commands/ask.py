"""The subcommands that ask what a run has learned: which tasks there are, and what one says of files."""

from __future__ import annotations

import csv
import io
import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from polymask.asking.answers import Answer
from polymask.asking.rows import FEW, TaskRow
from polymask.cli.values import UsageError
from polymask.disk import write_file
from polymask.loaded import Loaded, load
from polymask.report.table import human_bytes, table

SUFFIXES = (".csv", ".jsonl")


def tasks(say: Callable[[str], None], dir: str, masks: bool | None = None) -> int:
    """List what a run has learned: labels, accuracy, bytes, density, overlap, revision.

    Examples:
        polymask tasks runs/first

    Args:
        say: called with the table.
        dir: the run's folder, or a bank.
        masks: whether to read the masks, for density and overlap; without it those of up to 50 tasks.
    """
    held = load(dir)
    rows = held.table(masks)
    if not rows:
        gone = f"; removed: {', '.join(held.bank.removed)}" if held.bank.removed else ""
        say(f"no task is finished in {dir}{gone}")
        return 0
    say(table([_shown(row, rows[-1].task) for row in rows], floatfmt=".4f"))
    for line in notes(held, rows, masks is not False and (masks or len(rows) <= FEW)):
        say(line)
    return 0


def notes(held: Loaded, rows: Sequence[TaskRow], read: bool) -> list[str]:
    """What holds for several tasks, a line each."""
    lines = []
    for setting in dict.fromkeys(row.setting for row in rows if row.setting):
        of = [f"#{row.place}" for row in rows if row.setting == setting]
        lines.append(f"Measured{'' if len(of) == len(rows) else ' of ' + short(of)}: {setting}")
    if not read:
        lines.append("Density and overlap take all masks to be read: --masks true")
    elif rows[0].density is not None:
        lines.append("density: the share of masked entries that a task reads; overlap: of these, what others read, too")
    if held.bank.removed:
        lines.append(f"Removed: {short(list(held.bank.removed))}")
    return lines


def predict(
    say: Callable[[str], None],
    dir: str,
    files: Sequence[str],
    task: str | None = None,
    out: str | None = None,
    batch_size: int = 64,
    reject: float = 0.05,
) -> int:
    """Ask a finished task about files, or which task each is of: the most likely label, and its probability.

    Examples:
        polymask predict runs/first photo.png --task digits/0-1
        polymask predict runs/first photos/ more.npy --task '#2' --out answers.csv
        polymask predict runs/first photo.png
        polymask predict runs/reviews "it lasts and lasts" --task phones

    Args:
        say: called with every answer.
        dir: the run's folder, or a bank.
        files: images of any size and mode, .npy arrays, .npz of named ones, and folders of them; of a task that reads
            texts, texts themselves, a .txt with one in each line, and tables.
        task: its name, or '#3' for the third that was learned; without it each input's task is found out, and said
            with its margin.
        out: a .csv or .jsonl to write instead.
        batch_size: how many inputs the network gets at once.
        reject: without --task, the share of inputs of known tasks that may be refused as of none of these, where the
            run was learned with --calibration-fraction.

    Returns:
        1 if a file could not be read; the others are answered.

    Raises:
        UsageError: if there is no task, or none of this name, or ``out`` cannot be written.
    """
    if batch_size < 1:
        raise UsageError(f"expected 1 or more for --batch-size, found {batch_size}")
    if not 0 < reject < 1:
        raise UsageError(f"expected a share between 0 and 1 for --reject, found {reject}")
    place = None if out is None else writable(out)
    held = load(dir)
    name = None if task is None and len(held.tasks) > 1 else the_task(held, task)
    if name is not None and not held.labels(name):
        warnings.warn(
            f"task {name!r} has no names of labels: its answers are the numbers of its outputs, from 0", stacklevel=2
        )
    found: list[Answer] = []
    wide, failed, count = 0, 0, 0
    for answer in held.answers(name, files, batch_size, reject):
        count, failed = count + 1, failed + bool(answer.problem)
        if answer.problem:
            warnings.warn(answer.problem, stacklevel=2)
        elif place is None:
            wide = max(wide, len(answer.file))
            which = f"  {answer.task} (margin {answer.margin:.3g})" if name is None else ""
            label = f"  {answer.label}  {answer.probability:.4f}" if answer.label else ""
            say(f"{printable(answer.file):<{wide}}{which}{label}")
        if place is not None:
            found.append(answer)
    if place is not None:
        write_file(place, as_text(found, name, place.suffix).encode("utf-8", "surrogateescape"))
        of = "" if name is None else f" of task {name!r}"
        say(f"{count - failed} answer{'s' * (count - failed != 1)}{of}: {place}")
    if failed:
        warnings.warn(f"inputs without an answer: {failed}", stacklevel=2)
    return 1 if failed else 0


def the_task(held: Loaded, said: str | None) -> str:
    """The task that is meant: the one that is named, or the only one.

    Raises:
        UsageError: if there is none, or it is not said which.
    """
    if not held.tasks:
        gone = f": removed are {short(list(held.bank.removed))}" if held.bank.removed else ""
        raise UsageError(f"expected a finished task, found none in {held.bank.path}{gone}")
    if said is None and len(held.tasks) != 1:
        known = short([f"#{place} {task}" for task, place in held.places.items()])
        raise UsageError(f"expected --task NAME, or --task '#3' in quotes, found none; there are {known}")
    try:
        return held.find(held.tasks[0] if said is None else said)
    except KeyError as error:
        raise UsageError(error.args[0]) from error


def writable(out: str) -> Path:
    """Where answers go; it is looked at before anything is asked.

    Raises:
        UsageError: if it is no ``.csv`` or ``.jsonl``, or its folder is not there.
    """
    path = Path(out).expanduser()
    if path.suffix not in SUFFIXES:
        raise UsageError(f"expected a file {' or '.join(SUFFIXES)} for --out, found {out}")
    if not path.parent.is_dir() or path.is_dir():
        raise UsageError(f"expected a file in a folder that is there for --out, found {out}")
    return path


def as_text(answers: Sequence[Answer], task: str | None, suffix: str) -> str:
    """Answers as csv or as a line of JSON each; with the margins of tasks that were found out."""
    own = () if task is not None else ("margin",)
    lines: list[dict[str, object]] = []
    for one in answers:
        line: dict[str, object] = {"file": one.file, "task": task or one.task}
        if one.problem:
            lines.append({**line, "problem": one.problem})
        else:
            said = {"label": one.label, "probability": one.probability} if one.label else {}
            lines.append({**line, **dict.fromkeys(own, one.margin), **said})
    if suffix == ".jsonl":
        return "".join(json.dumps(line) + "\n" for line in lines)
    text = io.StringIO()
    rows = csv.writer(text)
    columns = ("file", "task", *own, "label", "probability", "problem")
    rows.writerow(columns)
    rows.writerows([repr(v) if isinstance(v := line.get(c, ""), float) else v for c in columns] for line in lines)
    return text.getvalue()


def short(names: Sequence[str]) -> str:
    """Names in a row; of many the first and the last.

    >>> short(list("abcdefghijklmnop"))
    'a, b, c, d, e, f, g, h, ..., p'
    """
    return ", ".join(names if len(names) <= 12 else [*names[:8], "...", names[-1]])


def printable(name: str) -> str:
    """A file's name as every terminal can show it."""
    return os.fsencode(name).decode(errors="replace")


def _shown(row: TaskRow, last: str) -> dict[str, object]:
    """A line of the table; what was measured before a later task may have moved it says so."""
    names = short(row.labels) if row.labels else f"{row.outputs} outputs"
    where = row.split + (f", after {row.after}" if row.exact is not True and row.after != last else "")
    return {
        "#": row.place,
        "task": row.task,
        "labels": names if len(names) <= 40 else f"{names[:25]}... ({row.outputs})",
        "accuracy": row.accuracy,
        "on": where or None,
        "bytes": human_bytes(row.bytes),
        "density": row.density,
        "overlap": row.overlap,
        "revision": row.revision,
    }
