"""Who is told of every epoch besides the run's own files: loggers of Fabric's interface, by name or by address.

A logger is told ``{"TASK/PHASE/loss": ..., "TASK/PHASE/val": ..., "TASK/PHASE/lr": ...}`` with the epoch of the phase
as its step, and after a task ``{"TASK/test accuracy": ...}``, or "validation", with the task's place.
"""

from __future__ import annotations

import csv
import importlib
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning_fabric.loggers.csv_logs import CSVLogger
from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from polymask.learning.log.adapters import ADAPTERS
from polymask.learning.training import LOGGERS

FIGURES = ("loss", "val", "lr")
IsPast = Callable[[str, str, int], bool]
"""``(task, phase, epoch)`` -> whether what was noted of it stays; the other epochs are run again. A score: phase ""."""


@runtime_checkable
class Logger(Protocol):
    """What is asked of a logger: Fabric's interface, and so that of every logger of Lightning."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Note numbers by name."""

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        """Note how the run is configured."""

    def save(self) -> None:
        """Put on disk what is not there yet."""

    def finalize(self, status: str) -> None:
        """Close."""


Make = Callable[[IsPast], Logger]
"""Makes a logger that goes on where an earlier one of the run's folder was stopped, after what of it stays."""


def makers(chosen: str | Logger | Sequence[str | Logger] | None, folder: Path | None) -> list[Make]:
    """What makes the loggers of a run; a name that is none, or a package that is missing, is found out here.

    Args:
        chosen: names of ``LOGGERS``, addresses ``package.module:Class``, or loggers; None: tensorboard, if there is a
            folder.
        folder: the run's folder, for files and for what identifies the run elsewhere.

    Raises:
        ValueError: for a name that is none, what is no logger, or one that needs a folder where there is none.
        ModuleNotFoundError: if a logger's package is not there.

    >>> makers(None, None), len(makers("csv,tensorboard", Path("run")))
    ([], 2)
    """
    if chosen is None:
        return [] if folder is None else [partial(tensorboard, folder, False)]
    listed = chosen.split(",") if isinstance(chosen, str) else [chosen] if isinstance(chosen, Logger) else chosen
    return [_maker(one.strip() if isinstance(one, str) else one, folder) for one in listed]


def _maker(chosen: str | Logger, folder: Path | None) -> Make:
    if isinstance(chosen, Logger):
        return lambda is_past: chosen
    if chosen in ADAPTERS:
        adapter, package = ADAPTERS[chosen], _extra(chosen)
        return lambda is_past: adapter(package, folder)
    if chosen in LOGGERS and folder is not None:
        return partial(csv_file, folder) if chosen == "csv" else partial(tensorboard, folder, True)
    if chosen in LOGGERS:
        raise ValueError(f"expected a folder for the logger {chosen!r}, found none: give out=")
    own = own_logger(chosen, folder)
    return lambda is_past: own


def tensorboard(folder: Path, hyperparams: bool, is_past: IsPast) -> Logger:
    """Fabric's logger into ``tensorboard/``; what an earlier process noted lies beside it, in files of its own."""
    logger: Logger = TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=hyperparams)
    return logger


def csv_file(folder: Path, is_past: IsPast) -> Logger:
    """Fabric's logger into ``csv/metrics.csv``; it begins its file anew, so what stays is told to it again."""
    path = folder / "csv" / "metrics.csv"
    old: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            old = [{key: text for key, text in row.items() if key and text} for row in csv.DictReader(file)]
        path.unlink()
    logger = CSVLogger(folder, name="", version="csv", flush_logs_every_n_steps=1)
    for row in old:
        if (step := row.pop("step", "")).isdecimal() and row and _stays(next(iter(row)), int(step), is_past):
            logger.log_metrics({key: float(text) for key, text in row.items()}, int(step))
    return logger


def _stays(key: str, step: int, is_past: IsPast) -> bool:
    """Whether the number of this name, noted by an earlier process, is not going to be noted again."""
    path, _, leaf = key.rpartition("/")
    task, _, phase = path.rpartition("/")
    return is_past(task, phase, step) if leaf in FIGURES else is_past(path, "", 0)


def own_logger(address: str, folder: Path | None) -> Logger:
    """A logger of the user's, told the run's folder where its class takes ``root_dir`` or ``save_dir``.

    Raises:
        ValueError: if there is none at the address, or it cannot be made so.
    """
    package, _, leaf = address.partition(":")
    try:
        kind = getattr(importlib.import_module(package), leaf)
        names = [name for name in ("root_dir", "save_dir") if name in inspect.signature(kind).parameters]
        logger = kind(**({names[0]: str(folder)} if names and folder is not None else {}))
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(
            f"expected a logger of {', '.join(LOGGERS)}, or package.module:Class that can be made without arguments or "
            f"with root_dir or save_dir, found {address!r}: {error}"
        ) from error
    if not isinstance(logger, Logger):
        raise ValueError(
            f"expected {address!r} to have log_metrics, log_hyperparams, save and finalize, as loggers of Fabric do, "
            f"found {type(logger).__name__}"
        )
    return logger


def _extra(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(
            f"expected the package {package} for --logger {package}, found none: pip install 'polymask[{package}]'"
        ) from error


def finalize(logger: Logger, error: type[BaseException] | None) -> None:
    """Close a logger, and tell it how the run ended."""
    # Ctrl-C may have met the writer while it handed over an event; closing would wait for that one for ever.
    if not (error is KeyboardInterrupt and isinstance(logger, TensorBoardLogger)):
        logger.finalize("success" if error is None else "failed")
