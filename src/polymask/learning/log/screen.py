"""What is seen of a run while it goes, all of it on stderr: a bar on a terminal, elsewhere a line a task and phase."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from rich.console import Console
from rich.progress import Progress, TaskID


class Screen:
    """A bar, or lines.

    Args:
        epochs: how many epochs the whole run has, for the bar.
        tasks: how many tasks.
        metric: what is measured on the validation part.
        quiet: show nothing.
        every: show a line for every so many epochs of a phase as well; None: none.
    """

    def __init__(self, epochs: int, tasks: int, metric: str, quiet: bool = False, every: int | None = None) -> None:
        console = Console(stderr=True)
        self._terminal, self._quiet, self._every = console.is_terminal, quiet, every
        self._tasks, self._score = tasks, f"validation {metric}"
        self._bar = Progress(console=console, disable=quiet or not console.is_terminal, transient=True)
        self._line: TaskID = self._bar.add_task("learning", total=epochs)

    def start(self) -> None:
        """Show the bar, where there is one."""
        self._bar.start()

    def stop(self) -> None:
        """Take it away."""
        self._bar.stop()

    def epoch(self, task: str, phase: str, figures: Mapping[str, float], epochs: int) -> None:
        """Show one of the ``epochs`` of a phase."""
        self._bar.update(self._line, advance=1, description=f"{task} {phase}  val {figures['val']:.3f}")
        done = int(figures["epoch"]) + 1
        if self._every is not None and done % self._every == 0:
            self._say(
                f"{task}, {phase}, epoch {done} of {epochs}: loss {figures['loss']:.4g}, {self._score} "
                f"{figures['val']:.4f}, learning rate {figures['lr']:.3g}"
            )

    def phase(self, place: int, task: str, phase: str, best: float, seconds: float) -> None:
        """Say that a phase of the ``place``-th task is done, where no bar shows it."""
        if not self._terminal:
            self._say(f"task {place} of {self._tasks}, {task}, {phase}: {self._score} {best:.4f}, {seconds:.1f} s")

    def rounding(self, task: str, bits: int, before: float, after: float) -> None:
        """Say what it costs to keep a task's own tensors in fewer bits."""
        self._say(f"{task}: its own tensors in {bits} bits: {self._score} {before:.4f} before, {after:.4f} now")

    def capacity(self, task: str, free: float) -> None:
        """Show how much of the network is free after a task, for the mean layer."""
        self._bar.update(self._line, description=f"{task}: {free:.0%} of a layer's weights free")

    def skip(self, epochs: int) -> None:
        """Move the bar over epochs that an earlier process has done."""
        self._bar.update(self._line, advance=epochs)

    def _say(self, line: str) -> None:
        if self._quiet:
            return
        if self._terminal:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            print(f"polymask: {line}", file=sys.stderr, flush=True)  # noqa: T201, the run speaks here
