"""Tables as tasks: comma or tab separated values, JSON lines, parquet, folders of them, and data sets of the hub."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from polymask.near import nearest
from polymask.streams.data_sets.splits import (
    class_names,
    expect_train,
    folder_of,
    labelled,
    load_splits,
    numbering,
    quiet,
    splits_of,
)
from polymask.streams.images import LABELS, PLAIN
from polymask.streams.stream import Task
from polymask.streams.texts.text import Text

BUILDERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    ".csv": ("csv", {"keep_default_na": False, "index_col": False}),
    ".tsv": ("csv", {"keep_default_na": False, "index_col": False, "sep": "\t"}),
    ".jsonl": ("json", {}),
    ".json": ("json", {}),
    ".parquet": ("parquet", {}),
}
"""How a file is read, by its suffix; a text that says NA is a text."""

PARTS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
"""What the files of one data set are called, and the split that each is."""

Change = Callable[[str], str]


def load_texts(
    source: str | Path,
    data_root: str | Path | None = None,
    *,
    text: Sequence[str] = (),
    label: str | None = None,
    inputs: Text,
    change: Change | None = None,
) -> Task:
    """A task of texts and labels that stand in the columns of a table.

    Args:
        source: a file (.csv, .tsv, .jsonl, .json, .parquet), a folder with a file train.* (and validation.*, test.*) or
            with parquet files as the hub has them, or a name: "owner/name" or "owner/name:config".
        data_root: a folder that holds named data sets; None: the hub.
        text: the column of texts, or the two of pairs; none: the only column of words that is not the labels'.
        label: the column of labels, words or whole numbers; None: that of class labels, else one called as such.
        inputs: tokenizer and length.
        change: what is done to every text first.

    Raises:
        FileNotFoundError: there is no such file, folder or data set.
        ValueError: it cannot be read, columns are missing, or a text or label is.
    """
    data, name, called = open_table(source, data_root)
    expect_train(data, called)
    features = data["train"].features
    label = label_column(features, label, called)
    splits = splits_of(labelled(data, label), called)
    words = text_columns(features, text, label, called)
    if label in words:
        raise ValueError(
            f"expected texts and labels of {called} in columns of their own, found {label!r} named for both"
        )
    for part in dict.fromkeys(splits.values()):
        if lacking := sorted({*words, label} - {*data[part].features}):
            raise ValueError(
                f"expected the columns {[*words, label]} in every part of {called}, found {part} without {lacking}"
            )
    names = class_names(data, list(dict.fromkeys(splits.values())), label, called)
    if "" in names:
        raise ValueError(f"expected a label in every row of {called}, found some without one in {label!r}: drop them")
    parts = {part: rows_of(data[chosen], words, label, names, change, called) for part, chosen in splits.items()}
    notes = {"source": str(source), "splits": splits, "label": label, "text": list(words)}
    return Task(
        name,
        parts["train"],
        parts.get("val"),
        parts.get("test"),
        names,
        inputs=replace(inputs, columns=words),
        notes=notes,
    )


def open_table(source: str | Path, data_root: str | Path | None) -> tuple[Any, str, str]:
    """The splits of a table, a name for its task, and what messages call it."""
    path = Path(source).expanduser()
    if data_root is None and path.is_file():
        return read_files({"train": path}), path.stem, str(path)
    if data_root is None and path.is_dir():
        name = path.resolve().name
        if files := parts_in(path):
            return read_files(files), name, str(path)
        return load_splits(str(path), "", local=True), name, str(path)
    name, _, config = str(source).partition(":")
    if data_root is None:
        return load_splits(name, config), name.rpartition("/")[2], f"data set {source!r}"
    folder = folder_of(name, Path(data_root).expanduser())
    if files := parts_in(folder):
        return read_files(files), folder.name, f"data set {source!r}"
    return load_splits(str(folder), config, local=True), folder.name, f"data set {source!r}"


def parts_in(folder: Path) -> dict[str, Path]:
    """The files of a folder that are the parts of one data set, by the split that each is; none without train.*.

    Raises:
        ValueError: two files are the same part.
    """
    found: dict[str, Path] = {}
    for path in tables_in(folder):
        for split, names in PARTS.items():
            if path.stem.lower() in names:
                if split in found:
                    raise ValueError(f"expected one file of each part in {folder}, found {found[split]} and {path}")
                found[split] = path
    return found if "train" in found else {}


def tables_in(folder: Path) -> list[Path]:
    """The tables that lie in a folder, sorted."""
    return sorted(path for path in folder.iterdir() if is_table(path) and not path.name.startswith("."))


def is_table(path: Path) -> bool:
    """Whether a file is read as a table."""
    return path.suffix.lower() in BUILDERS and path.is_file()


def read_files(files: Mapping[str, Path]) -> Any:
    """The splits that some files are.

    Raises:
        ValueError: one of them cannot be read.
    """
    import datasets

    found = {}
    with quiet(datasets), warnings.catch_warnings(), tempfile.TemporaryDirectory() as scratch:
        warnings.filterwarnings("error", "Length of header")  # pandas would leave out the rest of every row
        for split, path in files.items():
            kind, how = BUILDERS[path.suffix.lower()]
            try:
                # one file at a time: together they would have to agree in the types of all columns
                found[split] = datasets.load_dataset(
                    kind, data_files=str(path), split="train", cache_dir=scratch, keep_in_memory=True, **how
                )
            except (datasets.exceptions.DatasetGenerationError, Warning, ValueError, OSError) as error:
                first = error
                while first.__cause__ is not None:
                    first = first.__cause__
                said = str(first).partition("\n")[0]
                said = "it has columns, and no row" if "corresponds to no data" in said else said
                if "Length of header" in said:
                    said = "its rows have more fields than its header; a text with a comma or tab in it wants quotes"
                raise ValueError(f"expected a table in {path}, found one that cannot be read: {said}") from error
    return found


def columns_in(path: Path, columns: Sequence[str]) -> list[Any]:
    """The texts, or pairs, of a table's columns.

    Args:
        path: the file.
        columns: their names; none: the only one of words.

    Raises:
        ValueError: it cannot be read, or lacks them.
    """
    table = read_files({"train": path})["train"]
    found = [list(table[key]) for key in text_columns(table.features, columns, "", str(path))]
    return found[0] if len(found) == 1 else list(zip(*found, strict=True))


def label_column(features: Mapping[str, Any], label: str | None, called: str) -> str:
    """The name of the column of labels.

    Raises:
        ValueError: there is none.
    """
    import datasets

    classes = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    plain = [key for key, f in features.items() if isinstance(f, datasets.Value) and f.dtype in (*PLAIN, "bool")]
    usual = [key for key in plain if key.lower() in LABELS]
    chosen = [key for key in (classes + usual if label is None else classes + plain) if label in (None, key)]
    if not chosen:
        hint = nearest(label, features) if label is not None else ": name it, --label COLUMN"
        hint = ", which holds no words, whole numbers or yes and no" if label in features else hint
        named = "" if label is None else f" called {label!r}"
        raise ValueError(f"expected a column of labels{named} in {called}, found {described(features)}{hint}")
    return chosen[0]


def text_columns(features: Mapping[str, Any], text: Sequence[str], label: str, called: str) -> tuple[str, ...]:
    """The names of the column of texts, or of the two of pairs.

    Raises:
        ValueError: they do not exist, hold no texts, or cannot be told without being named.
    """
    words = [key for key, feature in features.items() if getattr(feature, "dtype", "") in ("string", "large_string")]
    if not text:
        free = [key for key in words if key != label]
        if len(free) != 1:
            raise ValueError(
                f"expected one column of texts in {called}, found {described(features)}: name the one, or the two of "
                "pairs, --text COLUMN [COLUMN]"
            )
        return (free[0],)
    if len(text) > 2 or len({*text}) < len(text):
        raise ValueError(f"expected a column of texts, or the two of pairs, for --text, found {' '.join(text)}")
    for key in text:
        if key not in words:
            raise ValueError(
                f"expected a column of texts called {key!r} in {called}, found {described(features)}"
                f"{', which holds no texts' if key in features else nearest(key, features)}"
            )
    return tuple(text)


def described(features: Mapping[str, Any]) -> str:
    """The columns of a table, for a sentence."""
    return ", ".join(f"{key} ({getattr(one, 'dtype', type(one).__name__)})" for key, one in features.items())


def rows_of(
    data: Any, text: Sequence[str], label: str, names: Sequence[str], change: Change | None, called: str
) -> tuple[list[Any], list[str]]:
    """Texts, or pairs, and the names of their labels."""
    table = data.select_columns([*text, label]).with_format(None)
    columns = [list(table[key]) for key in text]
    if change is not None:
        columns = [[one if one is None else change(one) for one in column] for column in columns]
    texts = columns[0] if len(columns) == 1 else [tuple(pair) for pair in zip(*columns, strict=True)]
    number = numbering(data.features[label], names, called)
    return texts, [names[number(value)] for value in table[label]]
