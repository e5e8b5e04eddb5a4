"""A file on disk: whole or not there."""

from __future__ import annotations

import os
from pathlib import Path


def write_file(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, also when the power fails; an older one stays until then.

    Args:
        path: the file.
        data: all that it shall hold.

    Raises:
        OSError: if the disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        # What lies under that name was left by a process that died, or leads to a file of somebody else's.
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise OSError(
            error.errno,
            f"expected to write {len(data)} bytes to {path}, found: {error.strerror or error}. What was there before "
            "is still there: make room (or let this user write there) and do it again",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Make a rename last; Windows cannot open a folder, and needs no such call."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
