"""What a run keeps beside its bank to tell its tasks apart: a file a task, with the digest of the record it is of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from polymask.disk import write_file
from polymask.inference.known import Calibration
from polymask.inference.shortlist import FEW, MANY, Shortlist
from polymask.inference.stacks import digest_of
from polymask.inference.statistics import Statistics
from polymask.task import TaskRecord

PARTS = ("means", "factor", "scales")


@dataclass(frozen=True)
class Evidence:
    """What tells one task from others.

    Args:
        digest: of the record that all of it was measured under, ``stacks.digest_of``.
        statistics: those of its features, if it has any.
        values: (way, by, rows) -> what its held-out requests came to, see ``Calibration.values``.
        shared: its statistics in the features of another task, which all tasks have for a ``Shortlist``.
        reference: that task; it has no others than its own.
    """

    digest: bytes
    statistics: Statistics | None = None
    values: Mapping[tuple[str, str, int], Tensor] = field(default_factory=dict)
    shared: Statistics | None = None
    reference: str = ""

    def under_reference(self, task: str) -> Statistics | None:
        """The statistics of a task in the reference's features; those of the reference are its own."""
        return self.statistics if task == self.reference else self.shared

    def is_of(self, record: TaskRecord) -> bool:
        """Whether it was measured under this very record."""
        return self.digest == digest_of(record)


def path_of(folder: Path, task: str) -> Path:
    """The file of a task, in ``inference/`` of a run's folder; any name makes a safe one.

    >>> path_of(Path("runs/a"), "digits/0-1").as_posix()
    'runs/a/inference/261013547b7c2f2f.safetensors'
    """
    return folder / "inference" / f"{hashlib.blake2b(task.encode(), digest_size=8).hexdigest()}.safetensors"


def write_evidence(folder: Path, task: str, evidence: Evidence) -> None:
    """Replace the file of a task, whole or not at all."""
    about: dict[str, object] = {"task": task, "digest": evidence.digest.hex()}
    tensors = _put(about, "", evidence.statistics) | _put(about, "shared ", evidence.shared)
    about |= {"reference": evidence.reference}
    about |= {} if evidence.shared is None else {"shared digest": evidence.shared.digest.hex()}
    tensors |= {" ".join(map(str, key)): values for key, values in evidence.values.items()}
    path = path_of(folder, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under one key, as safetensors writes several in no fixed order.
    write_file(path, save(tensors, {"about": json.dumps({**about, "proof": _proof(about, tensors)})}))


def read_evidence(folder: Path, task: str) -> Evidence | None:
    """What is kept of a task beside the bank in a run's folder; None: nothing.

    Raises:
        ValueError: if the file is cut short or changed.
    """
    path = path_of(folder, task)
    if not path.is_file():
        return None
    data = path.read_bytes()
    try:
        size = int.from_bytes(data[:8], "little")
        about, tensors = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["about"]), load(data)
        if about.pop("proof") != _proof(about, tensors) or about["task"] != task:
            raise ValueError("its proof is of something else")
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(
            f"expected {path} as a run wrote it, found it cut short or changed ({error}): delete it; the same command "
            f"that learned task {task!r} measures it anew"
        ) from error
    digest = bytes.fromhex(about["digest"])
    made = _taken(about, "", tensors, digest)
    shared = _taken(about, "shared ", tensors, bytes.fromhex(about.get("shared digest", "")))
    keys = {name: name.split(" ") for name in tensors}
    values = {(way, by, int(rows)): tensors[name] for name, (way, by, rows) in keys.items()}
    return Evidence(digest, made, values, shared, about.get("reference", ""))


def _put(about: dict[str, object], prefix: str, made: Statistics | None) -> dict[str, Tensor]:
    """The tensors of statistics by name, with what else they are noted in ``about``."""
    if made is None:
        return {}
    about |= {f"{prefix}dims": made.dims, f"{prefix}seed": made.seed, f"{prefix}head": made.head}
    return {prefix + part: getattr(made, part) for part in PARTS}


def _taken(about: Mapping[str, Any], prefix: str, tensors: dict[str, Tensor], digest: bytes) -> Statistics | None:
    """What ``_put`` wrote, taken out of the tensors."""
    if f"{prefix}means" not in tensors:
        return None
    means, factor, scales = (tensors.pop(prefix + part) for part in PARTS)
    dims, seed, head = (about[prefix + key] for key in ("dims", "seed", "head"))
    return Statistics(means, factor, scales, dims, seed, head, digest)


def statistics_in(folder: Path, records: Mapping[str, TaskRecord]) -> dict[str, Statistics]:
    """The statistics of tasks that a run's folder keeps, also of an earlier record, which ``Inference`` refuses.

    Raises:
        ValueError: if a file is cut short or changed.
    """
    found = {task: read_evidence(folder, task) for task in records}
    return {task: kept.statistics for task, kept in found.items() if kept is not None and kept.statistics is not None}


def shortlist_in(
    folder: Path, records: Mapping[str, TaskRecord], count: int = FEW, many: int = MANY
) -> Shortlist | None:
    """The shortlist that a run's folder keeps over all tasks.

    Args:
        folder: the run's.
        records: of the tasks that there are.
        count: how many tasks it names for each input.
        many: how many tasks there are at most of which it names none.

    Returns:
        None where there are no more tasks than that, or one was not measured under the reference as it is now.

    Raises:
        ValueError: if a file is cut short or changed.
    """
    if len(records) <= many:
        return None
    found = {task: read_evidence(folder, task) for task in records}
    known = {task: kept.under_reference(task) for task, kept in found.items() if kept and kept.is_of(records[task])}
    references = {kept.reference for kept in found.values() if kept is not None}
    every = {task: one for task, one in known.items() if one is not None}
    if len(references) != 1 or len({one.digest for one in every.values()}) != 1:
        return None
    made = Shortlist(references.pop(), every, count)
    return made if made.fits(records) else None


def calibration_in(
    folder: Path, records: Mapping[str, TaskRecord], way: str, by: str, rows: int = 1, reject: float = 0.05
) -> Calibration:
    """The calibration of a way of asking that a run's folder keeps: what was measured of tasks as they are now.

    Args:
        folder: the run's.
        records: of the tasks that there are.
        way: how is asked.
        by: what tells the right mask.
        rows: how many inputs are asked together.
        reject: the share of requests of known tasks that may be refused.

    Raises:
        ValueError: if a file is cut short or changed.
    """
    found = {task: read_evidence(folder, task) for task in records}
    values = {
        task: kept.values[way, by, rows]
        for task, kept in found.items()
        if kept is not None and (way, by, rows) in kept.values and kept.is_of(records[task])
    }
    return Calibration(way, by, rows, values, reject)


def _proof(about: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()
