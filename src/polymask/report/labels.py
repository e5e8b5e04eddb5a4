"""Names and numbers as labels: short, printable, in words that people use."""

from __future__ import annotations

import math
from collections.abc import Sequence

LONGEST = 18


def printable(name: str) -> str:
    r"""A name with a mark in place of every character that no page can show: controls, half characters.

    >>> printable("a\x00b\ud800 c"), printable("<b> é 数")
    ('a�b� c', '<b> é 数')
    """
    return "".join(one if one.isprintable() else "\ufffd" for one in name)


def shortened(name: str, longest: int = LONGEST) -> str:
    """A name of at most so many characters, its middle left out.

    >>> shortened("digits/0-1"), shortened("a-very-long-name/of-a-task", 12)
    ('digits/0-1', 'a-very…-task')
    """
    name = printable(name)
    if len(name) <= longest:
        return name
    return f"{name[: longest // 2]}…{name[-(longest - longest // 2 - 1) :]}"


def without_shared_start(names: Sequence[str]) -> list[str]:
    """Names without the folder-like start that all of them have.

    >>> without_shared_start(["digits/0-1", "digits/2-3"]), without_shared_start(["a/b"])
    (['0-1', '2-3'], ['a/b'])
    """
    start = names[0].rpartition("/")[0] + "/" if names else ""
    shared = len(names) > 1 and start != "/" and all(one.startswith(start) and one != start for one in names)
    return [one.removeprefix(start) if shared else one for one in names]


def number(value: float | None, digits: int = 3) -> str:
    """A number with some significant digits; a dash where nothing is known.

    >>> number(0.97484), number(None), number(1234.5), number(0.0), number(2.5e-9)
    ('0.975', '–', '1,234', '0', '2.5e-09')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value + 0.0:.{digits}g}"
    return text.replace("-", "−") if "e" not in text else text


def listed(words: Sequence[str]) -> str:
    """Words in a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def counted(count: int, noun: str) -> str:
    """A count and its noun.

    >>> counted(1, "task"), counted(2500, "task")
    ('1 task', '2,500 tasks')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
