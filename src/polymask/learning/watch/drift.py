"""The fixed batch on which a run watches its finished tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from polymask.bank.bank import Bank
from polymask.bank.verify import behaviour, changed_reads
from polymask.learning.results import Forgot, check_exact, largest_change
from polymask.learning.watch.twin import Twin
from polymask.method.contract import Method
from polymask.probe import Setting, differences, run_twice, setting


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

    def carry_over(self, settings: Mapping[str, Setting]) -> None:
        """Compare with what finished tasks answer here, where they ended in a setting that rounds otherwise.

        Another processor, device, number of threads or torch changes the last bits of a network's logits, and none of
        its tensors, which were compared by content when the bank was opened. What differs by more than rounding is left
        to be found. A method that may drift keeps its first logits, since its drift may be as small as rounding.

        Args:
            settings: task -> where its logits were computed.
        """
        if self.method.exact is None or not self.logits:
            return
        here = setting(self.twin.answering(next(iter(self.logits))), self.batch)
        for task, was in self.logits.items():
            changed = differences(settings[task], here)
            if changed and behaviour(was, now := self._run(task), changed, self.method.exact)[1]:
                self.logits[task] = now

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


def watch(method: Method, batch: Any, out: Path | None) -> Drift:
    """Watch all tasks of a run, those that an earlier process finished by the logits that its bank keeps.

    Args:
        method: the learner, with the finished tasks.
        batch: the probe.
        out: the run's folder, if it has one.
    """
    if out is None or not method.records:
        return Drift(method, Twin(method), batch)
    bank = Bank.open(out / "bank")
    drift = Drift(method, Twin(method), batch, bank.probe_logits())
    drift.carry_over(bank.probe_settings())
    return drift
