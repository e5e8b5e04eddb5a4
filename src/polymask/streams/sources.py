"""Where the data of a stream by name lie: a folder of images or of parquet files, a data root, or the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from polymask.streams.data_sets.splits import folder_of
from polymask.streams.folder import SUFFIXES, folder_task
from polymask.streams.images import load_images
from polymask.streams.inputs import Inputs
from polymask.streams.stream import Task

ROOT = "POLYMASK_DATA_ROOT"
"""The environment variable that names a folder of data sets, where none is given."""

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".xlsx", ".txt", ".npz", ".npy")


def open_data(
    name: str,
    data_root: str | Path | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    label: str | None = None,
) -> Task:
    """The data of this name: a folder where it is a path, else a data set below the data root or on the hub.

    Args:
        name: a path that begins with . / or ~, or "owner/name", or "owner/name:config".
        data_root: a folder that holds named data sets; None: that of POLYMASK_DATA_ROOT where it holds this one, else
            the hub.
        size: (H, W) that images are brought to.
        channels: that they are brought to.
        label: the column of labels, of data that have columns.

    Raises:
        FileNotFoundError: there is no such folder or data set.
        ValueError: it holds no labelled images.
    """
    if not name.startswith((".", "/", "~")):
        return _named(name, data_root, {"label": label, "size": size, "channels": channels})
    path = Path(name).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(_no_folder(path))
    if not has_class_folders(path):
        if any(path.rglob("*.parquet")) or any(path.rglob("*.arrow")):
            whole = path.resolve()
            return load_images(whole.name, whole.parent, label=label, size=size, channels=channels)
        if tables := sorted(file.name for file in path.iterdir() if file.suffix.lower() in TABLES):
            raise ValueError(_no_images(path / tables[0]))
    if label is not None:
        raise ValueError(
            f"expected --label for data with columns, found {path}, where a class is a folder: leave it out"
        )
    return folder_task(name, inputs=Inputs(size=size, channels=channels))


def has_class_folders(path: Path) -> bool:
    """Whether a sub-folder, or one of its train, has an image in it."""
    places = [place for place in path.iterdir() if place.is_dir() and not place.name.startswith(".")]
    return any(file.suffix.lower() in SUFFIXES for place in places for file in place.rglob("*"))


def _named(name: str, data_root: str | Path | None, how: dict[str, Any]) -> Task:
    """A data set below the data root, or else on the hub."""
    root = os.environ.get(ROOT) if data_root is None else data_root
    if data_root is not None or not root:
        return load_images(name, data_root, **how)
    try:
        folder_of(name.partition(":")[0], Path(root).expanduser())
    except FileNotFoundError as missing:
        try:
            return load_images(name, **how)
        except ConnectionError as error:
            raise ConnectionError(f"{error}; {ROOT} is {root}: {missing}") from error
    return load_images(name, root, **how)


def _no_folder(path: Path) -> str:
    if not path.exists():
        return f"no folder {path}"
    if path.suffix.lower() in TABLES:
        return _no_images(path)
    return f"expected a folder for --data, found the file {path}: name the folder that holds it, --data {path.parent}/"


def _no_images(path: Path) -> str:
    return (
        f"expected images for --data, found the table {path}: give a folder with a sub-folder of images a "
        "class, a folder of parquet files with a column of images and one of labels (--label), or the name of such "
        "a data set; for texts name their column and a tokenizer, --text COLUMN --tokenizer NAME; other data are "
        "learned from Python, learn(network, [Task(name, (x, y))])"
    )
