"""What it takes to forget a task and nothing else."""

from __future__ import annotations

from dataclasses import replace

from polymask.bank.entry import merge_planes
from polymask.bank.head import Head
from polymask.bank.planes import read_planes, write_planes
from polymask.bank.reader import Reader
from polymask.bank.store import DamagedBank
from polymask.bank.union import Union, write_union


def write_without(reader: Reader, task: str) -> tuple[Head, set[str]]:
    """Write all files of a bank without a task but ``bank.json``.

    Args:
        reader: the bank as it is.
        task: the task's name.

    Returns:
        What ``bank.json`` is to say, and the files that it does not need any more.
    """
    line, head = reader.head.line(task), reader.head.without(task)
    entries, damaged = reader.readable()
    gone = entries.pop(task, None)
    # What a damaged record reads is not known; as long as there is another one, nothing that it may need is let go.
    if not damaged.keys() - {task}:
        was = head.about["owners"]
        planes = merge_planes(read_planes(reader.path, was), list(entries.values()), [])
        owners = write_planes(reader.path, was, planes, list(head.records))
        head = replace(head, about={**head.about, "owners": owners, "held": _held(reader, list(head.records))})
    return head, reader.files_to_free(head.about, [] if gone is None else [gone]) | {line.entry}


def _held(reader: Reader, tasks: list[str]) -> str | None:
    """The file of what the others read; None where the next commit has to write it, on the user's backbone."""
    if not tasks or reader.head.about["base"]["kind"] != "stored":
        return None
    try:
        return write_union(reader.path, Union(reader.read_by(tasks), reader.union().loose))
    except DamagedBank:  # a file that several share
        return None
