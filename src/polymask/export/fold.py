"""BatchNorm folded into the layer before it: ``w' = w g / sqrt(v + eps)``, ``b' = (b - m) g / sqrt(v + eps) + s``."""

from __future__ import annotations

from typing import Any

from torch import nn

from polymask.calling import REFUSALS
from polymask.copies.kept import twin
from polymask.export.check import gap
from polymask.export.program import quiet
from polymask.probe import rounding, run_probe


def fold_norms(plain: nn.Module, batch: Any) -> tuple[nn.Module, str]:
    """A network with each BatchNorm folded into the layer whose output it alone reads, by torch's ``fuse``.

    Args:
        plain: in evaluation mode; it stays as it is.
        batch: an input, on which both are compared.

    Returns:
        The network, or the given one where that cannot be; and in words what became of its norms.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()
    >>> fold_norms(net, torch.zeros(1, 1, 3, 3))[1]
    '1 of 1 BatchNorm folded, largest difference 0'
    """
    with quiet():
        from torch.fx.experimental.optimization import fuse  # its import warns of what torch itself has given up
    whole = _norms_in(plain)
    if not whole:
        return plain, "no BatchNorm to fold"
    none = f"0 of {whole} BatchNorm folded"
    try:
        folded = fuse(twin(plain), inplace=True).eval()
        before, after = run_probe(plain, batch), run_probe(folded, batch)
    except REFUSALS as error:
        lines = str(error).splitlines() or [type(error).__name__]
        return plain, f"{none}: torch.fx cannot follow the forward ({lines[0]})"
    done = whole - _norms_in(folded)
    if not done:
        return plain, none + ": none follows a layer of torch's own that it alone reads"
    difference = gap(before, after)
    if not difference <= rounding(before, ""):
        return plain, f"{none}: the network would answer otherwise, by {difference:.2g}"
    return folded, f"{done} of {whole} BatchNorm folded, largest difference {difference:.2g}"


def _norms_in(network: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
