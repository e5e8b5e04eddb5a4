"""What a bank weighs on disk, part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polymask.bank import store
from polymask.bank.base import files_of_base
from polymask.bank.reader import Reader
from polymask.bank.release import proofs_of, tensors_of


def sizes_of(reader: Reader) -> dict[str, Any]:
    """The bytes of a bank's files, as ``Bank.sizes`` says; a file that several share is counted where it came first.

    Of a task whose entry is damaged, what it refers to is not known and not counted.

    Args:
        reader: the bank.
    """
    seen: set[str] = set()

    def size(digest: str | None) -> int:
        if digest is None or digest in seen:
            return 0
        seen.add(digest)
        return weigh(store.path_of(reader.path, digest))

    def weigh(path: Path) -> int:
        # A file is named by what it holds, so that it weighs the same for ever.
        reader.weights[path.name] = reader.weights.get(path.name) or store.size_of(path)
        return reader.weights[path.name]

    about, (entries, _) = reader.head.about, reader.readable()
    added, files = about["owners"]["added"], {line.entry for line in reader.head.records.values()}
    own = {task: sum(map(size, tensors_of(entries[task]))) if task in entries else 0 for task in reader.head.records}
    return {
        "backbone": sum(map(size, files_of_base(about["base"]))),
        "per_task": {task: count + added.get(task, 0) for task, count in own.items()},
        "held": size(about["held"]),
        "learner": size(about["learner"]),
        "probe": size((about["probe"] or {}).get("file"))
        + sum(size(proof["logits"]) for entry in entries.values() for proof in proofs_of(entry)),
        "json": store.size_of(reader.path / store.COMMIT)
        + sum(weigh(store.entry_path(reader.path, file)) for file in files),
    }
