"""A run's folder: one process at a time, one configuration, files that are replaced whole or not at all."""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
import yaml

from polymask.bank.store import as_json, write_file
from polymask.run.config import NEUTRAL

_HELD: set[TextIO] = set()


def _let_go() -> None:
    for handle in _HELD:
        handle.close()


# A forked child shares the lock: a reader of data that outlives a killed run for a moment would keep its folder.
os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the lock dies with it.

    Raises:
        RuntimeError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(
                f"expected {folder} to be free, found another run writing into it: wait for it, or choose another --out"
            ) from error
        _HELD.add(handle)
        try:
            yield
        finally:
            _HELD.discard(handle)


def check(folder: Path, config: Mapping[str, Any]) -> None:
    """Check that a folder holds a run of this configuration, or none; what is ``NEUTRAL`` may differ.

    Raises:
        ValueError: if it holds another one; the message names the differing keys.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return
    old, new = _flat(yaml.safe_load(path.read_text())), _flat(yaml.safe_load(_rendered(config)))
    differing = [key for key in {**old, **new} if key not in NEUTRAL and old.get(key) != new.get(key)]
    if differing:
        found = "; ".join(f"{key}: {old.get(key)} there, {new.get(key)} now" for key in differing)
        raise ValueError(
            f"expected {folder} to hold a run of this configuration, found another ({found}): "
            "use the same options, or another --out"
        )


def claim(folder: Path, config: Mapping[str, Any]) -> None:
    """Write a run's configuration, and remove what an interrupted write left."""
    for left in folder.glob(".*.tmp"):
        left.unlink(missing_ok=True)
    if not (folder / "config.yaml").exists():
        write_file(folder / "config.yaml", _rendered(config).encode())


def _rendered(config: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(as_json(dict(config), "the configuration"), sort_keys=False)
    return text


def _flat(config: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of a nested configuration under its dotted key."""
    if not isinstance(config, dict) or not config:
        return {path: config}
    return {
        name: value
        for key, below in config.items()
        for name, value in _flat(below, f"{path}.{key}" if path else str(key)).items()
    }


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Replace ``results.json``."""
    write_file(folder / "results.json", (json.dumps(results, indent=2) + "\n").encode())


def read_results(folder: Path) -> dict[str, Any]:
    """What ``results.json`` says so far; empty if there is none."""
    path = folder / "results.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint of the open phase."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_file(folder / "checkpoint.pt", buffer.getvalue())


def load_checkpoint(folder: Path, map_location: torch.device) -> dict[str, Any] | None:
    """The checkpoint of the open phase, read without unpickling objects; None if there is none."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return None
    found: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    return found


def drop_checkpoint(folder: Path) -> None:
    """Remove the checkpoint: its phase is over."""
    (folder / "checkpoint.pt").unlink(missing_ok=True)
