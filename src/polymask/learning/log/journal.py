"""What a run tells while it goes: a bar or lines on stderr, ``epochs.csv`` in its folder, and loggers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from polymask.disk import write_file
from polymask.learning.log.loggers import FIGURES, IsPast, Logger, Make, finalize
from polymask.learning.log.screen import Screen

COLUMNS = ("task", "phase", "epoch", *FIGURES)


class Journal:
    """Figures of every epoch, to files, to loggers and to the terminal.

    Args:
        folder: where ``epochs.csv`` goes; None: nowhere.
        screen: what is seen of it.
        is_past: whether an epoch that the file tells of stays.
        loggers: what makes those who are told as well.
        params: how the run is configured, for loggers.
    """

    def __init__(
        self,
        folder: Path | None,
        screen: Screen,
        is_past: IsPast = lambda *epoch: True,
        loggers: Sequence[Make] = (),
        params: Mapping[str, Any] | None = None,
    ) -> None:
        self.screen, self._folder = screen, folder
        self._csv: TextIO | None = None
        if folder is not None:
            write_file(folder / "epochs.csv", _rows(folder / "epochs.csv", is_past).encode())
            self._csv = (folder / "epochs.csv").open("a", newline="", encoding="utf-8")
        self._loggers: list[Logger] = [make(is_past) for make in loggers]
        for logger in self._loggers:
            with suppress(NotImplementedError):  # Fabric's CSV logger has no place for it
                logger.log_hyperparams(dict(params or {}))

    def __enter__(self) -> Journal:
        self.screen.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.screen.stop()
        # A disk that is full says so once; closing would say it again.
        with suppress(OSError) if error is not None else self._clear():
            if self._csv is not None:
                self._csv.close()
            for logger in self._loggers:
                finalize(logger, kind)

    def epoch(self, task: str, phase: str, figures: dict[str, float], epochs: int) -> None:
        """Note one of the ``epochs`` of a phase.

        Raises:
            OSError: if the disk is full.
        """
        self.screen.epoch(task, phase, figures, epochs)
        with self._clear():
            if self._csv is not None:
                csv.writer(self._csv).writerow([task, phase, *(figures[key] for key in COLUMNS[2:])])
                self._csv.flush()
            for logger in self._loggers:
                named = {f"{task}/{phase}/{key}": figures[key] for key in FIGURES}
                logger.log_metrics(named, step=int(figures["epoch"]))

    def score(self, task: str, name: str, value: float, place: int) -> None:
        """Tell loggers the score of a task that was learned as the ``place``-th, under its own name."""
        with self._clear():
            for logger in self._loggers:
                logger.log_metrics({f"{task}/{name}": value}, step=place)
                logger.save()

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


def _rows(path: Path, is_past: IsPast) -> str:
    """The file with the rows of past epochs alone, so that none stands there twice; a row cut short goes as well."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(COLUMNS)
    if path.exists():
        with path.open(newline="", encoding="utf-8", errors="replace") as old:
            rows.writerows(
                row
                for row in csv.reader(old)
                if len(row) == len(COLUMNS) and row[2].isdecimal() and is_past(row[0], row[1], int(row[2]))
            )
    return text.getvalue()
