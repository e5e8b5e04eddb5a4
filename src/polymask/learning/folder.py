"""A run's folder: one process at a time, one configuration, files that are replaced whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from polymask.bank.bank import Bank
from polymask.bank.store import as_json
from polymask.builder import OLD_DEFAULTS
from polymask.disk import write_file
from polymask.learning.config import BEFORE, LEFT_OPEN, NEUTRAL
from polymask.lock import locked as hold

WAY = "the finished tasks in bank/ are whole: delete checkpoint.pt, and the same command learns the open task anew"
"""How a run goes on whose open task cannot."""


@dataclass
class Place:
    """Where a run lies.

    Args:
        folder: the run's folder; None: nothing is written.
        bank: the bank in it, on the process that writes.
        about: what ``results.json`` says of the run besides figures.
    """

    folder: Path | None = None
    bank: Bank | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


class DamagedCheckpoint(ValueError):  # noqa: N818 - the name says what is wrong
    """The checkpoint of the open phase is not what was written, or is of another moment than the bank."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the lock dies with it.

    Raises:
        RuntimeError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"expected {folder} to be free, found another run writing into it: wait for it, or choose another --out"
    with hold(folder, 0, busy):
        yield


def read_config(path: Path) -> dict[str, Any]:
    """What a ``config.yaml`` says.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        found = str(error)
    if not isinstance(found, dict):
        what = " ".join(str(found or "nothing").split())
        raise ValueError(
            f"expected {path} to say how the run is configured, found it damaged ({what}): remove it, and the command "
            "that made the run writes it again"
        )
    return found


def check(folder: Path, config: Mapping[str, Any]) -> None:
    """Check that a folder holds a run of this configuration, or none; what is ``NEUTRAL`` may differ.

    Raises:
        ValueError: if it holds another one; the message names the differing keys.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return
    old, new = _flat(read_config(path)), _flat(yaml.safe_load(_rendered(config)))
    old = {f"options.{key}": value for key, value in BEFORE.get(old.get("method") or "", {}).items()} | old
    if net := OLD_DEFAULTS.get(old.get("model") or ""):
        said = {key: value for key, value in old.items() if key != "net"}  # that there are no arguments
        old = {f"net.{key}": value for key, value in net.items()} | said
    for key in LEFT_OPEN.get(old.get("method") or "", ()):
        if new.get(key) is None:
            old[key] = None
    differing = [key for key in {**old, **new} if key not in NEUTRAL and old.get(key) != new.get(key)]
    if 2 * len(new.keys() - old.keys()) > len(new):
        raise ValueError(
            f"expected {path} to say how the run is configured, found {len(old.keys() & new.keys())} of {len(new)} "
            "options: it is cut short. Remove it, and the command that made the run writes it again"
        )
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
    """What ``results.json`` says so far; empty if there is none.

    Raises:
        ValueError: if it is cut short or changed.
    """
    path = folder / "results.json"
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
    except ValueError as error:
        raise ValueError(
            f"expected JSON in {path}, found it cut short or changed ({error}): delete it, and the same command goes "
            "on; what was measured is in accuracy.csv, the finished tasks are in bank/"
        ) from error
    return found


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint of the open phase; its first line is a digest of the rest."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    data = buffer.getvalue()
    write_file(folder / "checkpoint.pt", _header(data) + data)


def load_checkpoint(folder: Path, map_location: torch.device) -> dict[str, Any] | None:
    """The checkpoint of the open phase, read without unpickling objects; None if there is none.

    Raises:
        DamagedCheckpoint: if a byte of it has changed, or it has no digest, as an older polymask wrote it.
    """
    path = folder / "checkpoint.pt"
    if not path.exists():
        return None
    header, line, data = path.read_bytes().partition(b"\n")
    if header + line != _header(data):
        raise DamagedCheckpoint(
            f"expected {path} as it was written, found it cut short, changed or without a digest; {WAY}"
        )
    found: dict[str, Any] = torch.load(io.BytesIO(data), map_location=map_location, weights_only=True)
    return found


def refuse_other_moment(folder: Path, what: str) -> DamagedCheckpoint:
    """The error of a checkpoint that is whole and disagrees with the bank beside it."""
    return DamagedCheckpoint(f"expected {folder / 'checkpoint.pt'} of the moment that bank/ holds, found {what}; {WAY}")


def _header(data: bytes) -> bytes:
    return f"polymask checkpoint {hashlib.blake2b(data, digest_size=16).hexdigest()}\n".encode()


def drop_checkpoint(folder: Path) -> None:
    """Remove the checkpoint: its phase is over."""
    (folder / "checkpoint.pt").unlink(missing_ok=True)
