"""What the bytes that a task adds are: its head, norms, masks, corrections, and the names of its tensors."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from polymask.bank.entry import Entry
from polymask.bank.reader import Reader
from polymask.bank.release import tensors_of
from polymask.bank.store import path_of
from polymask.report.labels import listed
from polymask.sites.table import HEAD

LOOKED_AT = 64
"""Tasks up to which each is looked at; of more, as many that lie evenly apart."""

PARTS = ("its head", "norms", "other tensors of its own", "masks", "corrections", "names")


def parts_in_words(reader: Reader, entries: Mapping[str, Entry]) -> str:
    """Which share of the bytes of a mean task each part has, as a sentence; empty where nothing can be read."""
    tasks = list(entries)
    step = -(-len(tasks) // LOOKED_AT) or 1
    found = Counter[str]()
    for task in tasks[::step]:
        with suppress(OSError, ValueError, KeyError):  # of a damaged bank what is there
            found.update(parts_of(reader, entries[task]))
    total = found.total()
    shares = [f"{part} {found[part] / total:.0%}" for part in PARTS if total and found[part] / total >= 0.005]
    return f" Of that are {listed(shares)}." if shares else ""


def parts_of(reader: Reader, entry: Entry) -> Counter[str]:
    """The bytes of a task by what they are; files that it shares with others count for each.

    Args:
        reader: the bank.
        entry: the task's.
    """
    about = reader.head.about
    why = {line["name"]: line["why"] for line in about["sites"]}
    found = Counter({"masks": about["owners"]["added"].get(entry["task"], 0)})
    for digest in tensors_of(entry):
        path = path_of(reader.path, digest)
        sizes = sizes_in(path)
        for key, size in sizes.items():
            found[_part(key, why)] += size
        found["names"] += path.stat().st_size - sum(sizes.values())
    return found


def sizes_in(path: Path) -> dict[str, int]:
    """The bytes of every tensor of a safetensors file, of which the header alone is read."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    ends: Iterable[tuple[str, list[int]]] = (
        (name, about["data_offsets"]) for name, about in header.items() if name != "__metadata__"
    )
    return {name: end - start for name, (start, end) in ends}


def _part(key: str, why: Mapping[str, str]) -> str:
    before, private, name = key.partition("private/")
    if not private:
        return "masks" if before.startswith("mask") else "corrections"
    reason = why.get(name, "")
    return "its head" if reason == HEAD else "norms" if "norm" in reason or "statistic" in reason else PARTS[2]
