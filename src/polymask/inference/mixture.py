"""A copy of the network, read under the mean of many tasks' masks, and asked how each of them would change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polymask.calling import as_read, call, logits_of, tensors_of
from polymask.copies.kept import refresh_caches
from polymask.inference.planes import Planes
from polymask.inference.reals import Reals
from polymask.inference.stacks import Stacks
from polymask.sites.table import Sites, replica
from polymask.task import TaskRecord

Objective = Callable[[Tensor], Tensor]
"""Logits (rows, outputs) -> a scalar that the right task's mask makes small."""


class Mixture:
    """``W_l(alpha) = W_l * sum_i alpha_i M_l^i`` of every masked tensor, ``alpha_i = 1/k``, on a network of its own.

    The means are running counts: a task that is added, removed or reissued costs one task. One forward and one
    backward pass and an inner product a task give ``dU/dalpha_i = sum_l <dU/dM_l, M_l^i>`` of any ``U`` of the logits
    (SupSup, Wortsman et al. 2020, equation 4), where ``M_l`` is the mixture's mask. Corrections enter it likewise;
    private tensors (a norm's) are averaged and do not.

    Args:
        sites: the attached model; it is copied, and never touched.

    Raises:
        ValueError: for a base that is not finite: a mean of masks multiplies what a task's own mask does not read.

    >>> from torch import nn
    >>> from polymask import SupSup
    >>> from polymask.parts.uncertainty import entropy
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6))
    >>> method, x = SupSup(net, torch.zeros(1, 4)), torch.ones(1, 4)
    >>> for task in ("a", "b"):
    ...     method.begin(task)
    ...     net(x).sum().backward()
    ...     torch.optim.SGD(method.parameters(), lr=0.1).step()
    ...     _ = method.end(task)
    >>> mixture = Mixture(method.sites)
    >>> mixture.update(method.records)
    >>> mixture.tasks, mixture.slopes(x, entropy).shape
    (['a', 'b'], torch.Size([2]))
    """

    def __init__(self, sites: Sites) -> None:
        self.sites = replica(sites)
        for site in self.sites.weights.values():
            if site.kept is not None:
                site.gate = torch.zeros((), dtype=torch.bool, device=site.kept.device)
        self.sites.clear()
        self.sites.model.requires_grad_(False).eval()
        for name in self.sites.weights:
            if not bool(self.sites.base(name).isfinite().all()):
                raise ValueError(
                    f"expected a base of finite numbers, found others in {name!r}: ask by 'every-mask' which task it is"
                )
        self.stacks = Stacks(self.sites)
        self._filled: tuple[int, ...] | None = None

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks, in the order of all answers."""
        return self.stacks.tasks

    def update(self, records: Mapping[str, TaskRecord]) -> None:
        """Follow the tasks that there are now; see ``Stacks.follow``."""
        if self.stacks.follow(records):
            self._filled = None

    @torch.enable_grad()
    def slopes(self, x: Any, objective: Objective, tasks: Sequence[int] | None = None) -> Tensor:
        """``dU/dalpha_i`` of every task, (tasks,): the most negative one lowers ``U`` fastest.

        Args:
            x: a batch as the network reads it; ``objective`` takes the mean over its rows.
            objective: ``U``, a function of the logits.
            tasks: the places of the tasks that are mixed; None: all.
        """
        self.fill(tasks)
        slots = self._slots()
        found = torch.autograd.grad(objective(self._run(x)), [slot for _, slot in slots], allow_unused=True)
        total = torch.zeros(len(self.tasks) if tasks is None else len(tasks))
        for (holder, _), gradient in zip(slots, found, strict=True):
            if gradient is not None:
                total += holder.products(gradient, tasks)
        return total

    @torch.no_grad()
    def logits(self, x: Any, tasks: Sequence[int] | None = None) -> Tensor:
        """The logits of a batch under the mixture of all tasks, or of some."""
        self.fill(tasks)
        return self._run(x)

    @torch.no_grad()
    def fill(self, tasks: Sequence[int] | None = None) -> None:
        """Put the mean of all tasks, or of some, into the network."""
        wanted = tuple(range(len(self.tasks)) if tasks is None else tasks)
        if not wanted:
            raise ValueError("expected at least one task, found none")
        if wanted == self._filled:
            return
        every = self.sites.every()
        with refresh_caches(self.sites.model):
            for name, masks in self.stacks.masks.items():
                every[name].mask = self._slot(masks.mean(tasks))
            for name, deltas in self.stacks.deltas.items():
                self.sites.weights[name].delta = self._slot(deltas.mean(tasks))
            for name, values in self.stacks.private.items():
                self.sites.write(name, values.mean(tasks))
        self._filled = wanted

    def _run(self, x: Any) -> Tensor:
        return outputs_of(self.sites.model, tensors_of(x, lambda t: t.to(self._like().device)))

    def _slot(self, mean: Tensor) -> Tensor:
        return mean.to(self._like(), copy=True).requires_grad_(True)

    def _like(self) -> Tensor:
        model = self.sites.model
        return next(t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point())

    def _slots(self) -> list[tuple[Planes | Reals, Tensor]]:
        every, weights = self.sites.every(), self.sites.weights
        masks = [(holder, every[name].mask) for name, holder in self.stacks.masks.items()]
        deltas = [(holder, weights[name].delta) for name, holder in self.stacks.deltas.items()]
        return [(holder, slot) for holder, slot in (*masks, *deltas) if slot is not None]


def outputs_of(network: nn.Module, x: Any) -> Tensor:
    """The logits (rows, outputs) of a batch.

    Raises:
        ValueError: if a network does not answer so: of one output alone, or of several places, nobody can be sure.
    """
    logits = logits_of(call(network, as_read(network, x)))
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"expected logits (rows, outputs) of two outputs or more, by which tasks are told apart, found shape "
            f"{tuple(logits.shape)}: name the task"
        )
    return logits
