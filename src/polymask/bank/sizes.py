"""What a bank weighs on disk, part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polymask.bank import store
from polymask.bank.commit import State


def sizes_of(path: Path, state: State) -> dict[str, Any]:
    """The bytes of a bank's files, as ``Bank.sizes`` says; a file that several share is counted where it came first."""
    seen: set[str] = set()

    def size(digest: str | None) -> int:
        if digest is None or digest in seen:
            return 0
        seen.add(digest)
        return store.size_of(store.path_of(path, digest))

    records, added = state["records"], state["owners"]["added"]
    entries = {entry["file"] for entry in records}
    return {
        "backbone": size(state["base"]["digest"]),
        "per_task": {entry["task"]: size(entry["tensors"]) + added.get(entry["task"], 0) for entry in records},
        "learner": size(state["learner"]),
        "probe": size((state["probe"] or {}).get("file"))
        + sum(size(entry["probe"]["logits"]) for entry in records if entry["probe"]),
        "json": store.size_of(path / store.COMMIT)
        + sum(store.size_of(store.entry_path(path, file)) for file in entries),
    }
