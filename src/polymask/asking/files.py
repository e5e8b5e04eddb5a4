"""Files to ask with: which there are, their pixels in any mode, their arrays piece by piece."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymask.streams.folder import SUFFIXES, to_pixels

ARRAYS = (".npy", ".npz")


def expand(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files that are meant: each as it is named, of a folder all images and arrays in and below it, sorted.

    Args:
        paths: files and folders.

    Raises:
        FileNotFoundError: if one of them is not there, or a folder holds nothing to read; before any is read.
    """
    given = [Path(path).expanduser() for path in paths]
    if missing := [str(path) for path in given if not path.exists()]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise FileNotFoundError(f"expected files and folders that are there, found no {', '.join(missing[:3])}{more}")
    found: list[Path] = []
    for path in given:
        inside = sorted(filter(_is_read, path.rglob("*"))) if path.is_dir() else [path]
        if not inside:
            raise FileNotFoundError(
                f"expected images or arrays in the folder {path}, found none ({' '.join((*SUFFIXES, *ARRAYS))})"
            )
        found += inside
    return found


def _is_read(path: Path) -> bool:
    return path.suffix.lower() in (*SUFFIXES, *ARRAYS) and not path.name.startswith(".") and path.is_file()


def pixels_of(image: Any) -> Tensor:
    """The pixels (1, C, H, W) of a Pillow image in any mode: bytes, as in training; deeper ones as floats of 0..1.

    Raises:
        ValueError: if whole numbers are none of 16 bits.

    >>> from PIL import Image
    >>> (
    ...     pixels_of(Image.new("RGBA", (4, 2), (255, 0, 0, 9)))[0, :, 0, 0],
    ...     pixels_of(Image.new("I;16", (4, 2), 65535)).max(),
    ... )
    (tensor([255,   0,   0], dtype=torch.uint8), tensor(1.))
    """
    if not image.mode.startswith(("I", "F")):
        return to_pixels(image)[None]
    array: NDArray[np.float32] = np.asarray(image).astype(np.float32)
    if image.mode.startswith("I"):
        if array.min() < 0 or array.max() > 65535:
            raise ValueError(
                f"expected 8 or 16 bits a channel, found values of {array.min():.0f}..{array.max():.0f}: scale them"
            )
        array /= 65535
    return torch.from_numpy(array)[None, None]


def read_arrays(path: Path, rows: int | None, example: int | None = None) -> Iterator[Any]:
    """The array of a ``.npy``, or the named ones of a ``.npz``, so many rows at a time; objects are never unpickled.

    Args:
        path: the file; a ``.npy`` is read as far as it is used.
        rows: of the first axis; None: all at once.
        example: the dimensions of one example; an array that has no more is read whole.

    Yields:
        An array, or named ones.

    Raises:
        ValueError: if it is no such file, or its arrays differ in their numbers of rows.
    """
    try:
        held = np.load(path, mmap_mode="r" if path.suffix.lower() == ".npy" else None, allow_pickle=False)
        named = held if isinstance(held, np.ndarray) else _unzipped(held)
    except (ValueError, OSError, EOFError, KeyError, BadZipFile) as error:
        # numpy takes whatever it does not know for a pickle, and says how to load one unsafely.
        found = "something else, or Python objects, which are not loaded" if "pickle" in str(error) else error
        raise ValueError(
            f"expected arrays of numbers in {path}, as numpy.save and numpy.savez write them, found: {found}"
        ) from error
    if isinstance(named, np.ndarray):
        if named.ndim == 0 or (example is not None and named.ndim <= example):
            yield named
        else:
            yield from (named[piece] for piece in _pieces(len(named), rows))
        return
    counts = {len(array) for array in named.values() if array.ndim}
    if len(counts) != 1:
        raise ValueError(f"expected arrays of as many rows in {path}, found {sorted(counts) or 'single numbers'}")
    for piece in _pieces(counts.pop(), rows):
        yield {name: array[piece] if array.ndim else array for name, array in named.items()}


def _unzipped(held: Any) -> dict[str, NDArray[Any]]:
    with held:
        return {name: held[name] for name in held.files}


def _pieces(count: int, rows: int | None) -> list[slice]:
    step = rows or max(count, 1)
    return [slice(start, start + step) for start in range(0, count, step)]
