"""What was found last, by key: enough to find nothing twice in a row, bounded however long a process runs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """The last few values, by key; the one that was not asked for longest is forgotten.

    Args:
        most: how many are kept.

    >>> recent = Recent[int](2)
    >>> for key in ("a", "b", None, "c"):
    ...     recent.keep(key, 1)
    >>> [recent.get(key) for key in ("a", "b", None, "c")]
    [None, 1, None, 1]
    """

    def __init__(self, most: int = 32) -> None:
        self._most = most
        self._found: OrderedDict[Hashable, V] = OrderedDict()

    def get(self, key: Hashable | None) -> V | None:
        """What was kept under a key; None if nothing was, and of no key."""
        if key in self._found:
            self._found.move_to_end(key)
        return self._found.get(key)

    def keep(self, key: Hashable | None, value: V) -> None:
        """Keep a value; without a key nothing happens."""
        if key is None:
            return
        self._found[key] = value
        self._found.move_to_end(key)
        while len(self._found) > self._most:
            self._found.popitem(last=False)

    def __len__(self) -> int:
        return len(self._found)

    def clear(self) -> None:
        """Forget all."""
        self._found.clear()
