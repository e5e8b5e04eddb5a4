"""The ways of asking which task an input belongs to; each gives a score a task, the larger the likelier."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymask.calling import tensors_of
from polymask.inference.features import features_of
from polymask.inference.mixture import Mixture, Objective, outputs_of
from polymask.inference.statistics import Statistics


def ask_once(mixture: Mixture, x: Any, objective: Objective) -> Float[Tensor, " tasks"]:
    """One-shot: ``-dU/dalpha_i`` under the mixture of all tasks; one forward and one backward pass.

    (SupSup, Wortsman et al. 2020, equation 4.)

    Args:
        mixture: the network under all tasks.
        x: a batch that is of one task.
        objective: ``U``.
    """
    return -mixture.slopes(x, objective)


def ask_by_halves(mixture: Mixture, x: Any, objective: Objective) -> Float[Tensor, " tasks"]:
    """Binary search: the half with the smaller ``dU/dalpha_i`` survives, ``ceil(log2 k)`` passes leave one.

    A task's score is the number of rounds that it survived, and within a round the share of tasks that it was before.
    (SupSup, Wortsman et al. 2020, algorithm 1.)

    Args:
        mixture: the network under all tasks; it is left under the last two.
        x: a batch that is of one task.
        objective: ``U``.
    """
    survivors = torch.arange(len(mixture.tasks))
    scores = torch.zeros(len(survivors))
    while len(survivors) > 1:
        places = None if len(survivors) == len(scores) else survivors.tolist()
        order = mixture.slopes(x, objective, places).argsort(stable=True)
        survivors = survivors[order]
        scores[survivors] = scores[survivors].floor() - torch.linspace(0, 0.5, len(survivors)) + 0.5
        survivors = survivors[: math.ceil(len(survivors) / 2)].sort().values
        scores[survivors] += 1
    return scores


@torch.no_grad()
def ask_each(asked: Iterable[tuple[nn.Module, Any]], by: str = "entropy") -> Float[Tensor, "rows tasks"]:
    """Every mask: a forward pass a task, and how sure it is of each row, by the least entropy or the largest share.

    Args:
        asked: each task's network in evaluation mode, one after the other, and the batch as it reads it.
        by: "entropy": ``-H`` of the row's outputs; "confidence": its largest softmax.
    """
    found = []
    for network, x in asked:
        device = next((t.device for t in network.parameters()), torch.device("cpu"))
        here = tensors_of(x, partial(Tensor.to, device=device))
        log_p = outputs_of(network, here).float().log_softmax(-1)
        found.append((log_p.exp() * log_p).sum(-1) if by == "entropy" else log_p.max(-1).values.exp())
    return torch.stack([one.cpu() for one in found], -1)


def ask_by_features(
    asked: Iterable[tuple[nn.Module, Any]], statistics: Sequence[Statistics]
) -> Float[Tensor, "rows tasks"]:
    """Statistics: a forward pass a task, and how far its own features of each row lie from those of the task's inputs.

    Args:
        asked: each task's network, one after the other, and the batch as it reads it.
        statistics: each task's.
    """
    pairs = zip(asked, statistics, strict=True)
    return torch.stack([known.scores(features_of(network, known.head, x)) for (network, x), known in pairs], -1)
