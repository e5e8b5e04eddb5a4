"""What a run minimises and what it reports: a loss, the metric that chooses, and others beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional as F


def accuracy(logits: Tensor, y: Tensor) -> float:
    """The share of rows whose largest logit is the label.

    >>> import torch
    >>> accuracy(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    0.5
    """
    return (logits.argmax(-1) == y).double().mean().item()


def macro_f1(logits: Tensor, y: Tensor) -> float:
    """The mean over classes of F1 = 2 TP / (2 TP + FP + FN), each class alike, by scikit-learn.

    >>> import torch
    >>> round(macro_f1(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1, 1])), 4)
    0.6667
    """
    from sklearn.metrics import f1_score

    return float(f1_score(y.cpu().numpy(), logits.argmax(-1).cpu().numpy(), average="macro", zero_division=0))


def constant_answer(logits: Tensor, y: Tensor) -> float:
    """The accuracy of the best constant answer, the share of the largest class; NaN where targets are no classes.

    >>> import torch
    >>> constant_answer(torch.zeros(4, 2), torch.tensor([0, 1, 1, 1]))
    0.75
    """
    if y.is_floating_point() or y.ndim != 1:
        return math.nan
    return y.bincount().max().item() / len(y)


METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {"accuracy": accuracy, "macro-F1": macro_f1}
"""What a command line can ask for; the first that is named chooses the epoch and fills the matrix."""


@dataclass(frozen=True)
class Objective:
    """Loss and metrics of a run.

    Args:
        loss: ``(logits, targets) -> scalar``, differentiable.
        metric: ``(all logits, all targets) -> number``, over a whole split at once; it chooses the epoch.
        metric_name: what the metric is called in tables.
        higher_is_better: whether a larger metric is better.
        also: name -> a metric that is reported beside it, and chooses nothing.

    >>> Objective().metric_name, list(Objective(also={"macro-F1": macro_f1}).also)
    ('accuracy', ['macro-F1'])
    """

    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    metric: Callable[[Tensor, Tensor], float] = accuracy
    metric_name: str = "accuracy"
    higher_is_better: bool = True
    also: Mapping[str, Callable[[Tensor, Tensor], float]] = field(default_factory=dict)

    @classmethod
    def of(cls, metrics: Sequence[str]) -> Objective:
        """Cross entropy, and metrics by name; the first chooses.

        Raises:
            ValueError: there is none of a name, or one is named twice.

        >>> Objective.of(["macro-F1", "accuracy"]).metric_name
        'macro-F1'
        """
        if not metrics or not {*metrics} <= METRICS.keys() or len({*metrics}) < len(metrics):
            raise ValueError(
                f"expected metrics of {', '.join(METRICS)}, each once, found {' '.join(metrics) or 'none'}"
            )
        first, *others = metrics
        return cls(metric=METRICS[first], metric_name=first, also={name: METRICS[name] for name in others})

    def better(self, score: float, best: float | None) -> bool:
        """Whether a score beats the best so far; the first of equals stays, and any number beats NaN."""
        if best is None or math.isnan(best):
            return best is None or not math.isnan(score)
        return score > best if self.higher_is_better else score < best
