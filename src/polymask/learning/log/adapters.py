"""Thin loggers of Fabric's interface over packages that are installed apart: Weights & Biases, and MLflow."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, final

from polymask.disk import write_file

PROJECT = "polymask"
"""The project, or experiment, where the package's own environment variable names none."""


def identity(folder: Path | None, package: str) -> str | None:
    """Which of a package's runs an earlier process of this folder told; None: none did.

    >>> identity(None, "wandb")
    """
    path = None if folder is None else folder / f"{package}.id"
    return path.read_text().strip() if path is not None and path.exists() else None


def remember(folder: Path | None, package: str, run: str) -> None:
    """Write down which run it is, so that the same command goes on in it."""
    if folder is not None:
        write_file(folder / f"{package}.id", f"{run}\n".encode())


@final
class Wandb:
    """A run of Weights & Biases; its own environment variables apply (WANDB_PROJECT, WANDB_MODE).

    Args:
        package: the module ``wandb``.
        folder: the run's folder.
    """

    def __init__(self, package: Any, folder: Path | None) -> None:
        old = identity(folder, "wandb")
        self._run = package.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=None if folder is None else folder.resolve().name,
            dir=None if folder is None else str(folder),
            id=old,
            resume=None if old is None else "allow",
        )
        remember(folder, "wandb", self._run.id)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Note numbers; wandb's own step only ever rises, a phase's begins anew, so it is a number of its own."""
        self._run.log({**metrics, "epoch": step})

    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Note how the run is configured."""
        self._run.config.update(dict(_flat(params)), allow_val_change=True)

    def save(self) -> None:
        """Nothing: wandb sends what it is told by itself."""

    def finalize(self, status: str) -> None:
        """End the run."""
        self._run.finish(exit_code=0 if status == "success" else 1)


@final
class MLflow:
    """A run of MLflow; its own environment variables apply (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME).

    Args:
        package: the module ``mlflow``.
        folder: the run's folder.
    """

    def __init__(self, package: Any, folder: Path | None) -> None:
        self._client, self._id = package.MlflowClient(), identity(folder, "mlflow")
        self._new = self._id is None
        if self._id is not None:
            self._client.update_run(self._id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if known is None else known.experiment_id
        run = self._client.create_run(experiment, run_name=None if folder is None else folder.resolve().name)
        self._id = run.info.run_id
        remember(folder, "mlflow", run.info.run_id)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Note numbers; what MLflow allows in no name becomes "_"."""
        for name, value in metrics.items():
            self._client.log_metric(self._id, re.sub(r"[^\w\-. /:]", "_", name), float(value), step=step)

    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Note how the run is configured, once: MLflow refuses to change it."""
        for name, value in _flat(params) if self._new else ():
            self._client.log_param(self._id, name, str(value)[:500])

    def save(self) -> None:
        """Nothing: MLflow writes at once."""

    def finalize(self, status: str) -> None:
        """End the run."""
        self._client.set_terminated(self._id, "FINISHED" if status == "success" else "FAILED")


ADAPTERS: dict[str, Callable[[Any, Path | None], Wandb | MLflow]] = {"wandb": Wandb, "mlflow": MLflow}
"""Name of the package, and of its extra -> its logger."""


def _flat(params: Mapping[str, Any] | Namespace, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number, word or list of a nested configuration under its dotted name."""
    for key, value in (vars(params) if isinstance(params, Namespace) else params).items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from _flat(value, name)
        else:
            yield name, value
