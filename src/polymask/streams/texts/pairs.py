"""What a user gives as texts, one or many, plain or in pairs, as a list and in batches of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from polymask.streams.texts.text import Text, Words


def batches_of(x: Any, text: Text, size: int) -> Iterator[Any]:
    """The tokens of texts, so many texts at a time."""
    words = listed(x, text)
    yield from (text(words[start : start + size]) for start in range(0, len(words), size))


def listed(x: Any, text: Text) -> list[Words]:
    """One text, one pair, or several, as a list."""
    if isinstance(x, str):
        return [as_words(x, text)]
    items = list(x)
    one_pair = len(text.columns) == 2 and isinstance(x, tuple) and len(items) == 2 and isinstance(items[0], str)
    return [(items[0], items[1])] if one_pair else [as_words(one, text) for one in items]


def as_words(one: Any, text: Text) -> Words:
    r"""A text, or a pair that is written with a tab between its two.

    Raises:
        ValueError: where a pair is expected, and there is no tab.

    >>> as_words("battery\tIt lasts.", Text("my-tokenizer", columns=("term", "sentence")))
    ('battery', 'It lasts.')
    """
    if len(text.columns) < 2 or not isinstance(one, str):
        words: Words = one
        return words
    first, tab, second = one.partition("\t")
    if not tab:
        named = " and ".join(text.columns)
        raise ValueError(f"expected a pair of texts, {named}, with a tab between them, found {one[:80]!r}")
    return first, second
