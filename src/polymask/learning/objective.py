"""What a run minimises and what it reports: a loss, a metric, and whether higher is better."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


def accuracy(logits: Tensor, y: Tensor) -> float:
    """The share of rows whose largest logit is the label.

    >>> import torch
    >>> accuracy(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    0.5
    """
    return (logits.argmax(-1) == y).double().mean().item()


def constant_answer(logits: Tensor, y: Tensor) -> float:
    """The accuracy of the best constant answer, the share of the largest class; NaN where targets are no classes.

    >>> import torch
    >>> constant_answer(torch.zeros(4, 2), torch.tensor([0, 1, 1, 1]))
    0.75
    """
    if y.is_floating_point() or y.ndim != 1:
        return math.nan
    return y.bincount().max().item() / len(y)


@dataclass(frozen=True)
class Objective:
    """Loss and metric of a run.

    Args:
        loss: ``(logits, targets) -> scalar``, differentiable.
        metric: ``(all logits, all targets) -> number``, over a whole split at once.
        metric_name: what the metric is called in tables.
        higher_is_better: whether a larger metric is better.

    >>> Objective().metric_name
    'accuracy'
    """

    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    metric: Callable[[Tensor, Tensor], float] = accuracy
    metric_name: str = "accuracy"
    higher_is_better: bool = True

    def better(self, score: float, best: float | None) -> bool:
        """Whether a score beats the best so far; the first of equals stays, and any number beats NaN."""
        if best is None or math.isnan(best):
            return best is None or not math.isnan(score)
        return score > best if self.higher_is_better else score < best
