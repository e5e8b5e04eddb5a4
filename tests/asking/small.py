"""A run over two small tasks of pictures with named labels, made once and copied."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from polymask.builder import Builder
from polymask.learning.learn import Learned, learn
from polymask.learning.training import Training
from polymask.nets.by_name import build_model
from polymask.streams.folder import folder_task
from polymask.streams.inputs import Inputs
from polymask.streams.stream import Task

MODES = ("RGB", "L", "RGBA", "P", "LA", "CMYK", "1", "YCbCr")
NETWORK = Builder(
    "polymask.nets.by_name:build_model", {"name": "mlp", "example_shape": [3, 8, 8], "outputs": 2, "hidden": [8]}
)
INPUTS = Inputs(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), size=(8, 8), channels=3)


def picture(size: tuple[int, int], bright: bool, seed: int) -> Image.Image:
    """A noisy picture, bright or dark."""
    noise = np.random.default_rng(seed).integers(0, 60, (*size, 3)) + 180 * bright
    return Image.fromarray(noise.astype(np.uint8))


def pictures(root: Path, count: int = 12) -> Path:
    """A folder for each class, of pictures that differ in size."""
    draw = random.Random(0)
    for label, bright in (("day", True), ("night", False)):
        (root / label).mkdir(parents=True)
        for seed in range(count):
            picture((draw.randint(6, 14), draw.randint(6, 14)), bright, seed).save(root / label / f"{seed}.png")
    return root


def tasks(root: Path) -> Iterator[Task]:
    """Twice the same pictures, under two names."""
    for name in ("one", "two"):
        yield folder_task(root, name, INPUTS)


def run(root: Path, out: Path | None, method: str = "packnet", count: int = 2) -> Learned:
    """Learn the first tasks."""
    network = build_model("mlp", (3, 8, 8), 2, hidden=[8])
    stream = list(tasks(root))[:count]
    return learn(network, stream, method, out=out, builder=NETWORK, training=Training(epochs=5, lr=0.02, device="cpu"))
