"""The masks, corrections and private tensors of many tasks, tensor by tensor: what a mixture is the mean of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from polymask.inference.planes import Planes
from polymask.inference.reals import Reals
from polymask.parts.pack import Packed, unpack
from polymask.parts.sparse import Sparse, fingerprint_of
from polymask.sites.table import HEAD, Sites
from polymask.task import TaskRecord, check_fits, fingerprint, unit_masks

BITS = ("bits", "owners")
"""Codecs whose masks are bits."""


@dataclass
class Stacks:
    """What the tasks of a network have, in one order; a task that is added or removed costs one task.

    Args:
        sites: the attached model that the tasks fit.
        tasks: their names.
        masks: tensor or module name -> the masks of all tasks; ones where a task has none.
        deltas: tensor name -> their corrections; zeros where a task has none.
        private: tensor name -> their own tensors.
    """

    sites: Sites
    tasks: list[str] = field(default_factory=list)
    masks: dict[str, Planes | Reals] = field(default_factory=dict)
    deltas: dict[str, Reals] = field(default_factory=dict)
    private: dict[str, Reals] = field(default_factory=dict)
    _digests: dict[str, bytes] = field(default_factory=dict)

    def follow(self, records: Mapping[str, TaskRecord]) -> bool:
        """Forget the tasks that are gone, take in new ones and those that were reissued; whether anything changed.

        Raises:
            ValueError: for a task that cannot be averaged with the others.
        """
        found = {task: digest_of(record) for task, record in records.items()}
        gone = [task for task in self.tasks if self._digests[task] != found.get(task)]
        for task in gone:
            self._forget(task)
        new = [task for task in records if task not in self._digests]
        for task in new:
            self._take_in(records[task])
            self.tasks.append(task)
            self._digests[task] = found[task]
        return bool(gone or new)

    def _forget(self, task: str) -> None:
        place = self.tasks.index(task)
        for holder in (*self.masks.values(), *self.deltas.values(), *self.private.values()):
            holder.remove(place)
        del self.tasks[place], self._digests[task]

    def _take_in(self, record: TaskRecord) -> None:
        if wrong := self._unlike(record):
            raise ValueError(
                f"expected tasks that can be mixed, found that {record.meta.task!r} has {wrong}: ask by "
                "'every-mask' or 'statistics' which task it is"
            )
        units, count = unit_masks(self.sites, record), len(self.tasks)
        for name in self.sites.weights:
            packed, shape = record.masks.get(name), self.sites.tensor(name).shape
            if self._is_bits(name, packed):
                mask = torch.ones(shape, dtype=torch.bool) if packed is None else unpack(packed)
                holder = self.masks.setdefault(name, Planes(shape))
                assert isinstance(holder, Planes)
                holder.append(mask)
            else:
                reals = self.masks.setdefault(name, Reals())
                assert isinstance(reals, Reals)
                reals.append(torch.ones(shape) if packed is None else packed)
        for path, mask in units.items():
            rows = self.masks.setdefault(path, Reals())
            assert isinstance(rows, Reals)
            rows.append(mask.float())
        for name in {**self.deltas, **record.deltas}:
            none = Sparse(tuple(self.sites.tensor(name).shape), torch.empty(0, dtype=torch.int32), torch.empty(0))
            deltas = self.deltas.setdefault(name, Reals([none] * count))
            deltas.append(record.deltas.get(name, none))
        for name, value in record.private.items():
            self.private.setdefault(name, Reals()).append(value)

    def _is_bits(self, name: str, packed: Packed | None) -> bool:
        if name in self.masks:
            return isinstance(self.masks[name], Planes)
        return packed is None or packed.codec in BITS

    def _unlike(self, record: TaskRecord) -> str:
        """What keeps a task from being averaged with the others, in words; empty if nothing does."""
        check_fits(self.sites, record)
        own = [name for name in record.private if self.sites.roles[name].why == HEAD]
        if own:
            return f"a head of its own ({own[0]!r}), whose outputs are not those of another task"
        for name, packed in record.masks.items():
            if name in self.sites.weights and packed.shape != tuple(self.sites.tensor(name).shape):
                return f"a smaller {name!r} than the network has by now"
            if name in self.sites.weights and self._is_bits(name, packed) != (packed.codec in BITS):
                return f"a mask of {name!r} of another kind ({packed.codec!r})"
        for path in self.sites.units:
            if self.tasks and (path in self.masks) != (path in unit_masks(self.sites, record)):
                return f"masks on other units ({path!r})"
        if self.tasks and {*self.private} != {*record.private}:
            return f"other tensors of its own ({', '.join({*self.private} ^ {*record.private})})"
        return ""


def digest_of(record: TaskRecord) -> bytes:
    """What tells a record from another one of its name: a digest of its masks, corrections and private tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for name, packed in record.masks.items():
        digest.update(f"{name}{packed.codec}{packed.shape}{packed.level}{packed.least}".encode())
        digest.update(packed.payload.contiguous().numpy().data)
    for name, sparse in record.deltas.items():
        digest.update(name.encode())
        digest.update(fingerprint_of(sparse))
    for name, value in record.private.items():
        digest.update(f"{name}{fingerprint(value)}".encode())
    return digest.digest()
