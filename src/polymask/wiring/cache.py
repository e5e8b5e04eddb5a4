"""What was found of the last few networks, for the next of the same build."""

from __future__ import annotations

import hashlib
import sys
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from polymask.wiring.inputs import Taken
from polymask.wiring.table import Wiring


@dataclass(frozen=True)
class Found:
    """What was found of a network.

    Args:
        wiring: before it was doubted.
        taken: what the network takes beside its example.
    """

    wiring: Wiring
    taken: Taken


MOST = 8
_FOUND: OrderedDict[Hashable, Found] = OrderedDict()
MOVING = ("running_mean", "running_var", "num_batches_tracked")
OWN = ("_parameters", "_buffers", "_modules", "training")


class _UnlikeError(Exception):
    """A module holds something of which nobody can say whether it equals another."""


def key_of(model: nn.Module, example: Any, head: str, masked: Sequence[str]) -> Hashable | None:
    """All that tells two builds apart: modules with their settings, parameters' shapes and ties, fixed buffers.

    ``None`` of a network like no other: one of whose modules holds a closure, say.

    Args:
        model: a network.
        example: an input that it accepts; of its tensors, shape and kind.
        head: the name of its head.
        masked: the weights that a method gates.

    >>> a, b, c = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(2, 3, bias=False)
    >>> keys = [key_of(net, torch.zeros(1, 2), "", []) for net in (a, b, c)]
    >>> keys[0] == keys[1], keys[0] == keys[2]
    (True, False)
    """
    try:
        modules = tuple((path, type(module), _settings(module)) for path, module in model.named_modules())
        given = _shape(example)
    except _UnlikeError:
        return None
    first: dict[int, str] = {}
    parameters = tuple(
        (name, tuple(p.shape), p.dtype, first.setdefault(id(p), name))
        for name, p in model.named_parameters(remove_duplicate=False)
    )
    buffers = tuple(
        (name, _told(buffer)) for name, buffer in model.named_buffers() if name.rpartition(".")[2] not in MOVING
    )
    return modules, parameters, buffers, given, head, tuple(masked)


def known(key: Hashable | None) -> Found | None:
    """What was found of a network of this build, before it was doubted."""
    if key in _FOUND:
        _FOUND.move_to_end(key)
    return _FOUND.get(key)


def keep(key: Hashable | None, found: Found) -> None:
    """Remember it; the one that was not asked for longest is forgotten."""
    if key is not None:
        _FOUND[key] = found
    while len(_FOUND) > MOST:
        _FOUND.popitem(last=False)


def forget() -> None:
    """Forget all."""
    _FOUND.clear()


def _settings(module: nn.Module) -> tuple[str, ...]:
    """A module's attributes in words."""
    return tuple(f"{name}={_told(value)}" for name, value in sorted(vars(module).items()) if name not in OWN)


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        data = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        return f"{plain.dtype} {tuple(plain.shape)} {hashlib.blake2b(data, digest_size=16).hexdigest()}"
    if isinstance(value, Mapping):
        return str([(key, _told(each)) for key, each in value.items()])
    if isinstance(value, (tuple, list)):
        return str([_told(each) for each in value])
    if isinstance(value, FunctionType) and _is_public(value):
        return f"{value.__module__}.{value.__name__}"
    words = repr(value)
    if " at 0x" in words:
        raise _UnlikeError
    return words


def _shape(example: Any) -> Hashable:
    if isinstance(example, Tensor):
        return tuple(example.shape[1:]), example.dtype
    if isinstance(example, Mapping):
        return tuple((key, _shape(value)) for key, value in example.items())
    if isinstance(example, (tuple, list)):
        return tuple(_shape(value) for value in example)
    return _told(example)


def _is_public(function: FunctionType) -> bool:
    """Whether a function is what its module calls so, and no closure."""
    return getattr(sys.modules.get(function.__module__), function.__name__, None) is function
