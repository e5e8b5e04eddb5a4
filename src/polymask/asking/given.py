"""What a user asks with, as the raw batch that a task's stored inputs prepare: images, arrays, tensors, files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymask.asking.files import ARRAYS, expand, pixels_of, read_arrays
from polymask.asking.wanted import Wanted
from polymask.streams.folder import open_image
from polymask.streams.inputs import Inputs
from polymask.streams.texts.pairs import listed
from polymask.streams.texts.text import holds_texts


def as_batch(x: Any, wanted: Wanted) -> Any:
    """Raw inputs as a network takes them: a tensor, a tuple of arguments or a mapping of them, not prepared yet.

    Args:
        x: texts or pairs of texts; paths, Pillow images, arrays or tensors, one or a list of them; a tuple or a
            mapping are the arguments of a network that takes several. An image is (H, W), (H, W, C) or (C, H, W), a
            batch (N, C, H, W) or (N, H, W, C); a tensor has its channels first, and keeps its size where none is
            stored.
        wanted: what the task takes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is nothing of that kind, or would give an answer to another question.

    >>> wanted = Wanted("digits", Inputs(size=(8, 8), channels=1))
    >>> as_batch([np.zeros((20, 30), np.uint8), np.zeros((9, 9, 3), np.uint8)], wanted).shape
    torch.Size([2, 1, 8, 8])
    """
    if isinstance(x, Tensor):
        x = x[None] if wanted.images and x.ndim == 3 else x
        wanted.check(x)
        return x
    if isinstance(x, Mapping):
        return {key: _argument(value, wanted) for key, value in x.items()}
    if wanted.text is not None and holds_texts(x):
        return wanted.text(listed(x, wanted.text))
    if is_single(x):
        return together(list(_read(x, wanted)), wanted)
    several = isinstance(x, Sequence) and len(x) > 0
    if several and any(map(is_single, x)):
        return together([batch for one in x for batch in _read(one, wanted)], wanted)
    if isinstance(x, tuple) or (several and not wanted.images and all(isinstance(one, Tensor) for one in x)):
        return tuple(_argument(value, wanted) for value in x)
    if several and wanted.images and all(isinstance(one, np.ndarray | Tensor) for one in x):
        return together([batch for one in x for batch in _read(one, wanted)], wanted)
    return from_array(x, wanted)


def from_array(x: Any, wanted: Wanted, where: str = "the array") -> Tensor:
    """A batch of an array or of nested lists; one example is a batch of one.

    Raises:
        ValueError: if they are no numbers, or it is not said which axis of images has the channels.
    """
    found = as_tensor(x, wanted)
    if wanted.images:
        return fitted(_channels_first(found, where), wanted, where)
    wanted.check(found, where)
    return found[None] if wanted.shape and found.ndim == len(wanted.shape) else found


def read_file(path: Path, wanted: Wanted, rows: int | None = None) -> Iterator[Any]:
    """The batches in a file: an image at the task's size and channels, or arrays, so many rows at a time.

    Args:
        path: an image, a ``.npy``, or a ``.npz`` whose arrays are the arguments of the network by their names.
        wanted: what the task takes.
        rows: None: all at once.

    Yields:
        Batches as ``as_batch`` gives them.

    Raises:
        ValueError: if it cannot be read, or the task takes no such thing.
    """
    if path.suffix.lower() in ARRAYS:
        example = 3 if wanted.images else len(wanted.shape) or None
        for piece in read_arrays(path, rows, example):
            yield as_batch(piece, wanted) if isinstance(piece, dict) else from_array(piece, wanted, str(path))
        return
    refuse_images(path, wanted)
    try:
        with open_image(path) as image:
            found = pixels_of(image)
    except (OSError, SyntaxError) as error:  # Pillow reads the pixels late, and calls a broken PNG a wrong syntax
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    yield fitted(found, wanted, str(path))


def is_single(x: Any) -> bool:
    """Whether something is one path or one Pillow image."""
    if isinstance(x, str | os.PathLike):
        return True
    from PIL.Image import Image

    return isinstance(x, Image)


def as_tensor(x: Any, wanted: Wanted) -> Tensor:
    """Numbers as a tensor: fractions in float32, whole numbers as the network reads them, bytes as they are.

    Raises:
        ValueError: if they are no numbers, or rows differ in length.
    """
    if isinstance(x, Tensor):
        return x
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"expected rows of one length, found others ({error}): pad them as for training") from error
    if array.dtype.kind not in "biuf" or not array.size:
        found = f"{type(x).__name__} of {array.dtype}" if array.size else "nothing"
        raise ValueError(f"expected {wanted} for task {wanted.task!r}, found {found}")
    fractions = not wanted.images and "float" in (wanted.spec or {}).get("dtype", "")
    if array.dtype.kind == "f" or (fractions and array.dtype != np.uint8):
        array = array.astype(np.float32)
    elif array.dtype.kind in "iu" and array.dtype != np.uint8:
        array = array.astype(np.int64)
    # torch has no arrays that run backwards, nor such as may not be written to.
    return torch.from_numpy(np.array(array, order="C"))


def are_paths(x: Any) -> bool:
    """Whether something is a path, or several."""
    several = isinstance(x, Sequence) and len(x) > 0 and all(isinstance(one, str | os.PathLike) for one in x)
    return isinstance(x, str | os.PathLike) or several


def fitted(x: Tensor, wanted: Wanted, where: str) -> Tensor:
    """Images (N, C, H, W), checked and brought to the task's size and channels; transparency is dropped."""
    wanted.check(x, where)
    if x.ndim == 4 and x.shape[1] in (2, 4) and wanted.fit.channels != x.shape[1]:
        x = x[:, :-1]
    return wanted.fit.fit(x)


