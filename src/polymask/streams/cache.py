"""Decoded images and tokenised texts on disk: small tensors under a fingerprint of what they came from."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

VERSION = 1
"""Part of every fingerprint: another way of decoding takes another number."""


def cached_file(files: Sequence[Path], root: Path, *keys: object) -> Path | None:
    """Where the decoded form of these files lies, now or later; None if there are no files.

    It is under POLYMASK_CACHE, else ~/.cache/polymask, by a name that depends on the files' names below ``root``,
    sizes and times of change, and on ``keys``.
    """
    if not files:
        return None
    facts = [
        (file.as_posix().removeprefix(root.as_posix()), file.stat().st_size, file.stat().st_mtime_ns) for file in files
    ]
    return keyed_file("images", sorted(facts), [str(key) for key in keys])


def keyed_file(kind: str, *keys: object) -> Path:
    """Where something lies that depends on these keys alone, now or later."""
    name = hashlib.blake2b(json.dumps([VERSION, *keys]).encode(), digest_size=16).hexdigest()
    return Path(os.environ.get("POLYMASK_CACHE", "~/.cache/polymask")).expanduser() / kind / f"{name}.safetensors"


def read_cached(file: Path | None) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What ``write_cached`` wrote; None if there is nothing, or nothing that can be read."""
    if file is None or not file.is_file():
        return None
    try:
        with safe_open(str(file), framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118, it is no mapping
            return tensors, json.loads(stored.metadata()["json"])
    except (SafetensorError, OSError):
        return None


def write_cached(file: Path | None, tensors: dict[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write all or nothing; a cache that cannot be written is worth a warning only."""
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            part = Path(scratch) / file.name
            save_file(tensors, part, metadata={"json": json.dumps(facts)})
            with part.open("rb+") as written:
                os.fsync(written.fileno())
            part.replace(file)
    except OSError as error:
        warnings.warn(f"what was decoded is not kept, {file.parent} cannot be written: {error}", stacklevel=2)
