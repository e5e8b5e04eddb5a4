"""A folder of images as a data set: one sub-folder for each class, whose name is the label."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from polymask.streams.inputs import Inputs
from polymask.streams.stream import Task

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
PART_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
GREY_MODES = ("1", "L", "LA")


@final
class ImageFolder(Dataset[Any]):
    """Pairs (image, label): bytes (C, H, W), brought to one size and one number of channels, and an int.

    Args:
        root: the folder that holds a folder for each class; other files are ignored.
        labels: names of the classes in order; None: the sub-folders' names, sorted.
        inputs: size and channels; size None: that of all images; channels None: grey if all images are, else RGB.

    Raises:
        FileNotFoundError: there is no such folder, or it has no class with an image.
        ValueError: a class is not among ``labels``, a file is no image, or sizes differ and none is given.
    """

    def __init__(self, root: str | Path, labels: Sequence[str] | None = None, inputs: Inputs | None = None) -> None:
        root = Path(root).expanduser()
        found = class_folders(root)
        self.labels = tuple(found if labels is None else labels)
        if unknown := sorted(set(found) - set(self.labels)):
            raise ValueError(f"{root} has classes {unknown} that are not among the labels {list(self.labels)}")
        self._files = [(path, self.labels.index(name)) for name, paths in found.items() for path in paths]
        self.y = torch.tensor([label for _, label in self._files])
        self.inputs = self._look(inputs or Inputs())

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self._files[index]
        try:
            with open_image(path) as image:
                pixels = to_pixels(image)
        except (OSError, SyntaxError) as error:  # Pillow reads the pixels late, and calls a broken PNG a wrong syntax
            raise ValueError(f"{path} cannot be read as an image: {error}") from error
        return self.inputs.fit(pixels[None])[0], label

    def _look(self, inputs: Inputs) -> Inputs:
        """The inputs with channels and size that suit all images; reads the files' heads only."""
        sizes, colours = Counter[tuple[int, int]](), set[bool]()
        for path, _ in self._files:
            with open_image(path) as image:
                check_depth(image, path)
                sizes[image.size[::-1]] += 1
                colours.add(image.mode not in GREY_MODES)
        if inputs.size is None and len(sizes) > 1:
            (usual, count), some = sizes.most_common(1)[0], [size for size, _ in sizes.most_common(3)]
            raise ValueError(
                f"the images under {self._files[0][0].parents[1]} have {len(sizes)} sizes, such as {some}: bring them "
                f"to one, --size {usual[0]} {usual[1]} (from Python inputs=Inputs(size={usual})), which {count} of "
                f"{len(self._files)} have already"
            )
        return replace(
            inputs,
            size=inputs.size or next(iter(sizes)),
            channels=inputs.channels or (3 if True in colours else 1),
        )


def folder_task(
    path: str | Path,
    name: str | None = None,
    inputs: Inputs | None = None,
) -> Task:
    """A task over a folder of images, or over its sub-folders train, val and test if it has a train.

    Args:
        path: holds a folder for each class, or train/ (and val/, test/) that do.
        name: of the task; None: the folder's own.
        inputs: size, channels, augmentation and normalisation.

    A folder without an image is no class, and is warned of.

    Raises:
        FileNotFoundError: there is no such folder, or no class with an image.
    """
    root = Path(path).expanduser()
    notes = {"source": "folder"}
    parts = {part: part_in(root, folders) for part, folders in PART_FOLDERS.items()}
    if parts["train"] is None:
        labels = list(class_folders(root))
        return Task(name or root.resolve().name, root, labels=labels, inputs=inputs, notes=notes)
    labels = list(class_folders(parts["train"]))
    return Task(
        name or root.resolve().name,
        parts["train"],
        parts["val"],
        parts["test"],
        labels,
        inputs=inputs,
        notes=notes,
    )


def part_in(root: Path, names: Sequence[str]) -> Path | None:
    """The sub-folder that is one part of the data, whatever the case of its name; the first of some names."""
    if not root.is_dir():
        return None
    found = {folder.name.lower(): folder for folder in sorted(root.iterdir()) if folder.is_dir()}
    return next((found[name] for name in names if name in found), None)


def class_folders(root: Path) -> dict[str, list[Path]]:
    """The images of each class, both sorted by name.

    Raises:
        FileNotFoundError: there is no such folder, or no class with an image.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}")
    found = {
        folder.name: sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        for folder in sorted(root.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    empty = [name for name, paths in found.items() if not paths]
    found = {name: paths for name, paths in found.items() if paths}
    if found and empty:
        named = ", ".join(map(repr, empty[:5])) + (" and others" if len(empty) > 5 else "")
        warnings.warn(
            f"{root}: no image lies in {named}, which is no class then; images end in {' '.join(SUFFIXES)}",
            stacklevel=3,
        )
    if not found:
        raise FileNotFoundError(
            f"{root} holds no class: expected a sub-folder for each, with images in it ({' '.join(SUFFIXES)})"
        )
    return found


def open_image(source: Any) -> Any:
    """A Pillow image, its head read.

    Raises:
        ValueError: the file cannot be read as an image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(source)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{source} cannot be read as an image: {error}") from error


def check_depth(image: Any, where: object) -> None:
    """Refuse pixels of more than 8 bits.

    Raises:
        ValueError: the image has such.
    """
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"images have 8 bits a channel, found mode {image.mode!r} in {where}: convert them first, such as "
            "16 bits by image.point(lambda value: value / 256).convert('L')"
        )


def to_pixels(image: Any) -> Tensor:
    """The bytes (1, H, W) of a grey image, or (3, H, W) of any other; transparency is dropped.

    Raises:
        ValueError: a pixel has more than 8 bits.

    >>> from PIL import Image
    >>> to_pixels(Image.new("RGB", (4, 2))).shape
    torch.Size([3, 2, 4])
    """
    check_depth(image, "an image")
    if image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns of a palette with transparency that goes any other way
    array = np.array(image.convert("L" if image.mode in GREY_MODES else "RGB"))
    return torch.from_numpy(array).view(*array.shape[:2], -1).movedim(-1, 0).contiguous()
