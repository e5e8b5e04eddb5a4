"""Calibrate a way of asking: what it answers of inputs whose tasks are known and that nothing was chosen by."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from polymask.calling import tensors_of
from polymask.inference.infer import Inference
from polymask.inference.known import Calibration, certainty
from polymask.inference.rows import count_rows


def calibrate(inference: Inference, held_out: Mapping[str, Any], rows: int = 1, reject: float = 0.05) -> Calibration:
    """Ask about held-out inputs of every task, as later requests will be asked, and keep what the answers came to.

    Args:
        inference: who is asked; give it the result as ``inference.calibration``, or to another one like it.
        held_out: task -> inputs as the network reads them, which neither trained nor chose an epoch.
        rows: how many inputs of one task later requests have; those that fill no request are left out.
        reject: the share of requests of known tasks that may be refused.

    Raises:
        ValueError: for a task that there is not, or a way whose scores are but an order.

    >>> from polymask import SupSup
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6))
    >>> method, x = SupSup(net, torch.zeros(1, 4)), torch.rand(60, 4)
    >>> for task in ("a", "b"):
    ...     method.begin(task)
    ...     net(x).sum().backward()
    ...     torch.optim.SGD(method.parameters(), lr=0.1).step()
    ...     _ = method.end(task)
    >>> inference = Inference(method)
    >>> inference.calibration = calibrate(inference, {"a": x, "b": x})
    >>> inference.calibration.count, inference(x[:3]).known.shape
    (120, torch.Size([3]))
    """
    if inference.way == "binary":
        raise ValueError(
            "expected a way of asking whose scores can be compared, found 'binary', which only orders tasks"
        )
    if unknown := [task for task in held_out if task not in inference.tasks]:
        raise ValueError(f"expected held-out inputs of finished tasks, found {unknown[0]!r}")
    values = {}
    for task, x in held_out.items():
        scores = inference(x).scores if rows == 1 else _by_rows(inference, x, rows)
        values[task] = certainty(scores, inference.way)
    return Calibration(inference.way, inference.by, rows, values, reject)


def _by_rows(inference: Inference, x: Any, rows: int) -> Tensor:
    starts = range(0, count_rows(x) - rows + 1, rows)
    asked = [inference(tensors_of(x, partial(_cut, at=at, rows=rows)), together=True).scores for at in starts]
    return torch.cat(asked) if asked else torch.zeros(0, len(inference.tasks))


def _cut(t: Tensor, at: int, rows: int) -> Tensor:
    return t[at : at + rows] if t.ndim else t
