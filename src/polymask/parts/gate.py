"""What may learn: the gate between a weight's protected value and the one that trains."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor

from polymask.parts.bits import has_bits, hold_bits


def hold(kept: Shaped[Tensor, "*w"], w: Shaped[Tensor, "*w"], gate: Tensor) -> Shaped[Tensor, "*w"]:
    """Read ``kept`` where the gate is shut and ``w`` where it is open; a soft gate scales the displacement.

    ``hold = where(gate, w, kept)`` for a bool gate, ``kept + gate * (w - kept)`` for a real one. Scaling the
    displacement rather than the gradient is what makes a gate mean the same under every optimizer.

    Args:
        kept: the protected value, the shape of ``w``; cast to the dtype of ``w``.
        w: the value that trains.
        gate: bool, or real in [0, 1]; broadcast to ``w``.

    Returns:
        A tensor like ``w``. Its gradient reaches ``w`` through the gate and never ``kept``.

    >>> kept, w = torch.zeros(3), torch.ones(3)
    >>> hold(kept, w, torch.tensor([True, False, True]))
    tensor([1., 0., 1.])
    >>> hold(kept, w, torch.tensor(0.25))
    tensor([0.2500, 0.2500, 0.2500])
    """
    kept = kept.to(w.dtype)
    if gate.dtype == torch.bool:
        return hold_bits(kept, w, gate) if has_bits(w) else torch.where(gate, w, kept)
    return torch.lerp(kept, w, gate.to(w.dtype))
