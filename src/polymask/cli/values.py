"""Values of options by their types: from the words of a command line, and from what a file says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

Options = dict[str, dict[str, Any]]
"""Name -> type (as text), default and meaning."""

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", dict: "a mapping"}
"""Type -> what a value of it is called."""

AS_IT_IS = (str, bool, NoneType)


class UsageError(Exception):
    """The command line says something that cannot be meant."""


def types_of(texts: Mapping[str, str]) -> dict[str, Any]:
    """The types that a catalogue writes as text.

    >>> types_of({"ratio": "float | list[float]"})
    {'ratio': float | list[float]}
    """
    holder = type("Options", (), {"__annotations__": dict(texts)})
    return get_type_hints(holder, {"Any": Any, "Literal": Literal})


def from_words(words: Sequence[str], kind: Any) -> Any:
    """The value that the words after an option mean; the entries of a list are parted by spaces or commas.

    Args:
        words: what stands on the command line.
        kind: the option's type.

    Raises:
        ValueError: if they are no value of this type.

    >>> from_words(["1", "0", "2"], list[int]), from_words(["0.5,0.75"], float | list[float]), from_words(["7"], str)
    ([1, 0, 2], [0.5, 0.75], '7')
    >>> from_words(['{"lr": 1e-4}'], dict[str, Any]), from_words(["null"], int | None)
    ({'lr': 0.0001}, None)
    """
    if len(words) == 1:
        candidates = (None,) if words[0] == "null" else (words[0], parse_text(words[0]))
        for value in candidates[-1:] if kind is Any else candidates:
            with suppress(ValueError):
                return convert(value, kind)
    return convert([entry for word in words for entry in word.split(",") if entry], kind)


def parse_text(word: str) -> Any:
    """What a word says as JSON, else as YAML, else the word."""
    for read in (json.loads, yaml.safe_load):  # YAML reads 1e-4 as a word, JSON as a number
        with suppress(ValueError, yaml.YAMLError):
            return read(word)
    return word


def convert(value: Any, kind: Any) -> Any:
    """A word, or what JSON or YAML has read, as its type wants it; a ``ValueError`` if it is none of this type."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        for one in inside:
            with suppress(ValueError):
                return convert(value, one)
    elif origin is list and isinstance(value, list | tuple):
        return [convert(one, inside[0]) for one in value]
    elif origin is tuple and isinstance(value, list | tuple) and len(value) == len(inside):
        return tuple(map(convert, value, inside))
    elif origin is dict and isinstance(value, dict):
        return {key: convert(one, inside[1]) for key, one in value.items()}
    elif kind is Any or (origin is Literal and value in inside) or (type(value) is kind and kind in AS_IT_IS):
        return value
    elif (kind is int and type(value) in (int, str)) or (kind is float and type(value) in (int, float, str)):
        return kind(value)
    raise ValueError(f"expected {in_words(kind)}, found {value}")


def takes_several(kind: Any) -> bool:
    """Whether an option of this type takes more than one word."""
    return any(get_origin(one) in (list, tuple) for one in (kind, *get_args(kind)))


def in_words(kind: Any) -> str:
    """A type in plain words.

    >>> in_words(int | list[list[int]] | None), in_words(Literal["all", "last"])
    ('a whole number or a list', "one of 'all', 'last'")
    """
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(in_words(one) for one in inside if one is not NoneType)
    return f"one of {', '.join(map(repr, inside))}" if origin is Literal else WORDS.get(origin or kind, "a list")


def read_file(file: str | None, method: str | None = None) -> dict[str, Any]:
    """What a file of options says; of another method than its own, all but the options of that method.

    Args:
        file: where it is, or None.
        method: what the command line asks for, if it does.

    Raises:
        UsageError: if there is none, or it is no mapping.
    """
    if file is None:
        return {}
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"expected a file for --config, found no {path}")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"expected YAML in {path}, found: {error}") from error
    if not isinstance(found, dict):
        what = "an empty file" if found is None else f"a {type(found).__name__}"
        raise UsageError(f"expected options and their values in {path}, found {what}")
    if "task_names" in found:
        raise UsageError(f"expected the options of a run in {path}, found a run that Python started: go on from there")
    if method is not None and method.replace("-", "_") != str(found.get("method", method)).replace("-", "_"):
        found.pop("options", None)
    found.pop("polymask", None)
    return found
