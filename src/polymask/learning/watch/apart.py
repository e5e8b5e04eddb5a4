"""What a run keeps to tell its tasks apart: statistics of each when it ends, at last what held-out inputs come to."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from polymask.calling import REFUSALS, tensors_of
from polymask.inference.beside import Evidence, read_evidence, shortlist_in, statistics_in, write_evidence
from polymask.inference.calibrate import calibrate
from polymask.inference.infer import Inference
from polymask.inference.rows import at_rows
from polymask.inference.stacks import digest_of
from polymask.inference.statistics import Statistics
from polymask.learning.setup import Setup
from polymask.learning.watch.twin import Twin
from polymask.parts.seeds import generator
from polymask.streams.prepare import Feeds
from polymask.streams.stream import Task

BATCH = 512
ASKED = 200
"""Held-out inputs of a task that are asked about: a threshold stands on those of all tasks."""


@dataclass(frozen=True)
class Apart:
    """Measures the tasks of a run whose data have a calibration part; of others it does nothing.

    Args:
        folder: the run's, on the process that writes; None: nothing is measured.
        twin: what answers as finished tasks.
        setup: how the run learns.
    """

    folder: Path | None
    twin: Twin
    setup: Setup

    @classmethod
    def of(cls, folder: Path | None, twin: Twin, setup: Setup) -> Apart:
        """What a run asks for: nothing, unless it sets a calibration fraction, and on one process."""
        asked = setup.training.calibration_fraction is not None and setup.fabric.is_global_zero
        return cls(folder if asked else None, twin, setup)

    def measure(self, task: str, feeds: Feeds) -> None:
        """Write the statistics of a task that has ended, in place of what was kept of an earlier one of its name."""
        if self.folder is None or feeds.calibration is None:
            return
        method, made, shared = self.twin.method, None, None
        reference = next(iter(method.records))

        def measured(by: str) -> Statistics:
            """Of this task's inputs, as the network reads them as some task."""
            parts = (feed.ordered(BATCH) for feed in (feeds.train, held_out))
            digest, network = digest_of(method.records[by]), self.twin.answering(by)
            return Statistics.measure(network, method.head, *parts, seed=method.seed, digest=digest)

        held_out = feeds.calibration
        try:
            made = measured(task)
            shared = None if task == reference else measured(reference)
        except ValueError as error:
            warnings.warn(f"this run keeps no statistics to tell tasks apart: {error}", stacklevel=2)
        digest = digest_of(method.records[task])
        write_evidence(self.folder, task, Evidence(digest, made, shared=shared, reference=reference))

    def calibrate(self, tasks: Sequence[Task]) -> None:
        """Ask about held-out inputs of every task that was not asked about as it is now, in all ways that fit."""
        if self.folder is None:
            return
        records, todo = self.twin.method.records, []
        for task in tasks:
            kept = self._kept(task.name)
            if task.name in records and (kept is None or not kept.is_of(records[task.name])):
                # Its record was issued again, or an earlier call was killed before it had measured.
                self.measure(task.name, self._open(task))
                kept = self._kept(task.name)
            if kept is not None and not kept.values:
                todo.append(task)
        asked = list(self._ways()) if todo else []
        for task in todo:
            kept = self._kept(task.name)
            if kept is not None:
                write_evidence(self.folder, task.name, replace(kept, values=self._values(task, asked)))

    def _values(self, task: Task, asked: Sequence[Inference]) -> dict[tuple[str, str, int], Tensor]:
        """What held-out inputs of a task come to, in every way of asking: of a random ``ASKED`` of them."""
        feed, start = self._open(task).calibration, 0
        assert feed is not None
        chosen = torch.randperm(feed.size, generator=generator(self.twin.method.seed, task.name, "asked"))[:ASKED]
        found: dict[tuple[str, str, int], list[Tensor]] = {(one.way, one.by, 1): [] for one in asked}
        for x, y in feed.ordered(BATCH):
            here = chosen[(chosen >= start) & (chosen < start + len(y))] - start
            start += len(y)
            for inference in asked if len(here) else ():
                part = tensors_of(x, partial(at_rows, rows=here))
                found[inference.way, inference.by, 1].append(calibrate(inference, {task.name: part}).values[task.name])
        return {key: torch.cat(values) for key, values in found.items()}

    def _ways(self) -> Iterator[Inference]:
        """The ways of asking that fit the tasks; says why where one does not."""
        assert self.folder is not None
        method, statistics = self.twin.method, statistics_in(self.folder, self.twin.method.records)
        few = shortlist_in(self.folder, method.records)
        makers = [partial(Inference, method, shortlist=few)]
        makers += [partial(Inference, method, "statistics", statistics=statistics, shortlist=few)] if statistics else []
        for make in makers:
            try:
                inference = make()
                inference(method.example)
            except REFUSALS as error:
                warnings.warn(f"one way of asking which task an input is of is not calibrated: {error}", stacklevel=2)
            else:
                yield inference

    def _kept(self, task: str) -> Evidence | None:
        assert self.folder is not None
        try:
            return read_evidence(self.folder, task)
        except ValueError as error:
            warnings.warn(str(error), stacklevel=2)
            return None

    def _open(self, task: Task) -> Feeds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what there is to warn of was said when the task was learned
            return self.setup.open(task, self.twin.method.seed)
