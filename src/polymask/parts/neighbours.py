"""How well features tell classes apart: a vote among nearest neighbours, without training anything."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def neighbour_accuracy(
    features: Float[Tensor, "n d"], labels: Shaped[Tensor, " n *_"], neighbours: int
) -> tuple[float, float]:
    """The accuracy of a k-nearest-neighbour vote on the last third of some examples, and of a guess.

    The first two thirds vote. ``k`` is at most the size of the smallest class among them, so that a few examples are
    not outvoted by the most frequent class. Distances are Euclidean.

    Args:
        features: ``(n, d)``.
        labels: ``(n,)``, integers.
        neighbours: the largest ``k``.

    Returns:
        The share that the vote gets right, and the share of the most frequent class among the same examples.

    Raises:
        ValueError: for fewer than three examples, or labels that are no classes.

    >>> x = torch.tensor([[0.0], [0.1], [1.0], [1.1], [0.05], [1.05]])
    >>> neighbour_accuracy(x, torch.tensor([0, 0, 1, 1, 0, 1]), 3)
    (1.0, 0.5)
    """
    if len(labels) < 3 or labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(
            f"expected class labels of at least 3 examples to compare tasks by, found {tuple(labels.shape)} of "
            f"{labels.dtype}: leave transfer out"
        )
    cut = max(1, len(labels) * 2 // 3)
    # Centred and of one scale, which changes no order: distances far from 0 lose their digits.
    scaled = (features - features[:cut].mean(0)) / features[:cut].std(unbiased=False).clamp(min=1e-12)
    known, asked, classes = scaled[:cut], scaled[cut:], labels[:cut]
    k = min(neighbours, int(classes.bincount()[classes.unique()].min()))
    near = torch.cdist(asked, known).topk(k, largest=False).indices
    votes = torch.nn.functional.one_hot(classes, int(labels.max()) + 1)[near].sum(1)
    right = (votes.argmax(1) == labels[cut:]).float().mean()
    return float(right), float(labels[cut:].bincount().max() / len(labels[cut:]))