def together(batches: Sequence[Any], wanted: Wanted) -> Any:
    """Batches as one.

    Raises:
        ValueError: if they differ in shape, or are named arguments.
    """
    if len(batches) == 1:
        return batches[0]
    if not all(isinstance(batch, Tensor) for batch in batches):
        raise ValueError("expected one file of named arrays at a time, found several: ask with each of them")
    if wanted.images and len({batch.dtype for batch in batches}) > 1:
        # The bytes of one picture and the fractions of another are on one scale.
        batches = [Inputs().scale(batch) for batch in batches]
    if len(shapes := {tuple(batch.shape[1:]) for batch in batches}) > 1:
        raise ValueError(f"expected inputs of one shape for task {wanted.task!r}, found {sorted(shapes)[:3]}")
    return torch.cat(list(batches))


def refuse_images(what: Any, wanted: Wanted) -> None:
    """Raise a ``ValueError`` where a picture's pixels are not known to be what the network reads."""
    if not wanted.images:
        raise ValueError(f"expected {wanted} in a .npy or .npz for task {wanted.task!r}, found the image {what}")
    if wanted.inputs is None:
        raise ValueError(
            f"expected a task whose inputs are described, found {wanted.task!r}, learned in a loop of your own: "
            f"prepare {what} as for its training, and give the array or a .npy of it"
        )


def _read(x: Any, wanted: Wanted) -> Iterator[Any]:
    """The batches of one thing among several."""
    if isinstance(x, str | os.PathLike):
        for path in expand([x]):
            yield from read_file(path, wanted)
    elif isinstance(x, Tensor) and wanted.images and x.ndim in (3, 4):
        yield fitted(x[None] if x.ndim == 3 else x, wanted, "the inputs")
    elif isinstance(x, np.ndarray | Tensor):
        yield from_array(x, wanted)
    else:
        refuse_images("given", wanted)
        yield fitted(pixels_of(x), wanted, "the image")


def _argument(x: Any, wanted: Wanted) -> Any:
    """One argument of several: numbers as a tensor, flags and the like as they are."""
    return as_tensor(x, wanted) if isinstance(x, np.ndarray | list) else x


def _channels_first(x: Tensor, where: str) -> Tensor:
    """An image (H, W), (C, H, W) or (H, W, C), or a batch of them, as (N, C, H, W)."""
    if x.ndim == 2:
        return x[None, None]
    if x.ndim not in (3, 4):
        raise ValueError(f"expected images (N, C, H, W) or (N, H, W, C), found {tuple(x.shape)} in {where}")
    first, last = x.shape[-3] in (1, 3), x.shape[-1] in (1, 2, 3, 4)
    if first and last:
        raise ValueError(f"expected channels first or last in {where}, found {tuple(x.shape)}: give a tensor instead")
    x = x.movedim(-1, -3) if last else x
    return x[None] if x.ndim == 3 else x
