"""What finished tasks read of a bank's base, for all tasks in one file; and the tensors that no record brings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from polymask.bank.store import read_state, write_tensors
from polymask.held import Held, Part, add_read, digest_again, proof
from polymask.parts.nest import flatten_state
from polymask.parts.pack import unpack
from polymask.sites.table import Sites
from polymask.task import TaskRecord, entries, fingerprint


@dataclass(frozen=True)
class Union:
    """What is compared before a commit.

    Args:
        read: base tensor -> what tasks of exact methods read of it.
        loose: tensor without a role (a buffer that no state dict holds) -> its hash.
    """

    read: Held = field(default_factory=dict)
    loose: Mapping[str, str] = field(default_factory=dict)


def read_union(folder: Path, digest: str) -> Union:
    """The union of a digest.

    Raises:
        DamagedBank: if its file is missing, cut short or changed.
    """
    state = read_state(folder, digest)
    found = {
        name: Part(tuple(part["shape"]), part["dtype"], part["bits"], part["digest"])
        for name, part in state["read"].items()
    }
    return Union(found, state["loose"])


def write_union(folder: Path, union: Union) -> str | None:
    """Write a union; its digest, None if there is nothing in it."""
    if not union.read and not union.loose:
        return None
    parts: dict[str, Any] = {
        name: {"shape": list(part.shape), "dtype": part.dtype, "bits": part.bits, "digest": part.digest}
        for name, part in union.read.items()
    }
    return write_tensors(folder, flatten_state({"read": parts, "loose": dict(union.loose)}))


def entries_of(sites: Sites, record: TaskRecord) -> dict[str, Tensor | None]:
    """The entries of the base that a record reads; see ``task.entries``."""
    return entries(sites, {name: unpack(packed) for name, packed in record.masks.items()})


def with_reads_of(read: Held, sites: Sites, records: Iterable[TaskRecord]) -> Held:
    """A union and what more records read, those of exact methods."""
    for record in records:
        if record.meta.exact is True:
            read = add_read(read, sites, entries_of(sites, record), proof)
    return read


def union_of(sites: Sites, records: Iterable[TaskRecord]) -> Held:
    """The union of all records, those of exact methods; every digest is taken once, at the end."""
    read: Held = {}
    for record in records:
        if record.meta.exact is True:
            read = add_read(read, sites, entries_of(sites, record), lambda head, data: "")
    return digest_again(read, sites, proof)


def loose_of(sites: Sites) -> dict[str, str]:
    """The hashes of the model's tensors that have no role; they may differ from one process to the next."""
    spots = {name: spots[0] for name, spots in sites._places.items() if name not in sites.roles}
    found = {name: getattr(spot.module, spot.leaf, None) for name, spot in spots.items()}
    return {name: fingerprint(value) for name, value in found.items() if isinstance(value, Tensor)}
