"""Ask a network where the samples of a batch lie in it, and whether that hangs on what the batch says."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from polymask.mixed.layout import Layout, decode_layout, rearranged, variants
from polymask.mixed.routes import Mark, Routes, readings
from polymask.mixed.turns import Asking, run

Layouts = Mapping[str, Sequence[Layout]]
"""Layer -> the layout of what it is given, call by call."""


@dataclass(frozen=True)
class Found:
    """Where samples lie.

    Args:
        layouts: what holds for batches alike; None: it hangs on values, or cannot be told.
        read: what Python read of tensors on the way; a pass that reads something else may go another way.
    """

    layouts: Layouts | None = None
    read: Sequence[object] = ()


def find_layouts(
    model: nn.Module, x: Any, rows: int, layers: Collection[str], owned: Sequence[tuple[Tensor, str]]
) -> Found:
    """Where the samples lie in what every layer with something of the tasks' own is given.

    Args:
        model: the network, of such layers.
        x: a batch.
        rows: how many samples it has.
        layers: the names of those layers.
        owned: the tensors that are the tasks' own, each with its layer.

    Raises:
        ValueError: if samples mix, or a layer's tensors are read without calling it.
    """
    first, *others = variants(x, rows)
    routes = Routes(first, owned)
    asking = Asking(routes)
    with readings(asking.read), routes:
        run(model, asking, first)
    marks = [mark for each in asking.marks.values() for mark in each]
    routed = any(mark & Mark.ROUTED for mark in marks)
    unheard = sorted(routes.elsewhere) or ([] if routed else sorted({*layers} - {*asking.seen}))
    if unheard:
        raise ValueError(
            f"expected the network to call {unheard[0]!r}, of which tasks have their own, found that it never "
            "does (does it read its weights itself?): answer one task at a time, with activate(task)"
        )
    seen = [] if routed else [asking.seen, *(_seen(model, other) for other in others)]
    found = _layouts(seen, rows)
    if found is None or not all(mark & Mark.BATCH for mark in marks):  # what no operation was seen to carry there
        return Found()
    again = (_tried(model, other, rows) for other in rearranged(first, rows))
    return Found(found, asking.read) if all(_same(found, other) for other in again) else Found()


def _seen(model: nn.Module, x: Any) -> dict[str, list[Tensor]]:
    asking = Asking()
    run(model, asking, x)
    return asking.seen


def _layouts(seen: Sequence[Mapping[str, list[Tensor]]], rows: int) -> Layouts | None:
    """The layouts of all layers; None where the passes called them differently, or more than one would fit."""
    calls = [{path: [one.shape for one in each] for path, each in one.items()} for one in seen]
    if not calls or any(one != calls[0] for one in calls):
        return None
    found: dict[str, list[Layout]] = {}
    for path, each in seen[0].items():
        for call in range(len(each)):
            layout = decode_layout(path, [one[path][call] for one in seen], rows)
            if layout is None:
                return None
            found.setdefault(path, []).append(layout)
    return found


def _tried(model: nn.Module, x: Any, rows: int) -> Layouts | None:
    try:
        return _layouts([_seen(model, variant) for variant in variants(x, rows)], rows)
    except (RuntimeError, ValueError, LookupError, TypeError, AssertionError):
        # The network does not take its numbers in another order, or its samples mix where it does.
        return None


def _same(found: Layouts, other: Layouts | None) -> bool:
    if other is None or {path: len(each) for path, each in found.items()} != {p: len(e) for p, e in other.items()}:
        return False
    return all(one.same(two) for path, each in found.items() for one, two in zip(each, other[path], strict=True))
