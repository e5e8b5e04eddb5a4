"""Nested state as flat tensors and back: what a learner remembers, in a form that a file of tensors can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_PLAIN = (str, int, float, bool, type(None))


def flatten_state(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A nested state as flat tensors: each under the path to it, all the rest as json in the tensor "json".

    Args:
        state: mappings and lists, nested, of tensors, numbers, strings, booleans and None.

    Raises:
        TypeError: for anything else.

    >>> flat = flatten_state({"scores": {"fc.weight": torch.ones(2)}, "step": 3})
    >>> sorted(flat), nest_state(flat)
    (['/scores/fc.weight', 'json'], {'scores': {'fc.weight': tensor([1., 1.])}, 'step': 3})
    """
    tensors: dict[str, Tensor] = {}

    def walk(node: Any, path: str) -> Any:
        if isinstance(node, Tensor):
            tensors[path] = node
            return None
        if isinstance(node, Mapping) and all(isinstance(key, str) for key in node):
            return {key: walk(value, _step(path, key)) for key, value in node.items()}
        if isinstance(node, list | tuple):
            # Many names in a list are no reason for many paths.
            return [x if type(x) in _PLAIN else walk(x, _step(path, place)) for place, x in enumerate(node)]
        if isinstance(node, _PLAIN):
            return node
        raise TypeError(
            f"expected tensors, numbers, strings, lists and mappings with string keys at {path or '/'!r}, found "
            f"{type(node).__name__}: turn it into one of these"
        )

    text = json.dumps(walk(state, "")).encode()
    return {**tensors, "json": torch.frombuffer(bytearray(text), dtype=torch.uint8)}


def nest_state(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The nested state of ``flatten_state``; tuples come back as lists."""

    def walk(node: Any, path: str) -> Any:
        if path in tensors:
            return tensors[path]
        if isinstance(node, dict):
            return {key: walk(value, _step(path, key)) for key, value in node.items()}
        if isinstance(node, list):
            return [walk(value, _step(path, place)) for place, value in enumerate(node)]
        return node

    state: dict[str, Any] = walk(json.loads(tensors["json"].numpy().tobytes()), "")
    return state


def _step(path: str, key: str | int) -> str:
    """One step down a path; a slash in a key is escaped as in a JSON pointer, so that no two paths are the same."""
    return f"{path}/" + str(key).replace("~", "~0").replace("/", "~1")
