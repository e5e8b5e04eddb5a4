"""A data set as its library gives it: where it lies, which split is which part, and what its labels are called."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from polymask.near import nearest
from polymask.streams.data_sets.hub import endpoint, hub_answers, offline

VALIDATION = ("validation", "valid", "val", "dev")


def folder_of(name: str, root: Path) -> Path:
    """Where a data set lies under a data root.

    Raises:
        FileNotFoundError: it is not there; the message says what is.
    """
    folder = root / name
    if folder.is_dir() and any(file.is_file() for file in folder.rglob("*")):
        return folder
    there = sorted(str(path.relative_to(root)) for path in root.glob("[!.]*/[!.]*") if path.is_dir())
    raise FileNotFoundError(
        f"no data set {name!r} under the data root: looked for files in {folder}; "
        + (f"{root} holds {there[:12]}" if root.is_dir() else f"there is no folder {root}")
        + (f" and {len(there) - 12} more" if len(there) > 12 else "")
        + nearest(name, there)
    )


def load_splits(source: str, config: str, local: bool = False) -> Any:
    """The data set as ``datasets`` gives it; a local one leaves nothing in that library's own cache.

    Raises:
        ConnectionError: the hub cannot be reached.
    """
    import datasets

    with quiet(datasets), tempfile.TemporaryDirectory() as scratch:
        how = {"cache_dir": scratch, "keep_in_memory": True} if local else {}
        if local or Path(source).is_dir():
            return datasets.load_dataset(source, config or None, **how)
        with nullcontext() if datasets.config.HF_HUB_OFFLINE or hub_answers() else offline(datasets):
            try:
                return datasets.load_dataset(source, config or None)
            except ConnectionError as error:
                raise ConnectionError(_unreachable(source)) from error


def _unreachable(source: str) -> str:
    here = f"; for the folder {source} that is here, write ./{source}" if Path(source).exists() else ""
    return (
        f"expected the data set {source!r} from {endpoint()}, found no way to reach it, and nothing of it in the "
        f"library's cache: give a folder that holds {source} by --data-root, or POLYMASK_DATA_ROOT{here}"
    )


@contextmanager
def quiet(datasets: Any) -> Iterator[None]:
    """No progress bars where nobody watches."""
    silent = datasets.are_progress_bars_disabled()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not silent:
            datasets.enable_progress_bars()


def expect_train(data: Any, name: str) -> None:
    """Check that there is something to learn from.

    Raises:
        ValueError: no split is named train.
    """
    if "train" not in data:
        raise ValueError(f"data set {name!r} has no split named train, only {sorted(data)}")


def splits_of(data: Any, name: str) -> dict[str, str]:
    """Which split is which part: without one named test the validation split is the test part.

    Raises:
        ValueError: none is named train.
    """
    expect_train(data, name)
    validation = next((part for part in VALIDATION if part in data), None)
    splits = {"train": "train", "val": validation, "test": "test"}
    if "test" not in data:
        splits = {"train": "train", "test": validation}
    return {part: chosen for part, chosen in splits.items() if chosen is not None}


def labelled(data: Mapping[str, Any], label: str) -> dict[str, Any]:
    """The splits in which some example has a label; where a test part is kept secret, -1 or nothing stands there."""
    return {part: one for part, one in data.items() if label not in one.features or {*one.unique(label)} - {-1, None}}


def numbering(feature: Any, names: Sequence[str], called: str) -> Callable[[Any], int]:
    """How the labels of a split are numbered: by their names, whatever numbers a split itself gives these.

    Args:
        feature: the split's column of labels.
        names: the names of all classes, in order.
        called: what messages call the data set.

    Returns:
        What gives a label's number; a ValueError for one without a name.
    """
    own, places = getattr(feature, "names", None), {name: place for place, name in enumerate(names)}

    def number(value: Any) -> int:
        text = str(value) if own is None else own[value] if value is not None and 0 <= value < len(own) else None
        if text not in places:
            raise ValueError(f"expected a label in every row of {called}, found {value!r} in one: drop such rows")
        return places[text]

    return number


def class_names(data: Any, splits: Iterable[str], label: str, name: str) -> list[str]:
    """The names of the classes: the column's own, or its words or numbers in order."""
    import datasets

    feature = data["train"].features[label]
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    found = {value for split in splits for value in data[split].unique(label)}
    if None in found:
        raise ValueError(
            f"data set {name!r} has examples without a label in {label!r}: drop them, or take another --label"
        )
    if len(kinds := {type(value).__name__ for value in found}) > 1:
        raise ValueError(f"expected labels of one kind in all parts of {name}, found {' and '.join(sorted(kinds))}")
    return [str(value) for value in sorted(found)]
