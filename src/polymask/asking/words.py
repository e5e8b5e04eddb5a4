"""Texts to ask with: given as they are, a line each in a file, or in the columns of a table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from polymask.asking.answers import Read
from polymask.asking.wanted import Wanted
from polymask.streams.texts.pairs import as_words
from polymask.streams.texts.tables import BUILDERS, columns_in
from polymask.streams.texts.text import Text, Words, check_texts

LINES = ".txt"


def read_words(given: Iterable[str | os.PathLike[str]], wanted: Wanted, size: int) -> Iterator[Read]:
    """Texts in order, at most ``size`` at a time, as tokens.

    Args:
        given: texts; a .txt with one in every line; tables with the columns that the task has learned from. The two
            texts of a pair are parted by a tab.
        wanted: what the task takes.
        size: texts in a batch.

    Yields:
        What was read, or why a text could not be.

    Raises:
        FileNotFoundError: if a file is not there; before any is read.
        ValueError: if the task reads no texts.
    """
    text = wanted.text
    if text is None:
        raise ValueError(f"expected {wanted} for task {wanted.task!r}, found texts")
    words = [(one, file_of(one)) for one in given]
    held: list[Words] = []
    for one, file in words:
        try:
            found = [as_words(str(one), text)] if file is None else words_in(file, text)
            if not found:
                raise ValueError(f"expected a text in {file}, found none")
            check_texts(found)
        except (ValueError, OSError) as error:
            yield from _encoded(held, text, size)
            held = []
            yield Read([str(one)], problem=ValueError(str(error)))
            continue
        held += found
    yield from _encoded(held, text, size)


def file_of(one: str | os.PathLike[str]) -> Path | None:
    """The file that is meant; None where it is a text itself.

    Raises:
        FileNotFoundError: if it is written like a file and not there.

    >>> file_of("It lasts.")
    """
    named = Path(one).suffix.lower() in (LINES, *BUILDERS)
    if isinstance(one, str) and not named:
        return None
    try:
        path = Path(one).expanduser()
        there = path.is_file()
    except (OSError, RuntimeError):  # longer than any name, or the home of nobody
        path, there = Path(one), False
    if not there and (not isinstance(one, str) or not any(char.isspace() for char in one)):
        raise FileNotFoundError(f"expected texts, or files of texts that are there, found no {path}")
    return path if there else None


def words_in(path: Path, text: Text) -> list[Any]:
    """What a file holds where the texts are, which is not looked at yet: a table may hold none there.

    Raises:
        ValueError: if it cannot be read, or lacks the columns of the task.
    """
    if path.suffix.lower() in BUILDERS:
        return columns_in(path, text.columns)
    try:
        # A line ends where its writer ended it: what else str.splitlines() takes for an end stands in texts.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected text in {path} (UTF-8), found something else: {error}") from error
    return [as_words(line, text) for line in (lines if lines[-1] else lines[:-1])]


def _encoded(words: Sequence[Words], text: Text, size: int) -> Iterator[Read]:
    for start in range(0, len(words), size):
        part = words[start : start + size]
        yield Read([one if isinstance(one, str) else "\t".join(one) for one in part], text(part))
