"""Which task is an input of, told from its pixels alone: what every way of asking the network has to beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from polymask.inference.statistics import DIMS, Statistics

Images = Mapping[str, tuple[Tensor, Tensor]]
"""Task -> inputs as the network reads them, and their labels."""
Asked = tuple[Callable[[Tensor], Tensor], int]
"""What scores inputs, the larger the likelier, (inputs, tasks), and the bytes that it keeps of a task."""


def by_nearest_mean_image(train: Images) -> Asked:
    """Minus the distance to the mean image of each task: one image a task is kept."""
    return _by_nearest([images.flatten(1).mean(0, keepdim=True) for images, _ in train.values()])


def by_nearest_class_image(train: Images) -> Asked:
    """Minus the distance to the nearest mean image of a class of each task."""
    pairs = [(images.flatten(1), y) for images, y in train.values()]
    return _by_nearest([torch.stack([x[y == label].mean(0) for label in y.unique()]) for x, y in pairs])


def by_pixel_statistics(train: Images, held_out: Images, dims: int | None = DIMS, seed: int = 0) -> Asked:
    """The scores of statistics that are measured on pixels in place of features."""
    made = [
        Statistics.fit(images.flatten(1), y, held_out[task][0].flatten(1), dims=dims, seed=seed)
        for task, (images, y) in train.items()
    ]

    def score(x: Tensor) -> Tensor:
        return torch.stack([one.scores(x.flatten(1)) for one in made], 1)

    return score, max(one.nbytes for one in made)


def _by_nearest(images: list[Tensor]) -> Asked:
    def score(x: Tensor) -> Tensor:
        rows = x.flatten(1)
        each = [torch.cdist(rows, kept, compute_mode="donot_use_mm_for_euclid_dist").amin(1) for kept in images]
        return -torch.stack(each, 1)

    return score, max(kept.nbytes for kept in images)
