"""What was found of the last few networks, for the next of the same build."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polymask.parts.recent import Recent
from polymask.wiring.inputs import InputSpace
from polymask.wiring.table import Wiring


@dataclass(frozen=True)
class Found:
    """What was found of a network.

    Args:
        wiring: before it was cross-checked.
        space: what the network takes beside its example.
        clean: whether it was cross-checked at length, and nothing spoke against it.
    """

    wiring: Wiring
    space: InputSpace
    clean: bool = False


DEEPEST = 12
FOUND: Recent[Found] = Recent()
"""What was found of a network of a build, before it was cross-checked."""
MOVING = ("running_mean", "running_var", "num_batches_tracked")
OWN = ("_parameters", "_buffers", "_modules", "training")


class _UnlikeError(Exception):
    """A module holds something of which nobody can say whether it equals another."""


def key_of(model: nn.Module, example: Any, head: str, masked: Sequence[str]) -> Hashable | None:
    """All that tells two builds apart: modules with their settings, parameters' shapes and ties, fixed buffers.

    ``None`` of a network like no other: one of whose modules holds a closure, say.

    Args:
        model: a network.
        example: an input that it accepts; of its tensors shape and kind, of integers their range.
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
        (name, _in_words(buffer)) for name, buffer in model.named_buffers() if name.rpartition(".")[2] not in MOVING
    )
    return modules, parameters, buffers, given, head, tuple(masked)


def _settings(module: nn.Module) -> tuple[str, ...]:
    """A module's attributes in words."""
    return tuple(f"{name}={_in_words(value)}" for name, value in sorted(vars(module).items()) if name not in OWN)


def _in_words(value: Any, depth: int = 0) -> str:
    """A value in words, that are the same for another only if it is the same."""
    if isinstance(value, nn.Module) or depth > DEEPEST:
        raise _UnlikeError
    if isinstance(value, Tensor):
        if value.layout != torch.strided:
            raise _UnlikeError
        plain = value.detach().cpu().contiguous()
        data = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        return f"{plain.dtype} {tuple(plain.shape)} {hashlib.blake2b(data, digest_size=16).hexdigest()}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {value.tolist()}"
    if isinstance(value, Mapping):
        return str([(key, _in_words(each, depth + 1)) for key, each in value.items()])
    if isinstance(value, (tuple, list)):
        return str([_in_words(each, depth + 1) for each in value])
    if isinstance(value, FunctionType | type) and _is_public(value):
        return f"{value.__module__}.{value.__name__}"
    words = repr(value)
    # A configuration's own words may leave out what the forward depends on, such as the kernel of an attention.
    own = None if isinstance(value, FunctionType | type) else getattr(value, "__dict__", None)
    if own:
        return f"{type(value)} {_in_words(own, depth + 1)}"
    if " at 0x" in words:
        raise _UnlikeError
    return words


def _shape(example: Any) -> Hashable:
    """Of tensors shape and kind, and of integers the range; all else in words."""
    if isinstance(example, Tensor):
        within = () if example.is_floating_point() or example.is_complex() or not example.numel() else example.aminmax()
        return tuple(example.shape[1:]), example.dtype, *(int(end) for end in within)
    if isinstance(example, Mapping):
        return tuple((key, _shape(value)) for key, value in example.items())
    if isinstance(example, (tuple, list)):
        return tuple(_shape(value) for value in example)
    return _in_words(example)


def _is_public(function: FunctionType | type) -> bool:
    """Whether a function or a class is what its module calls so, and nothing made in passing."""
    return getattr(sys.modules.get(function.__module__), function.__name__, None) is function
