"""A weight under a gate a unit and the task's own additive correction: what trains, and what holds the weight back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import gcd

import torch
from torch import Tensor, nn

from polymask.parts.additive import prune, read_corrected, soft_threshold
from polymask.parts.binarize import select
from polymask.parts.pack import unpack
from polymask.parts.sparse import Sparse, densify, sparsify
from polymask.sites.slots import Scores
from polymask.sites.table import unsharded
from polymask.task import TaskRecord

SAMPLE = 4096
"""About how many entries of a correction are looked at to see how far an optimizer's step has moved it."""


class Corrected(Scores):
    """``sigma * sigmoid(v) + tau``, ``tau`` pruned and rounded as it will be stored.

    Args:
        v: the initial logits of the gates, one a unit, 1 along every other axis.
        tau: the initial correction.
        anchor: ``lambda2 * sum_i M_i^2`` over finished tasks, shaped as ``v``; None: nothing holds ``sigma`` back.
        threshold: the magnitude below which a correction is pruned.
        bits: 8, 16 or 32, of a value of the correction.
        past: the same of finished tasks, where they train too.
        needed: whether the correction trains; if not, it stays as it is.
    """

    anchor: Tensor | None
    seen: Tensor
    tau: Tensor

    def __init__(
        self,
        v: Tensor,
        tau: Tensor,
        anchor: Tensor | None,
        threshold: float,
        bits: int,
        past: Sequence[Past] = (),
        needed: bool = True,
    ) -> None:
        super().__init__(v, select, torch.sigmoid)
        if needed:
            self.tau = nn.Parameter(tau)
        else:
            self.register_buffer("tau", tau, persistent=False)
        self.threshold, self.bits = threshold, bits
        self.register_buffer("seen", _sample(tau))
        self.register_buffer("anchor", anchor, persistent=False)
        self.past = nn.ModuleList(past)

    @property
    def rate(self) -> Tensor | None:
        """What the gradient of ``sigma`` is multiplied by: plain descent would overstep the anchor's minimum."""
        return None if self.anchor is None else 1 / (1 + 2 * self.anchor)

    def forward(self, w: Tensor) -> Tensor:
        """The weight as the open task reads it."""
        gate = self.gate_of(self.scores).to(w.real.dtype)
        return read_corrected(w, gate, self.tau, self.rate, self.threshold, self.bits)

    @staticmethod
    def gate_of(v: Tensor) -> Tensor:
        """``sigmoid(v)`` in the precision in which a gate is stored."""
        return torch.sigmoid(v).float()

    def pairs(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """``v`` and ``tau`` of the open task, then of finished ones that train too."""
        yield self.scores, self.tau
        for one in self.finished():
            yield one.scores, one.tau

    def finished(self) -> list[Past]:
        """The finished tasks that train too, in order of learning."""
        return [one for one in self.past if isinstance(one, Past)]

    @torch.no_grad()
    def draw_to_zero(self, shrink: float) -> None:
        """Draw corrections to 0 by ``shrink`` times what the last step moved them on average."""
        for tau, seen in ((self.tau, self.seen), *((one.tau, one.seen) for one in self.finished())):
            by = shrink * float((_sample(unsharded(tau)) - seen).abs().mean())
            tau.copy_(soft_threshold(tau, by))
            seen.copy_(_sample(unsharded(tau)))

    def pull(self, sigma: Tensor, before: Tensor) -> Tensor:
        """``sum over units of anchor * ||sigma - before||^2``, a scalar; its gradient is multiplied by ``rate``."""
        if self.anchor is None or self.rate is None:
            return sigma.real.new_zeros(())
        gap = (sigma - before).abs().square()
        along = [axis for axis in range(gap.ndim) if self.anchor.shape[axis] == 1]
        each = gap.sum(along, keepdim=True) if along else gap
        return (self.anchor * _scaled(each, self.rate)).sum()

    def apart(self, sigma: Tensor, lambda2: float) -> Tensor:
        """``lambda2 * sum_i ||theta_i - (sigma * M_i + tau_i)||^2`` over finished tasks, ``theta_i`` as they were."""
        sigma = sigma if self.rate is None else _scaled(sigma, self.rate)
        share = 1 / (1 + 2 * lambda2)
        found = sigma.real.new_zeros(())
        for one in self.finished():
            gate = self.gate_of(_scaled(unsharded(one.scores), share)).to(sigma.real.dtype)
            tau = _scaled(unsharded(one.tau), share)
            read = read_corrected(sigma, gate, tau, None, self.threshold, self.bits)
            found = found + (one.target - read).abs().square().sum()
        return lambda2 * found


class Past(nn.Module):
    """Gate and correction of a finished task that trains on with the open one.

    Args:
        v: the logits of its gates.
        tau: its own correction.
        target: the weight that it reads, less what it shares with other tasks.
    """

    seen: Tensor
    target: Tensor

    def __init__(self, v: Tensor, tau: Tensor, target: Tensor) -> None:
        super().__init__()
        self.scores, self.tau = nn.Parameter(v), nn.Parameter(tau)
        self.register_buffer("seen", _sample(tau))
        self.register_buffer("target", target)


def gate_of(record: TaskRecord, name: str, like: Tensor) -> Tensor:
    """The gates of a record, in the real dtype of a weight; on the CPU."""
    return unpack(record.masks[name]).to(like.real.dtype)


def theta_of(record: TaskRecord, name: str, sigma: Tensor) -> Tensor:
    """The weight that a record reads of a shared one: ``sigma * M + tau``; on the CPU."""
    return sigma.cpu() * gate_of(record, name, sigma) + densify(record.deltas[name])


def past_of(record: TaskRecord, name: str, sigma: Tensor) -> Past:
    """A finished task that is to train on."""
    own, m = densify(replace(record.deltas[name], local=None)), gate_of(record, name, sigma)
    v = torch.logit(m, torch.finfo(m.dtype).eps)
    return Past(v, own, sigma.cpu() * m + own)


def followed(
    record: TaskRecord, name: str, before: Tensor, now: Tensor, lambda1: float, lambda2: float, bits: int
) -> Sparse:
    """The correction with which a task reads, of a shared weight that has moved, nearly what it read before.

    ``soft(theta - sigma * M, lambda1 / (2 lambda2))``, pruned at ``lambda1``; what it shares with others stays.

    Args:
        record: the task.
        name: the weight.
        before: the shared weight of which the record's correction is.
        now: the shared weight as it is now.
        lambda1: the weight of ``||tau||_1``, and the threshold.
        lambda2: the weight of the squared distance.
        bits: of a value.
    """
    local = record.deltas[name].local
    # Half precision rounds a difference of weights to more than is pruned.
    wide = torch.promote_types(now.dtype, torch.float32)
    rest = theta_of(record, name, before.to(wide)) - now.cpu().to(wide) * gate_of(record, name, now).to(wide)
    rest = rest if local is None else rest - densify(local)
    tau = prune(soft_threshold(rest, lambda1 / (2 * lambda2)), lambda1)
    return sparsify(tau.to(now.dtype), bits, local)


def largest_move(was: tuple[TaskRecord, Tensor], now: tuple[TaskRecord, Tensor], name: str) -> Tensor:
    """How far an entry of a weight has moved at most, from a record and shared weight to others."""
    gap = (theta_of(now[0], name, now[1]) - theta_of(was[0], name, was[1])).abs()
    return gap.amax().float() if gap.numel() else torch.zeros(())


def _sample(tau: Tensor) -> Tensor:
    flat = tau.detach().flatten()
    stride = max(1, flat.numel() // SAMPLE)
    # With a divisor in common it would meet the same few columns in every row, which an input may never reach.
    while gcd(stride, flat.numel()) > 1:
        stride += 1
    return flat[::stride].clone()


def _scaled(x: Tensor, rate: Tensor | float) -> Tensor:
    """The same values; the gradient multiplied."""
    return x.detach() + (x - x.detach()) * rate
