"""Image data sets as tasks: the digits embedded in scikit-learn, and any Hugging Face data set of labelled images."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymask.parts.seeds import generator
from polymask.streams.cache import cached_file, read_cached, write_cached
from polymask.streams.classic import split
from polymask.streams.data_sets.splits import (
    class_names,
    expect_train,
    folder_of,
    labelled,
    load_splits,
    numbering,
    splits_of,
)
from polymask.streams.folder import open_image, to_pixels
from polymask.streams.holdout import held_out
from polymask.streams.inputs import Inputs
from polymask.streams.stream import Stream, Task

LABELS = ("label", "labels", "class", "category", "target")
"""What a column of words or numbers is called that is taken for labels unasked."""

PLAIN = ("string", "large_string", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def digits_data() -> Task:
    """The 1,797 handwritten digits that scikit-learn carries, x float (N, 1, 8, 8) in 0..1.

    A fifth of each class is the test part, the same whatever a run's seed.

    >>> digits_data().test[0].shape
    torch.Size([359, 1, 8, 8])
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    x = torch.from_numpy(raw.images).float()[:, None] / 16
    y = torch.from_numpy(raw.target).long()
    train, test = held_out(y, 0.2, generator("digits", "test"), "digits")
    labels = [str(digit) for digit in range(10)]
    return Task("digits", (x[train], y[train]), test=(x[test], y[test]), labels=labels, notes={"source": "sklearn"})


def digits(tasks: int | Sequence[Sequence[int]] = 5, *, order: Sequence[int] = (), seed: int = 0) -> Stream:
    """The embedded digits, split by classes.

    >>> [task.name for task in digits()]
    ['digits/0-1', 'digits/2-3', 'digits/4-5', 'digits/6-7', 'digits/8-9']
    """
    return split(digits_data(), tasks, order=order, seed=seed)


def load_images(
    name: str,
    data_root: str | Path | None = None,
    *,
    label: str | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> Task:
    """A Hugging Face data set with a column of images and one of class labels; x is bytes (N, C, H, W).

    Decoded images are kept on disk (see `cache`), so only the first call is slow. Without a split named test, the
    validation split is the test part, and the task's notes say so. The task's inputs are normalised by mean and
    deviation of the training images.

    Args:
        name: on the hub, "owner/name", or "owner/name:config".
        data_root: a folder that holds the data set's files under the same name; None: the hub.
        label: the column of labels; None: the column of class labels, of several the one with most classes.
        size: (H, W) that the images are read at; None: as they are.
        channels: that the images are read with; None: grey if all images are, else RGB.

    Raises:
        FileNotFoundError: the data root does not hold the data set.
        ValueError: there are no images, labels or training split, or images differ in size and none is given.
    """
    path, _, config = name.partition(":")
    fit = Inputs(size=size, channels=channels)
    if data_root is None:
        data = load_splits(path, config)
        files = [Path(file["filename"]) for part in data.values() for file in part.cache_files]
        stored = cached_file(files, Path(), name, label, fit)
        found = read_cached(stored)
    else:
        folder = folder_of(path, Path(data_root).expanduser())
        files = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")]
        stored = cached_file(files, folder, name, label, fit)
        found = read_cached(stored)
        data = load_splits(str(folder), config, local=True) if found is None else None
    if found is None:
        found = decode(data, label, fit, name)
        write_cached(stored, *found)
    tensors, facts = found
    parts = {part: (tensors[f"{part}.x"], tensors[f"{part}.y"]) for part in facts["splits"]}
    return Task(
        path.rpartition("/")[2],
        parts["train"],
        parts.get("val"),
        parts.get("test"),
        facts["labels"],
        inputs=replace(fit_normalisation(tensors["train.x"]), size=size, channels=channels),
        notes={"source": name, "splits": facts["splits"], "label": facts["label"]},
    )


def decode(data: Any, label: str | None, fit: Inputs, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of all parts, and which split and column each came from."""
    expect_train(data, name)
    image, label = columns(data["train"].features, label, name)
    splits = splits_of(labelled(data, label), name)
    names = class_names(data, list(splits.values()), label, name)
    batches = {part: list(read(data[chosen], image, label, fit, name, names)) for part, chosen in splits.items()}
    channels = max(x.shape[1] for part in batches.values() for x, _ in part)
    tensors: dict[str, Tensor] = {}
    for part, pairs in batches.items():
        tensors[f"{part}.x"] = torch.cat([Inputs(channels=channels).fit(x) for x, _ in pairs])
        tensors[f"{part}.y"] = torch.cat([y for _, y in pairs])
    return tensors, {"splits": splits, "label": label, "labels": names}


def columns(features: Any, label: str | None, name: str) -> tuple[str, str]:
    """The names of the columns of images and of labels, found by their types."""
    import datasets

    images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    classes = {key: f.num_classes for key, f in features.items() if isinstance(f, datasets.ClassLabel)}
    plain = [key for key, f in features.items() if isinstance(f, datasets.Value) and f.dtype in PLAIN]
    usual = [key for key in plain if key.lower() in LABELS]
    known = [*sorted(classes, key=lambda key: -classes[key]), *usual] if label is None else [*classes, *plain]
    chosen = [key for key in known if label in (None, key)]
    if not images or not chosen:
        raise ValueError(
            f"data set {name!r} needs a column of images and one of class labels"
            f"{'' if label is None else f' called {label!r}'}, found {dict(features)}"
            f"{f': name the column of labels, --label {plain[0]}' if images and plain else ''}"
            f"{': for texts name their column, --text COLUMN' if not images and plain else ''}"
        )
    return images[0], chosen[0]


def read(
    data: Any, image: str, label: str, fit: Inputs, name: str, names: Sequence[str]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of bytes (n, C, H, W) and labels (n,); a batch with any colour in it has three channels."""
    import datasets

    number = numbering(data.features[label], names, name)

    # bytes are decoded here: through the library's own feature every image would pass a slower path
    raw = data.select_columns([image, label]).cast_column(image, datasets.Image(decode=False))
    for rows in raw.iter(1000):
        cells = [io.BytesIO(cell["bytes"]) if cell["bytes"] else cell["path"] for cell in rows[image]]
        pixels = [fit.fit(to_pixels(open_image(cell))[None]) for cell in cells]
        if len(sizes := {x.shape[-2:] for x in pixels}) > 1:
            some = sorted(tuple(size) for size in sizes)[:3]
            raise ValueError(
                f"images of {name!r} differ in size, such as {some}: give --size H W (from Python size=(H, W))"
            )
        channels = Inputs(channels=max(x.shape[1] for x in pixels))
        yield (
            torch.cat([channels.fit(x) for x in pixels]),
            torch.tensor(list(map(number, rows[label]))),
        )


def fit_normalisation(x: Tensor) -> Inputs:
    """Mean and deviation of each channel of byte images (N, C, H, W), counted exactly and rounded to 4 digits.

    >>> fit_normalisation(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2))
    Inputs(mean=(0.5,), std=(0.5,), crop=0, flip=False, size=None, channels=None, area=1.0)
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = [x[:, c].flatten().bincount(minlength=256).double() / x[:, c].numel() for c in range(x.shape[1])]
    means = [float(share @ values) for share in shares]
    deviations = [float((share @ (values - mean) ** 2).sqrt()) for share, mean in zip(shares, means, strict=True)]
    return Inputs(
        mean=tuple(round(mean, 4) for mean in means),
        # a channel of one value is left as wide as it is
        std=tuple(round(deviation, 4) or 1.0 for deviation in deviations),
    )
