"""Whole runs of many small tasks: what a task costs besides its training, early and late, in turns."""

from __future__ import annotations

import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from polymask import Bank
from polymask.learning.by_name import run_named
from polymask.learning.train import session
from polymask.learning.training import Training

HOW: dict[str, Any] = {"net": {"hidden": [32]}, "training": Training(epochs=1, device="cpu")}


class Clock:
    """CPU seconds of every task of the runs that are watched, training apart; runs take turns, a task each."""

    def __init__(self, runs: int = 1) -> None:
        self.rest: list[list[float]] = [[] for _ in range(runs)]
        self.own, self.free, self.turn, self.over = threading.local(), threading.Condition(), 0, set[int]()

    def start(self, run: int) -> None:
        """Called by the thread of a run before anything else."""
        self.own.run, self.own.trained = run, 0.0
        self.wait()
        self.own.since = time.thread_time()

    def wait(self) -> None:
        with self.free:
            self.free.wait_for(lambda: self.turn == self.own.run)

    def hand_on(self) -> None:
        """Let the next run that is not over go on."""
        with self.free:
            left = [run for run in range(len(self.rest)) if run not in self.over]
            if left:
                self.turn = next((run for run in left if run > self.own.run), left[0])
            self.free.notify_all()

    def task(self) -> None:
        """A task is measured and on disk."""
        now = time.thread_time()
        self.rest[self.own.run].append(now - self.own.since - self.own.trained)
        self.own.trained = 0.0
        self.hand_on()
        self.wait()
        self.own.since = time.thread_time()

    def end(self) -> None:
        with self.free:
            self.over.add(self.own.run)
        self.hand_on()


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Let a clock see where each task's training begins and ends, and when its row is written."""
    train, measure = session.train_phase, session.Session._measure

    def timed(*args: Any) -> float:
        start = time.thread_time()
        best = train(*args)
        clock.own.trained += time.thread_time() - start
        return best

    def measured(self: session.Session, after: Any) -> None:
        measure(self, after)
        clock.task()

    session.train_phase, session.Session._measure = timed, measured  # type: ignore[method-assign]
    try:
        yield
    finally:
        session.train_phase, session.Session._measure = train, measure  # type: ignore[method-assign]


def go(clock: Clock, run: int, method: str, count: int, out: Path) -> threading.Thread:
    """A run in a thread of its own; finished tasks in the folder are not learned again."""

    def work() -> None:
        clock.start(run)
        try:
            run_named(method, "digits-permuted", tasks=count, out=str(out), **HOW)
        finally:
            clock.end()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@contextmanager
def stopped_when(done: Callable[[session.Session, Any], bool]) -> Iterator[None]:
    """Let a run stop by itself, as by Ctrl-C, after the task of which this says so."""
    measure = session.Session._measure

    def stopping(self: session.Session, after: Any) -> None:
        measure(self, after)
        if done(self, after):
            raise KeyboardInterrupt

    session.Session._measure = stopping  # type: ignore[method-assign]
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        session.Session._measure = measure  # type: ignore[method-assign]


def tasks_in(out: Path) -> int:
    """How many tasks a run's folder holds."""
    return len(Bank.open(out / "bank").tasks) if (out / "bank" / "bank.json").exists() else 0


def fill(method: str, count: int, out: Path, upto: int, seconds: float) -> int:
    """Learn a run of ``count`` tasks up to one of them, or for so many seconds; how many are finished."""
    end = time.monotonic() + seconds
    if tasks_in(out) < upto:
        with stopped_when(lambda self, after: len(self.method.records) >= upto or time.monotonic() > end):
            run_named(method, "digits-permuted", tasks=count, out=str(out), **HOW)
    return tasks_in(out)


def early_and_late(method: str, count: int, out: Path, turns: int) -> tuple[list[float], list[float]]:
    """CPU seconds besides training of tasks 11 and on of a young run, and of the last ones of an old run, in turns."""
    clock = Clock(2)
    with tempfile.TemporaryDirectory() as folder, watched(clock):
        runs = [go(clock, 0, method, 10 + turns, Path(folder)), go(clock, 1, method, count, out)]
        for run in runs:
            run.join()
    return clock.rest[0][-turns:], clock.rest[1][-turns:]


def resumed(method: str, count: int, out: Path) -> tuple[float, float]:
    """CPU and wall seconds from the call to the first step of the next task, of a run that was stopped."""
    found: list[tuple[float, float]] = []
    start = time.process_time(), time.perf_counter()
    train = session.train_phase

    def stop(*_: Any) -> float:
        found.append((time.process_time() - start[0], time.perf_counter() - start[1]))
        raise KeyboardInterrupt

    session.train_phase = stop
    try:
        with suppress(KeyboardInterrupt):
            run_named(method, "digits-permuted", tasks=count, out=str(out), **HOW)
    finally:
        session.train_phase = train
    return found[0]


def opened(out: Path) -> tuple[float, float]:
    """Milliseconds and MB that opening a run's bank takes; memory is what Python and its allocations grow by."""
    tracemalloc.start()
    start = time.perf_counter()
    bank = Bank.open(out / "bank")
    spent, (grown, _) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bank.tasks
    return 1e3 * spent, grown / 1e6
