"""The fixed batch on which a run watches its finished tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from polymask.bank.verify import changed_reads
from polymask.learning.results import Forgot, check_exact, largest_change
from polymask.learning.watch.twin import Twin
from polymask.method.contract import Method
from polymask.probe import run_twice


@dataclass
class Drift:
    """A batch, and the logits of every task on it at the moment the task ended.

    Args:
        method: the learner.
        twin: what answers as finished tasks.
        batch: drawn from the example's shapes and range.
        logits: task -> logits.
        unstable: the tasks that do not give the same logits twice; their content hashes decide instead.
    """

    method: Method
    twin: Twin
    batch: Any
    logits: dict[str, Tensor] = field(default_factory=dict)
    unstable: set[str] = field(default_factory=set)

    def note(self, task: str) -> None:
        """Keep the logits of a task that has just ended."""
        self.logits[task] = self._run(task)

    def measure(self) -> dict[str, float]:
        """The largest change of a logit of every task since it ended."""
        return {task: largest_change(was, self._run(task)) for task, was in self.logits.items()}

    def check(self, drift: dict[str, float]) -> None:
        """Fail loudly if a method that promises exactness forgot.

        Raises:
            Forgot: naming the tasks, by how much, or which tensor.
        """
        exact = self.method.exact
        check_exact(exact, {task: value for task, value in drift.items() if task not in self.unstable})
        for task in sorted(self.unstable & set(drift)):
            changed = changed_reads(self.method.sites, self.method.record(task)) if exact is True else []
            if changed:
                raise Forgot(f"{changed[0]}; the logits of the task do not tell, they differ from run to run")

    def _run(self, task: str) -> Tensor:
        logits, stable = run_twice(self.twin.answering(task), self.batch)
        if not stable:
            self.unstable.add(task)
        return logits
