"""Which tasks a name stands for: one table, a folder of several, or a standard stream of texts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polymask.streams.sources import ROOT, has_class_folders
from polymask.streams.stream import Task
from polymask.streams.texts.copies import warn_of_copies, without_copies
from polymask.streams.texts.tables import load_texts, parts_in, tables_in
from polymask.streams.texts.text import Text


@dataclass(frozen=True)
class Known:
    """A standard stream: where its data lie below a data root, their columns, and into how many tasks they are split.

    ``tasks`` is None where each data set of the folder is a task. ``copies``: validation texts stand among the training
    texts as they are published, and are left out there.
    """

    name: str
    text: tuple[str, ...]
    tasks: int | None = None
    copies: bool = False


KNOWN: Mapping[str, Known] = {
    "asc": Known("local/asc", ("term", "sentence")),
    "dsc": Known("local/dsc", ("text",), copies=True),
    "20news": Known("local/20news-bydate", ("text",), 10),
}
"""Aspect sentiment of 19 products, sentiment of 10 kinds of reviews, and the 20 Newsgroups two by two, as Ke et al.
(NeurIPS 2021) learn them."""


TABLES = (".csv", ".tsv", ".jsonl", ".json")
"""Files that hold texts, where nobody says what they hold; parquet may hold images."""


def are_texts(kind: str, data: Sequence[str] | None, text: Sequence[str] | None, tokenizer: str | None) -> bool:
    """Whether a stream is one of texts: it is said so, or is known, or there are tables.

    >>> are_texts("asc", None, None, None), are_texts("datasets", ["reviews.csv"], None, None)
    (True, True)
    """
    return kind in KNOWN or bool(text or tokenizer) or any(map(has_tables, data or ()))


def has_tables(name: str) -> bool:
    """Whether a name is that of a table, or of a folder with tables in it, or in the folders in it, and no images."""
    path = Path(name).expanduser()
    if name.lower().endswith(TABLES):
        return True
    if not name.startswith((".", "/", "~")) or not path.is_dir() or has_class_folders(path):
        return False
    return any(one.suffix.lower() in TABLES for one in (*path.glob("*"), *path.glob("*/*")))


def refuse_looks(kind: str, looks: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` for what is said of images, and for a stream that changes them, where there are texts."""
    if said := [name for name, value in looks.items() if value is not None]:
        raise ValueError(f"expected texts without what is for images, found {', '.join(f'--{name}' for name in said)}")
    if kind not in (*KNOWN, "datasets", "split"):
        raise ValueError(
            f"expected a stream of texts (datasets, split, {', '.join(KNOWN)}), found {kind!r}, which is of images"
        )


def open_texts(
    kind: str,
    data: Sequence[str] | None,
    data_root: str | Path | None,
    tokenizer: str | None,
    length: int | None = None,
    *,
    text: Sequence[str] | None = None,
    label: str | None = None,
    headers: bool = True,
) -> list[Task]:
    """The tasks of several names; a folder that holds several tables, or folders of them, is a task for each.

    Args:
        kind: "asc", "dsc" or "20news", whose data and columns are known, or any other.
        data: names, see ``load_texts``; a path begins with . / or ~, or ends like a table.
        data_root: a folder that holds named data sets; None: that of POLYMASK_DATA_ROOT where it holds this one, else
            the hub.
        tokenizer: a folder or a name of transformers.
        length: most tokens of a text; None: 128.
        text: the column of texts, or the two of pairs.
        label: the column of labels.
        headers: whether texts keep the lines before the first empty one, of posts and mails that have such.

    Raises:
        FileNotFoundError: one of them is not there.
        ValueError: it cannot be read, there is no tokenizer, or no data are named.
    """
    if not data and kind not in KNOWN:
        raise ValueError(f"expected data for the stream {kind!r}, found none: --data reviews.csv, or a data set's name")
    if tokenizer is None:
        raise ValueError("expected a tokenizer for texts, found none: --tokenizer, a folder or a name of transformers")
    names, columns = data or [KNOWN[kind].name], text or (KNOWN[kind].text if kind in KNOWN else ())
    how: dict[str, Any] = {"text": columns, "label": label, "inputs": Text(tokenizer, length)}
    how["change"] = None if headers else without_headers
    tasks: list[Task] = []
    for name in names:
        root = data_root or os.environ.get(ROOT)
        path = Path(name).expanduser()
        if not is_path(name) and root is not None and (Path(root).expanduser() / name).is_dir():
            path = Path(root).expanduser() / name
        elif not is_path(name):
            tasks.append(load_texts(name, data_root, **how))
            continue
        if not path.exists():
            raise FileNotFoundError(f"expected a table or a folder of tables, found no {path}")
        tasks += [load_texts(one, **how) for one in expand(path)]
    if kind in KNOWN and KNOWN[kind].copies:
        tasks = list(map(without_copies, tasks))
    for task in tasks:
        warn_of_copies(task)
    return tasks


def is_path(name: str) -> bool:
    """Whether a name is a path rather than that of a data set.

    >>> is_path("reviews.csv"), is_path("./reviews"), is_path("owner/name")
    (True, True, False)
    """
    return name.startswith((".", "/", "~")) or name.lower().endswith((*TABLES, ".parquet"))


def expand(path: Path) -> list[Path]:
    """The data sets that a path stands for: a file, a folder that is one, or those in a folder, sorted.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    if path.is_file() or parts_in(path):
        return [path]
    tables = tables_in(path)
    if tables and all(table.suffix.lower() == ".parquet" for table in tables):
        return [path]
    inside = sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))
    found = [*tables, *(one for one in inside if tables_in(one))]
    if not found:
        raise FileNotFoundError(
            f"expected tables in {path} (.csv, .tsv, .jsonl, .json or .parquet), or folders of them, found none"
        )
    return found


def without_headers(text: str) -> str:
    r"""A post without its first lines, up to the first empty one; one that has no header line is left as it is.

    >>> without_headers("From: me\nSubject: space\n\nOrbits decay.")
    'Orbits decay.'
    >>> without_headers("No header.\n\nOrbits decay.")
    'No header.\n\nOrbits decay.'
    """
    head, empty, body = text.partition("\n\n")
    return body if empty and re.match(r"[A-Za-z][\w-]*:", head) else text
