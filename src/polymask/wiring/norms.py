"""Where a layer's units are masked: at its own output, or at that of the BatchNorm which alone reads it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from polymask.wiring.question import NAN, Columns, Question, codes_of

BATCH_NORMS = {nn.BatchNorm1d: 0, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3, nn.SyncBatchNorm: 0}


def mask_points(question: Question, head: str) -> dict[str, str]:
    """Every layer but the head, and the module whose output's units are masked for it.

    Args:
        question: the network.
        head: the name of its head.
    """
    inner = [path for path in question.layers if path != head]
    rows = {path: path for path in inner}
    norms = [norm for norm in question.norms if _dies(question, norm)]
    if not (norms and inner):
        return rows
    gates = [*inner, *question.norms]
    pairs = {
        layer: norm
        for layer, norm in _norms_that_read_alone(question, inner, gates, norms)
        if _same(question, layer, norm)
    }
    return {**rows, **_in_order(question, pairs, gates)}


def _same(question: Question, layer: str, norm: str) -> bool:
    return question.size[layer] == question.size[norm]


def _dies(question: Question, norm: str) -> bool:
    """Whether a norm is a BatchNorm that answers 0 where its affine part is 0."""
    module = question.network.modules[norm]
    axes = next((axes for kind, axes in BATCH_NORMS.items() if isinstance(module, kind)), None)
    if axes is None:
        return False
    dead = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in dead.parameters():
            parameter.zero_()
        x = torch.randn((2, question.size[norm], *[3] * axes), generator=question.network.draw)
        return not bool(dead(x.to(module.weight.dtype)).any())


def _norms_that_read_alone(
    question: Question, inner: list[str], gates: list[str], norms: list[str]
) -> list[tuple[str, str]]:
    """Layers that only a norm reads, with that norm, which reads nothing else."""
    codes = codes_of(len(inner))
    rounds: list[Columns] = []
    for code in codes:
        on = dict(zip(inner, code.tolist(), strict=True))
        paint = {path: torch.full((question.size[path],), NAN if on[path] else 0.0) for path in inner}
        answered, seen = question.follow_paint(gates, paint)
        rounds.append({**seen, "": torch.tensor([answered])})
    arrived = {reader: torch.stack([seen[reader] for seen in rounds]) for reader in rounds[0]}
    code_of = dict(zip(inner, codes.T, strict=True))
    # Of a layer, the readers at which it may have arrived: they were painted whenever it was.
    readers = {
        path: {reader for reader, seen in arrived.items() if seen[code].all(0).any()} for path, code in code_of.items()
    }
    alike = [
        (path, norm)
        for path, code in code_of.items()
        for norm in readers[path].intersection(norms)
        if bool((arrived[norm] == code[:, None]).all())
    ]
    unsure = [path for path, _ in alike if len(readers[path]) > 1]
    alone = question.reach(unsure, gates)
    return [(path, norm) for path, norm in alike if path not in alone or set(alone[path]) == {norm}]


def _in_order(question: Question, pairs: dict[str, str], gates: list[str]) -> dict[str, str]:
    """The pairs of which unit ``i`` of the layer is all that arrives at unit ``i`` of the norm."""
    codes = codes_of(max((question.size[layer] for layer in pairs), default=1))
    right = dict.fromkeys(pairs, True)
    for code in codes:
        paint = {layer: torch.where(code[: question.size[layer]], NAN, 0.0) for layer in pairs}
        seen: dict[str, Tensor] = question.follow_paint(gates, paint)[1]
        for layer, norm in pairs.items():
            right[layer] &= torch.equal(seen[norm], code[: question.size[layer]])
    return {layer: norm for layer, norm in pairs.items() if right[layer]}
