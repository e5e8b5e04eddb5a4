"""Which task is an input of, told from its pixels alone: what every way of asking the network has to beat."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from polymask.inference.statistics import DIMS, Statistics

Images = Mapping[str, tuple[Tensor, Tensor]]
"""Task -> inputs as the network reads them, and their labels."""


def by_nearest_mean_image(train: Images, x: Tensor) -> Tensor:
    """Minus the distance of every input to the mean image of each task, (inputs, tasks): one image a task is kept."""
    means = torch.stack([images.flatten(1).mean(0) for images, _ in train.values()])
    return -torch.cdist(x.flatten(1), means, compute_mode="donot_use_mm_for_euclid_dist")


def by_nearest_class_image(train: Images, x: Tensor) -> Tensor:
    """Minus the distance of every input to the nearest mean image of a class of each task, (inputs, tasks)."""
    found = []
    for images, y in train.values():
        means = torch.stack([images[y == label].flatten(1).mean(0) for label in y.unique()])
        found.append(-torch.cdist(x.flatten(1), means, compute_mode="donot_use_mm_for_euclid_dist").amin(1))
    return torch.stack(found, 1)


def by_pixel_statistics(
    train: Images, held_out: Images, x: Tensor, dims: int | None = DIMS, seed: int = 0
) -> tuple[Tensor, int]:
    """The scores of statistics that are measured on pixels in place of features, (inputs, tasks), and bytes a task."""
    made = [
        Statistics.fit(images.flatten(1), y, held_out[task][0].flatten(1), dims=dims, seed=seed)
        for task, (images, y) in train.items()
    ]
    return torch.stack([one.scores(x.flatten(1)) for one in made], 1), max(one.nbytes for one in made)
