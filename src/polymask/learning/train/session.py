"""One run in progress: every task through its phases, its record, its row of the matrix, its place on disk."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from polymask.learning import folder as files
from polymask.learning.evaluate import check_inputs, score
from polymask.learning.figures.accuracy import append_row, write_rows
from polymask.learning.figures.unwritten import Unwritten
from polymask.learning.folder import Place
from polymask.learning.log.chance import about_chance, at_chance
from polymask.learning.log.journal import Journal
from polymask.learning.log.room import exhausted, mean_free, warn_full
from polymask.learning.results import Results
from polymask.learning.setup import Setup
from polymask.learning.train.loop import Phase, Progress, train_phase, validated
from polymask.learning.train.open_task import OpenTask
from polymask.learning.unnamed.scenario import score_scenario
from polymask.learning.unnamed.spare import check_spare
from polymask.learning.watch.apart import Apart
from polymask.learning.watch.drift import Drift
from polymask.learning.watch.twin import Twin
from polymask.method.contract import Method
from polymask.method.learner import without_base
from polymask.streams.prepare import Feeds
from polymask.streams.stream import Task

WRITE_EVERY, WRITE_SHARE = 60.0, 0.1
"""Most seconds between two writes of ``results.json`` while a run goes on, and the share of its time they may take."""


@dataclass
class Session:
    """What a run works with.

    Args:
        method: the learner.
        tasks: all tasks, the finished ones included.
        setup: how it learns.
        place: where it lies.
        results: the figures so far.
        drift: the fixed batch and the logits of every finished task on it.
        feeds: the data opened so far.
    """

    method: Method
    tasks: list[Task]
    setup: Setup
    place: Place
    results: Results
    drift: Drift
    feeds: dict[str, Feeds] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.method.private_bits = self.setup.training.private_bits or 32
        self._open = OpenTask(self.method, self.setup, self.place.folder)
        self._due_at = time.monotonic()  # when the report is written again
        self._again: list[Task] | None = None  # the finished tasks that may have to be measured again
        self._unwritten = Unwritten(self.method.drawn)
        self._apart = Apart.of(self.place.folder, self.twin, self.setup)
        self._full = {name for found in self.results.capacity.values() for name in exhausted(found)}
        for task in self.results.rows:
            self._judge(task, warn=False)  # a run that was killed may not have written down what it warned of

    @property
    def twin(self) -> Twin:
        """What answers as finished tasks."""
        return self.drift.twin

    def run(self) -> dict[str, Any]:
        """Learn what is not finished yet; every finished task is on disk before the next begins.

        Returns:
            The report.

        Raises:
            RuntimeError: if an exact method forgot; the report is written nevertheless.
        """
        folder, fabric = self.place.folder, self.setup.fabric
        self._open.look(self.results.removed)
        fabric.barrier()
        if folder is not None and fabric.is_global_zero:
            write_rows(folder / "accuracy.csv", self.results.rows)
        epochs = len(self.tasks) * self.setup.epochs(self.method)
        params = {**self.place.about, **asdict(self.setup.training)}
        screen, place = self.setup.screen(epochs, len(self.tasks)), folder if fabric.is_global_zero else None
        with Journal(place, screen, self._open.is_past, self.setup.loggers, params) as journal:
            try:
                self._learn_all(journal)
            except BaseException:
                with suppress(OSError, ValueError):  # what stopped the run is what it says
                    if self.results.rows:
                        self.write()
                raise
        self._apart.calibrate(self.tasks)
        self.results.drift = self.drift.measure()
        self.results.identities = score_scenario(self.method, self.tasks, self.setup)
        report = self.write()
        self._open.drop()
        self.drift.check(self.results.drift)
        return report

    def write(self) -> dict[str, Any]:
        """The report so far, also into ``results.json``."""
        start = time.perf_counter()
        sizes = self._unwritten.sizes() if self.place.bank is None else self.place.bank.sizes()
        report = self.results.as_json(self.place.about, sizes)
        if self.place.folder is not None and self.setup.fabric.is_global_zero:
            files.write_results(self.place.folder, report)
        self._due_at = time.monotonic() + min(WRITE_EVERY, (time.perf_counter() - start) / WRITE_SHARE)
        return report

    def feed(self, task: Task) -> Feeds:
        """The task's data, opened once."""
        if task.name not in self.feeds:
            self.feeds[task.name] = self.setup.open(task, self.method.seed)
        return self.feeds[task.name]

    def _learn_all(self, journal: Journal) -> None:
        for task in self.tasks:
            if task.name in self.method.records:
                journal.screen.skip(self.setup.epochs(self.method))
            else:
                self._learn(task, journal)
            if task.name == next(reversed(self.method.records)) and task.name not in self.results.rows:
                self._measure(task, journal)
            if not self._measures_again(task.name):
                self.feeds.pop(task.name, None)
            self.twin.release()

    def _learn(self, task: Task, journal: Journal) -> None:
        feeds = self.feed(task)
        check_inputs(self.method.model, task.name, feeds.example())
        check_spare(self.method.model, task.name, feeds, self.setup.spare)
        begun, progress = self._open.resume(task, journal)
        for phase in self.method.phases[self.method.phases.index(begun) if begun else 0 :]:
            if phase != begun:
                batches = feeds.train.ordered(self.setup.recipe(self.method, phase).batch_size)
                self.method.begin(task.name, phase, outputs=feeds.outputs, batches=batches)
                progress = Progress()
            trained, began = self._phase(task, phase, feeds, journal), time.perf_counter()
            best = train_phase(trained, progress, self.setup.make_optimizer, self.setup.schedule_of(trained.recipe))
            journal.screen.phase(self.tasks.index(task) + 1, task.name, phase, best, time.perf_counter() - began)
        issued = self.method.end(task.name)
        if (bits := self.method.private_bits) != 32:
            self.results.rounding[task.name] = {"bits": bits, "before": best, "after": validated(trained)[0]}
            journal.screen.rounding(task.name, **self.results.rounding[task.name])
        self._describe(task.name, feeds)
        feeds.train.release()
        self.results.seconds[task.name] = self._open.seconds
        self.drift.note(task.name)
        self._watch_capacity(task.name, journal)
        self._commit(issued)
        self._apart.measure(task.name, feeds)

    def _watch_capacity(self, task: str, journal: Journal) -> None:
        """Note how full the network is; warn once of each weight that has nothing left to learn with."""
        found = self.method.capacity()
        if found:
            self.results.capacity[task] = found
            journal.screen.capacity(task, mean_free(found))
            new = [name for name in exhausted(found) if name not in self._full]
            self._full |= {*new}
            warn_full(task, new)

    def _judge(self, task: str, warn: bool = True) -> None:
        """Note, and warn, that a task ended at chance, if it did."""
        entry = self.results.rows[task].get(task)
        if entry is None or not at_chance(entry) or task in self.results.warnings:
            return
        how, options = self.setup.recipes(self.method), self.place.about.get("options") or {}
        self.results.warnings[task] = about_chance(self.method, task, entry, how, options)
        if warn and self.setup.fabric.is_global_zero:
            warnings.warn(self.results.warnings[task]["text"], stacklevel=2)

    def _commit(self, issued: Iterable[str]) -> None:
        if (bank := self.place.bank) is not None:
            records = {name: self.method.records[name] for name in issued}
            if any(name in bank.removed for name in records):
                self.write()  # the file may still tell of the task of this name that was removed
            bank.commit(records, self.method.sites, learner=without_base(self.method.state_dict()))
        elif self.place.folder is None:
            self._unwritten.weigh([self.method.records[name] for name in issued], self.method.sites)
        self._open.drop()

    def _phase(self, task: Task, phase: str, feeds: Feeds, journal: Journal) -> Phase:
        training, recipe = self.setup.training, self.setup.recipe(self.method, phase)
        return Phase(
            self.setup.fabric,
            self.method,
            feeds,
            recipe,
            self.setup.objective,
            (self.method.seed, task.name, phase),
            training.accumulate,
            training.clip,
            lambda figures: journal.epoch(task.name, phase, figures, recipe.epochs),
            self._open.is_due,
            lambda progress: self._open.save(task.name, phase, progress),
            self.setup.spare,
        )

    def _describe(self, task: str, feeds: Feeds) -> None:
        record = self.method.records[task]
        labels = tuple(feeds.labels or ())
        meta = replace(record.meta, outputs=feeds.outputs, labels=labels, inputs=feeds.inputs.to_json())
        self.method.records[task] = replace(record, meta=meta)

    def _measure(self, after: Task, journal: Journal) -> None:
        """Fill a task's row: its own entry, and of the others those that no proof implies."""
        setting, row = self.setup.setting, {}
        for task in [*self._unproved(after), after]:
            row[task.name] = score(self.twin.answering(task.name), self.feed(task), self.setup.objective, setting)
        self.results.add(after.name, row)
        self._judge(after.name)
        name = f"{row[after.name].split} {self.setup.objective.metric_name}"
        journal.score(after.name, name, row[after.name].value, len(self.results.rows))
        if self.place.folder is not None and self.setup.fabric.is_global_zero:
            append_row(self.place.folder / "accuracy.csv", after.name, row)
        # What rounding cost stands nowhere else on disk.
        if time.monotonic() >= self._due_at or after.name in self.results.rounding:
            self.write()

    def _unproved(self, after: Task) -> list[Task]:
        """The earlier tasks that are measured again; looked for among all of them once, then among those it found."""
        if self._again is None:
            self._again = [task for task in self.tasks if task.name in self.method.records and task is not after]
        found = [task for task in self._again if self._measures_again(task.name)]
        self._again = [*found, after]
        return found

    def _measures_again(self, task: str) -> bool:
        """Whether a finished task is measured after every later one."""
        return self.setup.training.measure == "all" or not self.results.stands(task, self.setup.setting)
