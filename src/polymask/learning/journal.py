"""What a run tells while it goes: a progress bar on a terminal, CSV and TensorBoard files in its folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import TaskID

from polymask.bank.store import write_file

COLUMNS = ("task", "phase", "epoch", "loss", "val", "lr")


class Journal:
    """Figures of every epoch, to files and to the terminal.

    Args:
        folder: where ``epochs.csv`` and ``tensorboard/`` go; None: no files.
        epochs: how many epochs the whole run has, for the bar.
        is_past: ``(task, phase, epoch)`` -> whether an epoch that the file tells of stays; the others are run again.
    """

    def __init__(
        self, folder: Path | None, epochs: int, is_past: Callable[[str, str, int], bool] = lambda *epoch: True
    ) -> None:
        console = Console(stderr=True)
        self._bar = Bar(console=console, disable=not console.is_terminal, transient=True)
        self._line: TaskID = self._bar.add_task("learning", total=epochs)
        self._folder = folder
        self._csv: TextIO | None = None
        self._writer: Any = None
        if folder is not None:
            write_file(folder / "epochs.csv", _rows(folder / "epochs.csv", is_past).encode())
            self._csv = (folder / "epochs.csv").open("a", newline="")
            self._writer = _tensorboard(folder / "tensorboard")

    def __enter__(self) -> Journal:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        # A disk that is full says so once; closing would say it again.
        with suppress(OSError) if error is not None else self._clear():
            if self._csv is not None:
                self._csv.close()
            # Ctrl-C may have met the writer while it handed over an event; closing would wait for that one for ever.
            if self._writer is not None and kind is not KeyboardInterrupt:
                self._writer.close()

    def epoch(self, task: str, phase: str, figures: dict[str, float]) -> None:
        """Note one epoch.

        Raises:
            OSError: if the disk is full.
        """
        self._bar.update(self._line, advance=1, description=f"{task} {phase}  val {figures['val']:.3f}")
        with self._clear():
            if self._csv is not None:
                csv.writer(self._csv).writerow([task, phase, *(figures[key] for key in COLUMNS[2:])])
                self._csv.flush()
            if self._writer is not None:
                for key in ("loss", "val", "lr"):
                    self._writer.add_scalar(f"{task}/{phase}/{key}", figures[key], int(figures["epoch"]))

    def capacity(self, task: str, free: float) -> None:
        """Say how much of the network is free after a task, for the mean layer."""
        self._bar.update(self._line, description=f"{task}: {free:.0%} of a layer's weights free")

    @contextmanager
    def _clear(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(
                error.errno,
                f"expected to note an epoch in {self._folder}, found: {error.strerror or error}. Finished tasks are "
                "kept: make room and start again",
            ) from error

    def skip(self, epochs: int) -> None:
        """Note epochs that an earlier process has done."""
        self._bar.update(self._line, advance=epochs)


def _rows(path: Path, is_past: Callable[[str, str, int], bool]) -> str:
    """The file with the rows of past epochs alone, so that none stands there twice; a row cut short goes as well."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(COLUMNS)
    if path.exists():
        with path.open(newline="") as old:
            rows.writerows(
                row
                for row in csv.reader(old)
                if len(row) == len(COLUMNS) and row[2].isdecimal() and is_past(row[0], row[1], int(row[2]))
            )
    return text.getvalue()


def _tensorboard(folder: Path) -> Any:
    # Slow to import, and wanted only with a folder.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
