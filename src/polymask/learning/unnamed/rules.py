"""Which task is a batch of that nobody named: the open one, a finished one, or one that was never seen?"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import nn

from polymask.calling import as_read
from polymask.inference.infer import Inference
from polymask.inference.mixture import Mixture
from polymask.method.contract import Method
from polymask.method.snapshot import hard_masks
from polymask.parts.pack import pack
from polymask.parts.uncertainty import entropy
from polymask.probe import run_probe
from polymask.task import Meta, TaskRecord


class Rule(ABC):
    """What decides which task a batch is of, before anything is learned from it; one learner's alone.

    Args:
        method: the learner.
    """

    def __init__(self, method: Method) -> None:
        self.method = method

    @abstractmethod
    def choose(self, x: Any) -> str | None:
        """The task of a batch, the open one or a finished one; None: a new one."""


@dataclass
class Usual:
    """The entropy that a mask had on the last batches of its own task, and what is too much for it.

    ``H`` is too much above ``mean + deviations * deviation`` if it is also above ``mean + least``, and if as many
    batches were seen as are remembered.

    Args:
        deviations: how many deviations above the mean are too many.
        least: by how much an entropy is above the mean at the least.
        batches: how many are remembered.

    >>> usual = Usual(8.0, 0.5, 4)
    >>> for h in (0.1, 0.2, 0.1, 0.2):
    ...     usual.note(h)
    >>> usual.is_exceeded_by(0.5), usual.is_exceeded_by(0.7)
    (False, True)
    """

    deviations: float
    least: float
    batches: int
    seen: deque[float] = field(default_factory=deque)

    def note(self, h: float) -> None:
        """Remember the entropy of one more batch."""
        self.seen.append(h)
        if len(self.seen) > self.batches:
            self.seen.popleft()

    def forget(self) -> None:
        """Begin to remember anew."""
        self.seen.clear()

    def is_exceeded_by(self, h: float) -> bool:
        """Whether an entropy is too much."""
        if len(self.seen) < self.batches:
            return False
        return h > fmean(self.seen) + max(self.deviations * pstdev(self.seen), self.least)


class EntropyJump(Rule):
    """A task is over when the entropy under its own mask jumps; what follows is old if an old mask knows it.

    Every batch is read under the open mask. Where its entropy is too much for what that mask's was (see ``Usual``; the
    least is a share of ``ln s`` for ``s`` outputs), the other finished tasks are asked (``Inference``), and it is of
    the likeliest of them for whose mask its entropy is not too much; of a new one if there is none. The end of a visit
    that is shorter than ``batches`` is not seen.

    Args:
        method: the learner.
        deviations: how many deviations above the mean are a jump.
        share: which part of ``ln s`` above the mean it is at the least.
        batches: how many batches mean and deviation are taken over.
        candidates: how many of the likeliest tasks are tried.
    """

    def __init__(
        self, method: Method, deviations: float = 6.0, share: float = 0.15, batches: int = 10, candidates: int = 3
    ) -> None:
        super().__init__(method)
        self.share, self.candidates = share, candidates
        self.usual: defaultdict[str, Usual] = defaultdict(lambda: Usual(deviations, math.inf, batches))
        self._inference: Inference | None = None

    def choose(self, x: Any) -> str | None:
        """The open task if its mask is as sure of a batch as ever, else another one of which this holds."""
        task = self.method.task
        if task is None or self._is_strange(x, task, self.method.model):
            others = self._likeliest_others(x)
            task = next((other for other in others if not self._is_strange(x, other, self.method.plain(other))), None)
            if task is not None:
                # Its scores are drawn anew: what its entropy is while they settle is no jump.
                self.usual[task].forget()
        return task

    def _is_strange(self, x: Any, task: str, network: nn.Module) -> bool:
        """Whether a batch's entropy is too much for a task's mask; if not, it is remembered."""
        logits = run_probe(network, as_read(network, x)).float()
        h, usual = float(entropy(logits.flatten(0, -2))), self.usual[task]
        usual.least = self.share * math.log(logits.shape[-1])
        if usual.is_exceeded_by(h):
            return True
        usual.note(h)
        return False

    def _likeliest_others(self, x: Any) -> list[str]:
        """The finished tasks that are tried, the likeliest first; never the open one."""
        if not self.method.records:
            return []
        self._inference = self._inference or Inference(self.method)
        self._inference.update(self.method)
        found = self._inference(x, together=True)
        ranked = [found.tasks[place] for place in found.scores[0].argsort(descending=True).tolist()]
        return [task for task in ranked if task != self.method.task][: self.candidates]


class UniformSlopes(Rule):
    """A batch is of a new task where no mask lowers the entropy of their mixture more than the others do.

    ``nu = softmax(-scale dH/dalpha)`` over ``n = max(k, least)`` masks, those of the ``k`` tasks and untrained ones;
    new where ``n max(nu) < 1 + epsilon``, or where an untrained mask has the largest share; else it is of the task that
    has it (SupSup, Wortsman et al. 2020, section 3.5; the released code may train an untrained mask and count it as
    none). Slopes have a size that a network gives them, so what ``scale`` separates known from new is found for each.

    A mask that has only begun is told from untrained ones by nothing, so the paper asks every 100 batches, and a task
    that begins between two of these is learned under the one before it until then.

    Args:
        method: the learner.
        epsilon: how far from uniform a known task's share is.
        scale: what the slopes are multiplied by.
        every: how many batches there are from one that is asked to the next.
        least: how many masks there are at the least.
    """

    def __init__(
        self, method: Method, epsilon: float = 2**-3, scale: float = 1.0, every: int = 100, least: int = 5
    ) -> None:
        super().__init__(method)
        self.epsilon, self.scale, self.every = epsilon, scale, every
        self._seen, self._left = 0, ""
        self._mixture, self._untrained = Mixture(method.sites), [self._draw(place) for place in range(least)]

    def choose(self, x: Any) -> str | None:
        """The task of a batch that is asked; of those up to the next one the same."""
        task, self._seen = self.method.task, self._seen + 1
        if (self._seen - 1) % self.every and task is not None:
            return None if task == self._left else task
        chosen = self._ask(x)
        # A batch of a new task for which there is no mask leaves the old one open: those that follow are not its own.
        self._left = "" if chosen is not None or task is None else task
        return chosen

    def _ask(self, x: Any) -> str | None:
        """The task whose mask has the largest share, if it is one."""
        known = dict(self.method.records)
        if self.method.task is not None:
            known[self.method.task] = self._open_record()
        if not known:
            return None
        spare = self._untrained[: max(len(self._untrained) - len(known), 0)]
        self._mixture.update(known | {record.meta.task: record for record in spare})
        nu = (-self.scale * self._mixture.slopes(x, entropy)).softmax(0)
        task = self._mixture.tasks[int(nu.argmax())]
        return task if task in known and len(nu) * float(nu.max()) >= 1 + self.epsilon else None

    def _draw(self, place: int) -> TaskRecord:
        """The mask of a task that has only begun."""
        self.method.begin(f"untrained-{place}")
        record = self._open_record()
        self.method.abandon()
        return record

    @torch.no_grad()
    def _open_record(self) -> TaskRecord:
        """What the open task would end with now."""
        method, sites = self.method, self.method.sites
        masks = {name: pack(mask) for name, mask in hard_masks(sites).items()}
        private = {name: sites.tensor(name).detach().cpu().clone() for name in sites.names("private")}
        return TaskRecord(masks, {}, private, {}, Meta(str(method.task), method.name, 0, method.exact))
