"""CIFAR-100 as APD's released loader reads it: ``python protocols/cifar100_scrambled.py data/cifar100-scrambled``.

A row of the data set is three planes of 32 x 32, red, green and blue. The loader reshapes it to 32 x 32 x 3 as if the
colours of a pixel stood side by side, so that every image is scrambled, all in the same way.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAME, SIDE = "uoft-cs/cifar100", 32


def main(folder: Path) -> None:
    """Read the data set from the hub and write the folder."""
    import datasets

    for part, rows in datasets.load_dataset(NAME).items():
        write(folder / part, ((row["img"], row["fine_label"]) for row in rows))


def write(folder: Path, pairs: Iterable[tuple[Any, int]]) -> None:
    """Write ``LABEL/NUMBER.png`` for every image."""
    for number, (image, label) in enumerate(pairs):
        path = folder / f"{label:02d}" / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scrambled(image).save(path)


def scrambled(image: Image.Image) -> Image.Image:
    """An image whose planes, one after the other, are read as pixels."""
    planes = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    return Image.fromarray(np.ascontiguousarray(planes).reshape(SIDE, SIDE, 3))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
