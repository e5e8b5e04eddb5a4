"""What a run keeps beside its bank to tell its tasks apart: a file a task, with the digest of the record it is of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from polymask.disk import write_file
from polymask.inference.known import Calibration
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
    """

    digest: bytes
    statistics: Statistics | None = None
    values: Mapping[tuple[str, str, int], Tensor] = field(default_factory=dict)

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
    made, tensors = evidence.statistics, {}
    about: dict[str, object] = {"task": task, "digest": evidence.digest.hex()}
    if made is not None:
        tensors = {part: getattr(made, part) for part in PARTS}
        about |= {"dims": made.dims, "seed": made.seed, "head": made.head}
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
    made, digest = None, bytes.fromhex(about["digest"])
    if "means" in tensors:
        means, factor, scales = (tensors.pop(part) for part in PARTS)
        made = Statistics(means, factor, scales, about["dims"], about["seed"], about["head"], digest)
    keys = {name: name.split(" ") for name in tensors}
    return Evidence(digest, made, {(way, by, int(rows)): tensors[name] for name, (way, by, rows) in keys.items()})


def statistics_in(folder: Path, records: Mapping[str, TaskRecord]) -> dict[str, Statistics]:
    """The statistics of tasks that a run's folder keeps, also of an earlier record, which ``Inference`` refuses.

    Raises:
        ValueError: if a file is cut short or changed.
    """
    found = {task: read_evidence(folder, task) for task in records}
    return {task: kept.statistics for task, kept in found.items() if kept is not None and kept.statistics is not None}


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
