"""Omniglot rotation as a folder of images: ``python protocols/omniglot_rotation.py data/omniglot-rotation``.

The first 1,200 characters; 20 images of each in four rotations, so 80, of which 60 are training and 20 test images.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from polymask.parts.seeds import generator

NAME, SPLIT = "GATE-engine/omniglot", "full"
CHARACTERS, IMAGES, TRAINING = 1200, 20, 60


def main(folder: Path) -> None:
    """Read the data set from the hub and write the folder.

    Raises:
        ValueError: there are too few characters.
    """
    import datasets

    found: dict[int, list[Any]] = {}
    for row in datasets.load_dataset(NAME, split=SPLIT):
        found.setdefault(row["label"], []).append(row["image"])
    characters = {label: images for label, images in sorted(found.items()) if len(images) == IMAGES}
    if len(characters) < CHARACTERS:
        raise ValueError(f"expected {CHARACTERS} characters of {IMAGES} images in {NAME}, found {len(characters)}")
    write(folder, dict(list(characters.items())[:CHARACTERS]))


def write(folder: Path, characters: Mapping[int, Sequence[Any]]) -> None:
    """Write ``train/LABEL/*.png`` and ``test/LABEL/*.png`` for every character."""
    for label, images in characters.items():
        rotated = [image.convert("L").rotate(degrees, expand=True) for degrees in (0, 90, 180, 270) for image in images]
        order = torch.randperm(len(rotated), generator=generator("omniglot-rotation", label)).tolist()
        for place, chosen in enumerate(order):
            part = "train" if place < TRAINING else "test"
            path = folder / part / f"{label:04d}" / f"{chosen:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            rotated[chosen].save(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
