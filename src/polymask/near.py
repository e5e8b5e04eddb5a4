"""What was probably meant by a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(found: str, names: Iterable[str]) -> str:
    """A question to append to an error, if a name is near.

    >>> nearest("pakcnet", ["packnet", "piggyback"]), nearest("zzz", ["packnet"])
    (': did you mean packnet?', '')
    """
    near = difflib.get_close_matches(found, list(names), 1, 0.65)
    return f": did you mean {near[0]}?" if near else ""
