"""The task that a run has open: its checkpoint, written while it learns, and read once after a stop."""

from __future__ import annotations

import time
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polymask.bank.bank import Bank
from polymask.held import AlteredNetwork, find_altered, proof
from polymask.learning import folder as files
from polymask.learning.log.journal import Journal
from polymask.learning.setup import Setup
from polymask.learning.train.loop import Progress
from polymask.method.contract import Method
from polymask.streams.stream import Task


@dataclass
class OpenTask:
    """A run's checkpoint; without a folder there is none, and nothing is ever due.

    Args:
        method: the learner.
        setup: how it learns.
        folder: the run's.
    """

    method: Method
    setup: Setup
    folder: Path | None

    def __post_init__(self) -> None:
        self._saved: dict[str, Any] | None = None  # what a stopped run left
        self._safe_at = time.monotonic()  # when the run was last safe on disk
        self._spent, self._since = 0.0, time.perf_counter()  # seconds before a stop, and since when they go on

    def look(self, removed: Collection[str]) -> None:
        """Read what a stopped run left, unless it builds on a task that was removed."""
        if self.folder is None:
            return
        saved = files.load_checkpoint(self.folder, self.setup.fabric.device)
        gone = [name for name in saved["method"]["finished"] if name not in self.method.records] if saved else []
        if saved is not None and gone and {*gone} <= {*removed}:
            warnings.warn(
                f"task {saved['task']!r} begins anew: {', '.join(gone)}, on top of which it was learned, was removed "
                "since",
                stacklevel=2,
            )
            return
        self._saved = saved

    def resume(self, task: Task, journal: Journal) -> tuple[str | None, Progress]:
        """The phase of a task in which a stopped run goes on, the method brought there; None: from the start."""
        saved, self._saved = self._saved, None
        self._spent, self._since = 0.0, time.perf_counter()
        if saved is None or saved["task"] != task.name:
            return None, Progress()
        assert self.folder is not None
        if saved["method"]["finished"] != list(self.method.records):
            raise files.refuse_other_moment(self.folder, "one of other finished tasks")
        try:
            self.method.load_state_dict(saved["method"], self.method.records)
        except AlteredNetwork as error:
            raise files.refuse_other_moment(self.folder, "another base than finished tasks read") from error
        self._check_base(self.folder)
        phase, progress = str(saved["phase"]), Progress(**saved["progress"])
        self._spent = float(saved.get("seconds", 0.0))
        before = self.method.phases[: self.method.phases.index(phase)]
        journal.screen.skip(sum(self.setup.recipe(self.method, earlier).epochs for earlier in before) + progress.epoch)
        return phase, progress

    def is_past(self, task: str, phase: str, epoch: int) -> bool:
        """Whether an epoch that a stopped run noted is not going to be run again."""
        if self._saved is None or self._saved["task"] != task or task in self.method.records:
            return task in self.method.records
        phases, then = list(self.method.phases), self._saved["phase"]
        if phase != then:
            return phase in phases[: phases.index(then)]
        return epoch < int(self._saved["progress"]["epoch"])

    @property
    def seconds(self) -> float:
        """Wall time of the open task so far, also before a run was stopped."""
        return self._spent + time.perf_counter() - self._since

    def is_due(self) -> bool:
        """Whether the open phase is to be saved now."""
        return self.folder is not None and time.monotonic() - self._safe_at >= self.setup.training.save_every

    def save(self, task: str, phase: str, progress: Progress) -> None:
        """Write down where the open phase stands; one process does."""
        if self.folder is not None and self.setup.fabric.is_global_zero:
            state = {"task": task, "phase": phase, "progress": vars(progress), "seconds": self.seconds}
            files.save_checkpoint(self.folder, {**state, "method": self.method.state_dict()})
        self._safe_at = time.monotonic()

    def drop(self) -> None:
        """Delete the checkpoint: its task is finished, and safe in the bank."""
        if self.folder is not None and self.setup.fabric.is_global_zero:
            files.drop_checkpoint(self.folder)
        self._safe_at = time.monotonic()

    def _check_base(self, folder: Path) -> None:
        """Raise unless what a checkpoint brought agrees with the bank; every process looks, and finds the same."""
        if not self.method.records:
            return
        bank, sites = Bank.open(folder / "bank"), self.method.sites
        if changed := find_altered(bank.held(sites), sites, proof):
            name, found = next(iter(changed.items()))
            raise files.refuse_other_moment(folder, f"another base: {name!r} ({found}), which finished tasks read")
