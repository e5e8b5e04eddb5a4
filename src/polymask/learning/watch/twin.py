"""One plain copy of the network, switched from task to task: what evaluates pays for one copy, not for one a task."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from polymask.method.contract import Method
from polymask.task import switch


@dataclass
class Twin:
    """A plain network that answers as whichever finished task is asked for.

    Args:
        method: the learner; it stays as it is.

    >>> import torch
    >>> from polymask.methods import Piggyback
    >>> method = Piggyback(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 2))
    >>> for task in ("a", "b"):
    ...     method.begin(task)
    ...     method.on_step(1.0)
    ...     for parameter in method.parameters():
    ...         _ = parameter.requires_grad_(False).add_(0.1)
    ...     _ = method.end(task)
    >>> twin, x = Twin(method), torch.ones(3, 2)
    >>> first = twin.answering("a")
    >>> torch.equal(first(x), method.plain("a")(x)), twin.answering("b") is first
    (True, True)
    """

    method: Method
    _plain: nn.Module | None = None

    def answering(self, task: str) -> nn.Module:
        """The copy as one task; the module that an earlier call returned answers as this task now, too.

        Where layers grow, a task's network has widths of its own and is copied anew.
        """
        if self._plain is None or self.method.grows:
            self._plain = self.method.plain(task)
        if not self.method.grows:
            switch(self._plain, self.method.sites, self.method.record(task))
        return self._plain

    def release(self) -> None:
        """Let go of the copy where the next task may change what it holds besides masks: a method that is not exact."""
        if self.method.exact is not True:
            self._plain = None
