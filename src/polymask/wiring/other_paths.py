"""Inputs under which a network does something else than under its example: other flags, values, lengths, batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from polymask.calling import as_read, leaves_of, tensors_of, two_rows
from polymask.parts.recent import Recent
from polymask.wiring.cache import key_of
from polymask.wiring.inputs import REFUSED
from polymask.wiring.paint import PaintedCopy

MOST = 8
_FOUND: Recent[list[Any]] = Recent()
"""Of the last few builds of networks."""


def other_paths(model: nn.Module, example: Any) -> list[Any]:
    """A few inputs that take other paths than the example.

    First those that call modules which it does not call; then single values of integers and flags, which may decide
    without a trace. What a network does there has to be looked at as well: a norm of another domain has statistics, an
    expert of other tokens has weights.

    Args:
        model: a plain network; it stays as it is.
        example: an input that it accepts.

    Returns:
        Inputs in the network's precision and on its device, of two rows or more where it takes them.

    >>> class Domains(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
    ...
    ...     def forward(self, x, flag):
    ...         return self.a(x) if flag == 0 else self.b(x)
    >>> 1 in {int(flag) for _, flag in other_paths(Domains(), (torch.zeros(1, 2), torch.tensor(0)))}
    True
    """
    try:
        key = key_of(model, example, "", ())
        found = _FOUND.get(key)
        if found is None:
            found = _asked_for(model, example)
            _FOUND.keep(key, found)
    except (*REFUSED, NotImplementedError):
        # Of a network that cannot be asked at all the example is what there is to go by.
        return []
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    return [as_read(model, tensors_of(x, lambda t: t.to(device))) for x in found]


def _asked_for(model: nn.Module, example: Any) -> list[Any]:
    inputs = PaintedCopy(model, example).inputs
    # What selects by a value, as torch.where does, does the same under each.
    values = [inputs.make(setting, pinned=True) for setting in inputs.space.settings if setting.pins]
    return [
        _with_rows(x) for x in _different([*inputs.space.other_modules, *inputs.space.other_behaviour, *values])[:MOST]
    ]


def _different(xs: list[Any]) -> list[Any]:
    """The inputs without those that are there twice."""
    return list({id(x): x for x in xs}.values())


def _with_rows(x: Any) -> Any:
    """Two rows instead of one, so that batch statistics exist."""
    rows = [len(t) for t in leaves_of(x) if t.ndim]
    return two_rows(x) if rows and max(rows) == 1 else x
