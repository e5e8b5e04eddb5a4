"""What a bank says of a record, as json and tensors, and back; and the planes of owners that masks share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from polymask.bank.store import DamagedBank, as_json, digest_of, hash_of
from polymask.parts.joined import JOINED, join, part
from polymask.parts.narrow import narrow, widen
from polymask.parts.pack import Packed, owners, pack, unpack
from polymask.parts.sparse import from_tensors, to_tensors
from polymask.task import Meta, TaskRecord

Entry = dict[str, Any]
Tensors = Mapping[str, Tensor]
Codes = tuple[int, int]
"""The smallest and the largest code that a mask on a plane of owners reads."""
_PARTS = ("index", "bits", "value")
_META = [field.name for field in fields(Meta) if field.name != "task"]


def to_entry(record: TaskRecord) -> tuple[Entry, dict[str, Tensor]]:
    """A record as a json entry and the tensors of its file; what lies in a shared plane is named by its codes alone.

    Raises:
        ValueError: if the meta data are no JSON.
    """
    task = record.meta.task
    tensors: dict[str, Tensor] = {}
    for name, value in record.private.items():
        tensors |= narrow(f"private/{name}", value, record.meta.private_bits)
    masks, payloads = _masks(record)
    tensors |= join(payloads)
    deltas: dict[str, Any] = {}
    for name, sparse in record.deltas.items():
        deltas[name], kept = to_tensors(sparse)
        if sparse.local is not None:
            local, shared = to_tensors(sparse.local)
            deltas[name]["local"] = {**local, "file": digest_of(shared)}
        elif deltas[name] == {"shape": list(sparse.shape), "codec": "index"}:
            deltas[name] = list(sparse.shape)  # as every version has written it
        tensors |= {f"delta/{name}/{part}": value for part, value in kept.items()}
    entry: Entry = {
        "task": task,
        "meta": as_json(_said(record.meta), f"meta data of task {task!r}"),
        "masks": masks,
        "deltas": deltas,
        "private": list(record.private),
        "reads": dict(record.reads),
    }
    return entry, tensors


def _masks(record: TaskRecord) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What an entry says of masks, and the payloads of those that lie in its own file."""
    masks: dict[str, Any] = {}
    payloads = {name: packed.payload for name, packed in record.masks.items() if packed.codec != "owners"}
    joined = JOINED in join(payloads)
    for name, packed in record.masks.items():
        masks[name] = {"codec": packed.codec, "level": packed.level, "shape": list(packed.shape)}
        if name not in payloads:
            masks[name]["least"] = packed.least
        else:
            masks[name] |= {"bits": packed.bits} | ({"plane": list(packed.plane)} if packed.plane else {})
            masks[name] |= {"bytes": packed.nbytes} if joined else {}
    return masks, payloads


def _said(meta: Meta) -> dict[str, Any]:
    """What an entry says of a record; of the width of its own tensors only where that is less than theirs."""
    return {key: getattr(meta, key) for key in _META if key != "private_bits" or meta.private_bits != 32}


def shared_files(record: TaskRecord) -> dict[str, dict[str, Tensor]]:
    """The files of what a record's corrections share with those of others: digest -> tensors."""
    kept = [to_tensors(sparse.local)[1] for sparse in record.deltas.values() if sparse.local is not None]
    return {digest_of(tensors): tensors for tensors in kept}


def shared_digests(entry: Entry) -> list[str]:
    """The digests of the files that an entry's corrections share with those of others."""
    return [one["local"]["file"] for one in entry["deltas"].values() if isinstance(one, dict) and "local" in one]


def from_entry(
    entry: Entry, tensors: Tensors, planes: Mapping[str, Packed], shared: Mapping[str, Tensors]
) -> TaskRecord:
    """The record of an entry, its file's tensors, the shared planes and the files of shared corrections."""
    own = [name for name, mask in entry["masks"].items() if mask["codec"] != "owners"]
    payloads = part(tensors, own, {name: entry["masks"][name].get("bytes", 0) for name in own})
    masks = {}
    for name, mask in entry["masks"].items():
        if mask["codec"] == "owners":
            masks[name] = _view(planes[name], mask)
        else:
            plane = tuple(mask["plane"]) if "plane" in mask else None
            shape, bits, level = tuple(mask["shape"]), mask["bits"], mask["level"]
            masks[name] = Packed(mask["codec"], shape, payloads[name], bits, level, plane=plane)
    deltas = {}
    for name, about in entry["deltas"].items():
        about = {"shape": about, "codec": "index"} if isinstance(about, list) else about
        kept = {part: tensors[key] for part in _PARTS if (key := f"delta/{name}/{part}") in tensors}
        local = about.get("local")
        deltas[name] = from_tensors(about, kept, local and from_tensors(local, shared[local["file"]]))
    meta = {**entry["meta"], "labels": tuple(entry["meta"]["labels"])}
    widened = widen({key: value for key, value in tensors.items() if "private/" in key})
    private = {name: widened[f"private/{name}"] for name in entry["private"]}
    return TaskRecord(masks, deltas, private, dict(entry["reads"]), Meta(task=entry["task"], **meta))


