"""One writer at a time: a lock on a folder that dies with its process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"
WAIT = 60.0
"""Seconds to wait for another process that writes to a bank."""


@contextmanager
def locked(folder: Path, seconds: float, busy: str) -> Iterator[None]:
    """Hold a folder for this process; whatever ends the process frees it, and a forked child does not keep it.

    Args:
        folder: what is written to; must exist. The lock is the empty file ``.lock`` in it.
        seconds: how long to wait for another process.
        busy: what to say if it is not free by then.

    Raises:
        RuntimeError: if another process holds it.
        OSError: if the folder cannot be written to.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with locked(folder, 0, "expected a free folder"), locked(folder, 0, "expected a free folder"):
    ...     pass
    Traceback (most recent call last):
    RuntimeError: expected a free folder
    """
    lock = FileLock(folder / LOCK, timeout=seconds)
    try:
        lock.acquire()
    except Timeout as error:
        raise RuntimeError(busy) from error
    except OSError as error:
        raise OSError(
            error.errno,
            f"expected to take the lock {folder / LOCK}, found: {error.strerror or error}. Let this user write there",
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold a bank's folder; a commit of another process is waited for.

    Raises:
        RuntimeError: if that takes a minute.
    """
    busy = f"expected {folder} free within {WAIT:.0f} seconds, found another process writing: try again later"
    with locked(folder, WAIT, busy):
        yield
