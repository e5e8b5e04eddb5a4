"""Which tensors a forward reads, in which order, and which of them past the places where sites would stand."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from polymask.calling import REFUSALS, call, draw_fractions, leaves_of, logits_of, run_as_accepted, tensors_of
from polymask.parts.seeds import generator
from polymask.sites.raw import ReadLog, copy_with_views, decides, replace_parameters
from polymask.sites.table import Role, attach
from polymask.sites.trace import Place, places
from polymask.wiring.disturb import Disturbance

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


MOST_ROWS = 16
"""Rows of an example that are looked at, beside the first one, for other paths than its."""


@dataclass(frozen=True)
class Read:
    """What a forward reads.

    Args:
        order: the tensors read both in train and in eval mode, in the order of reading; first those that the example
            alone does not read, but another row of it or another input does.
        width: of the logits.
        past: the parameters whose memory decides the answer although a site no longer reads it.
    """

    order: list[str]
    width: int
    past: list[str]


@torch.no_grad()
def read_tensors(model: nn.Module, example: Any, names: list[str], others: Sequence[Any] = ()) -> Read:
    """See which tensors a forward reads, and which of them past their sites.

    Asked of a copy, with the example at two rows and the random state forked, so that nothing is left behind.

    Args:
        model: a plain network.
        example: an input that it accepts.
        names: its parameters.
        others: inputs under which it takes other paths: what it reads there is read, and nothing past its sites.

    Raises:
        ValueError: if the model refuses the example, or a copy of it reads the model's own parameters.
    """
    clone, where = copy_with_views(model), places(model)
    was = replace_parameters(clone, names)
    sites = attach(clone, {name: Role("masked" if name in names else "frozen", "") for name in where})
    seen: list[str] = []
    for name, site in sites.weights.items():
        site.register_forward_hook(lambda *_, name=name: seen.append(name))
    own, kept = ReadLog({name: where[name][0].tensor() for name in names}), ReadLog(was)

    def answer(x: Any, mode: bool) -> tuple[Any, list[str]]:
        seen.clear()
        with torch.random.fork_rng():
            return call(clone.train(mode), x), list(seen)

    def run(x: Any) -> tuple[Any, Any, list[str], list[str]]:
        try:
            with own, kept:
                (_, learning), (output, answering) = answer(x, True), answer(x, False)
        except REFUSALS:  # of the network, or of what cannot be watched
            (_, learning), (output, answering) = answer(x, True), answer(x, False)
        return x, output, learning, answering

    x, output, learning, answering = run_as_accepted(example, run)
    refuse_past(sorted(own.seen))
    both = set(learning) & set(answering)
    several = any(t.ndim and len(t) > 1 for t in leaves_of(example))
    rows = tensors_of(example, lambda t: t[:MOST_ROWS] if t.ndim else t)
    for other in (*([rows] if several else []), *others):
        with suppress(*REFUSALS), own, kept:
            both |= set(answer(other, True)[1]) & set(answer(other, False)[1])
    refuse_past(sorted(own.seen))
    past = sorted(kept.seen)
    if past:
        draw = generator("past")
        Disturbance(clone, draw).redraw()
        asked = [draw_fractions(x, draw), *others]
        past = [name for name in past if decides(was[name], lambda: _outputs(clone, asked))]
    last = {name: place for place, name in enumerate(answering)}
    elsewhere = [name for name in names if name in both and name not in last]
    order = elsewhere + [name for name in sorted(last, key=last.__getitem__) if name in both]
    return Read(order, logits_of(output).shape[-1], past)


def _outputs(clone: nn.Module, asked: list[Any]) -> list[Tensor]:
    """What every module of a network answers: a maximum behind it may hide what it reads from the logits."""
    found: list[Tensor] = []
    buffers = [(buffer, buffer.clone()) for buffer in clone.buffers()]
    hooks = [
        module.register_forward_hook(lambda _, __, y: found.extend(t.clone() for t in leaves_of(y)))
        for module in clone.modules()
    ]
    for x, mode in product(asked, (True, False)):
        with suppress(*REFUSALS), torch.random.fork_rng():
            call(clone.train(mode), x)
    for hook in hooks:
        hook.remove()
    for buffer, was in buffers:
        buffer.copy_(was)
    return found


def refuse_past(names: list[str]) -> None:
    """Raise if some parameters, which sites replace, are read past them."""
    if names:
        raise ValueError(_past(names[0]))


def _past(name: str) -> str:
    return (
        f"expected every read of {name!r} to be of the module's attribute, found one of the parameter itself, past its "
        "site: the network keeps it, or a module that has it, in a list, a closure, a partial or a view; read it as "
        "module.weight in forward instead"
    )


def find_head(model: nn.Module, where: dict[str, list[Place]], read: list[str], wide: int) -> str:
    """The module that is the head: the one of the last weight read, if it has a row for every output."""
    if not read:
        raise ValueError("expected a model that reads a matrix or kernel weight, found none: mask methods need one")
    modules = [spot.module for spot in where[read[-1]]]
    head = next((module for module in modules if not isinstance(module, EMBEDDINGS)), modules[0])
    path: str = next(path for path, module in model.named_modules() if module is head)
    width = model.get_parameter(read[-1]).shape[0]
    if width != wide:
        raise ValueError(
            f"expected the last weight read, {read[-1]!r}, to be the head, found {width} rows for {wide} outputs: "
            "name the head's module with head="
        )
    return path