def _view(plane: Packed, mask: Mapping[str, Any]) -> Packed:
    """The mask of an entry on the plane that it shares, which may have grown since."""
    shape = tuple(mask.get("shape", plane.shape))
    wide = None if shape == plane.shape else plane.shape
    return replace(plane, shape=shape, plane=wide, level=mask["level"], least=mask["least"])


def seal(entry: Entry) -> Entry:
    """The entry with the hash of all that makes its record: the version under which a server may quote it."""
    return {**entry, "digest": _identity(entry)}


def check(entry: Entry) -> None:
    """Raise a ``DamagedBank`` if an entry is not what was sealed."""
    if (found := _identity(entry)) != entry["digest"]:
        raise DamagedBank(
            f"expected the record of task {entry['task']!r} to have the hash {entry['digest']}, found {found}: it was "
            "changed, restore the bank from a copy"
        )


def _identity(entry: Entry) -> str:
    # The probes are findings about the record, made on one machine, and no part of it.
    others = ("digest", "probe", "learned", "file")
    return hash_of(json.dumps({key: value for key, value in entry.items() if key not in others}))


def same_content(a: TaskRecord, b: TaskRecord) -> bool:
    """Whether two records say the same, however their masks are packed."""
    (one, tensors), (other, others) = (to_entry(_in_bits(record)) for record in (a, b))
    return one == other and digest_of(tensors) == digest_of(others)


def _in_bits(record: TaskRecord) -> TaskRecord:
    views = {name: pack(unpack(packed)) for name, packed in record.masks.items() if packed.codec == "owners"}
    return replace(record, masks={**record.masks, **views})


def merge_planes(
    planes: Mapping[str, Packed], entries: Sequence[Entry], given: Sequence[TaskRecord]
) -> dict[str, Packed]:
    """The newest plane of owners of every tensor, after a check that all masks read from it are what they were.

    Args:
        planes: tensor name -> plane, as committed.
        entries: the committed entries that stay as they are.
        given: the records of this commit, in order of learning: of two planes of one tensor the later one is kept.

    Raises:
        ValueError: if a mask would change.
    """
    merged = dict(planes)
    views: list[tuple[str, Packed, dict[Codes, str]]] = [
        (name, plane, {_codes(e["masks"][name]): e["task"] for e in entries if _is_owned(e, name)})
        for name, plane in planes.items()
    ]
    for record in given:
        for name, packed in record.masks.items():
            if packed.codec == "owners":
                merged[name] = replace(packed, shape=packed.plane or packed.shape, plane=None)
                views.append((name, merged[name], {(packed.least, packed.level): record.meta.task}))
    for name, plane, tasks in views:
        changed = _first_change(plane, merged[name], sorted(tasks))
        if changed is not None:
            raise ValueError(
                f"expected the new plane of owners of {name!r} to leave the mask of task {tasks[changed]!r} (codes "
                f"{changed[0]} to {changed[1]}) as it was, found another: give that task's record as well, with a "
                "higher revision"
            )
    used = {name for e in entries for name in e["masks"] if _is_owned(e, name)}
    return {
        name: plane
        for name, plane in merged.items()
        if name in used or any(name in r.masks and r.masks[name].codec == "owners" for r in given)
    }


def _is_owned(entry: Entry, name: str) -> bool:
    return name in entry["masks"] and entry["masks"][name]["codec"] == "owners"


def _codes(mask: Mapping[str, Any]) -> Codes:
    return mask["least"], mask["level"]


def _first_change(old: Packed, new: Packed, views: Sequence[Codes]) -> Codes | None:
    """The first of some views whose mask ``least <= code <= level`` differs between two planes.

    One comparison for all views, not one a task: of every pair of codes that an entry went from and to.
    """
    if not views or (old.payload is new.payload and old.bits == new.bits):
        return None
    if len(old.shape) != len(new.shape) or any(a > b for a, b in zip(old.shape, new.shape, strict=True)):
        return views[0]
    # A plane that has grown holds the older one as its leading block.
    block = tuple(slice(size) for size in old.shape)
    a, b = (owners(plane)[block].flatten() for plane in (old, new))
    moved = a != b
    changed = 256 * a[moved].int() + b[moved].int()
    pairs = torch.bincount(changed, minlength=256 * 256).nonzero().flatten()
    least, level = torch.tensor(views).unbind(1)
    code = torch.arange(256)[:, None]
    read = (code >= least) & (code <= level) & (code > 0)
    found = (read[pairs // 256] != read[pairs % 256]).any(0).nonzero()
    return views[int(found[0])] if len(found) else None
