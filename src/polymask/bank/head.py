"""``bank.json``: what a bank says of itself, and where its records lie, a line each; writing it is the only commit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from polymask.bank.store import COMMIT, DamagedBank, hash_of, read_entry
from polymask.disk import write_file

FORMAT = 3
"""Of a bank whose host has a file of its own; of every other one 2."""

State = dict[str, Any]
_TAIL = "}\n"


@dataclass(frozen=True)
class Line:
    """One record of a bank.

    Args:
        task: the task's name.
        entry: the name of the file that its entry lies in.
        place: where in the order of learning it stands, from 1; no other task ever gets it.
    """

    task: str
    entry: str
    place: int

    @cached_property
    def text(self) -> str:
        """The line as json, made once: a commit writes those of all tasks."""
        return json.dumps({"task": self.task, "entry": self.entry, "place": self.place})


@dataclass(frozen=True)
class Head:
    """What ``bank.json`` says.

    Args:
        about: all but the records, as JSON.
        records: task -> its line, in order of learning.
        data: the file's bytes.
    """

    about: State
    records: dict[str, Line]
    data: bytes = b""

    @property
    def removed(self) -> tuple[str, ...]:
        """The tasks that were removed and not learned again."""
        return tuple(line["task"] for line in self.about["removed"])

    def with_lines(self, entries: Mapping[str, str]) -> Head:
        """With the lines of these tasks: a known one keeps its place, a new one gets the next.

        Args:
            entries: task -> the name of its entry's file.
        """
        records, gone = dict(self.records), [line["place"] for line in self.about["removed"]]
        # In order of learning, the last one stands furthest.
        place = max([0, *gone, *(line.place for line in list(records.values())[-1:])])
        for task, entry in entries.items():
            place += task not in records
            records[task] = replace(records[task], entry=entry) if task in records else Line(task, entry, place)
        removed = [line for line in self.about["removed"] if line["task"] not in entries]
        return Head({**self.about, "removed": removed}, records)

    def without(self, task: str) -> Head:
        """Without a task, which is among the removed ones then."""
        removed = [*self.about["removed"], {"task": task, "place": self.records[task].place}]
        return Head({**self.about, "removed": removed}, {name: x for name, x in self.records.items() if name != task})

    def line(self, task: str) -> Line:
        """The line of a task.

        Raises:
            KeyError: if there is none; it lists those there are.
        """
        if task not in self.records:
            known = ", ".join(map(repr, self.records))
            raise KeyError(f"expected one of the tasks {known or '(none yet)'}, found {task!r}")
        return self.records[task]


def write_head(folder: Path, head: Head) -> Head:
    """Commit a head; every other file that it names must be written.

    Returns:
        The head with its file's bytes.
    """
    lines = [f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)},\n" for key, value in head.about.items()]
    records = ",\n".join(line.text for line in head.records.values())
    body = "{\n" + "".join(lines) + f'"records": [\n{records}\n]}}'
    return replace(head, data=write_json(folder / COMMIT, body, format_of(head.about)))


def format_of(about: State) -> int:
    """The format that a bank is written in: the oldest that can say what it is."""
    return FORMAT if "host" in about["base"] or "compact" in about else FORMAT - 1


def read_head(folder: Path) -> Head:
    """What the ``bank.json`` of a folder says; of a bank of format 1, what it would say in this one.

    Raises:
        FileNotFoundError: if there is none.
        DamagedBank: if a byte of it has changed.
        ValueError: if it was written in a newer format.
    """
    about, version, data = read_json(folder / COMMIT, FORMAT)
    records = about.pop("records")
    if version == 1:
        # There only an entry says whose it is.
        tasks = [read_entry(folder, entry)["task"] for entry in records]
        lines = [Line(task, entry, place) for place, (task, entry) in enumerate(zip(tasks, records, strict=True), 1)]
        about = {**about, "held": None, "removed": []}
    else:
        lines = [Line(**line) for line in records]
    return Head(about, {line.task: line for line in lines}, data)


def write_json(path: Path, body: str, version: int) -> bytes:
    """Write a json file in one step, with its format's version and a hash of what it says.

    Args:
        path: the file.
        body: the content, as json text; it is written as it stands.
        version: the format's version.

    Returns:
        All that the file holds.
    """
    data = _framed(body, hash_of(body), version).encode()
    write_file(path, data)
    return data


def read_json(path: Path, version: int) -> tuple[State, int, bytes]:
    """Read what ``write_json`` wrote, and check every byte of it.

    Args:
        path: the file.
        version: the newest format that the caller understands.

    Returns:
        The content, its format, and the file's bytes.

    Raises:
        FileNotFoundError: if there is none.
        DamagedBank: if a byte of it has changed.
        ValueError: if it was written in a newer format.
    """
    damaged = DamagedBank(f"expected {path} as it was written, found it cut short or changed: restore it from a copy")
    if not path.is_file():
        raise FileNotFoundError(f"expected a bank at {path.parent}, found no {path.name}: make one with Bank.create")
    data = path.read_bytes()
    try:
        text = data.decode()
        whole = json.loads(text)
        found, value = whole["format"], whole["bank"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged from error
    if isinstance(found, int) and found > version:
        raise ValueError(f"expected a bank of format {version} or older in {path}, found {found}: update polymask")
    if not isinstance(value, dict):
        raise damaged
    written = format_of(value) if isinstance(value.get("base"), dict) else version
    if text not in (_as_written(text, whole, written), _of_the_first(value, found)):
        raise damaged
    return value, found, data


def _as_written(text: str, whole: Mapping[str, Any], version: int) -> str:
    """The text as ``write_json`` frames it, with the hash that its content has."""
    start = len(_framed("", str(whole.get("hash")), version)) - len(_TAIL)
    body = text[start : -len(_TAIL)]
    return _framed(body, hash_of(body), version)


def _framed(body: str, digest: str, version: int) -> str:
    return f'{{"format": {version}, "hash": "{digest}", "bank": {body}{_TAIL}'


def _of_the_first(value: State, version: Any) -> str | None:
    """The text of a file of format 1, whose content was written with one item a line."""
    if version != 1:
        return None
    body = json.dumps(value, allow_nan=False)
    return json.dumps({"format": 1, "hash": hash_of(body), "bank": value}, indent=1, allow_nan=False) + "\n"
