"""The command line's parser: made from signatures, kind about spelling, one clear line for what is wrong."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

SEQUENCES = ("--data", "--order", "--size", "--mean", "--std", "--methods", "--seeds", "--shape", "--relearn")
"""Options that always take a list; the shell's words after them are its entries."""

MAYBE = ("--degrees", "--ratio", "--options.ratio", "--packnet.ratio")
"""Options that take one value, or a list of several."""

NUMBER = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")
TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word"}


class UsageError(Exception):
    """The command line says something that cannot be meant."""


class Parser(ArgumentParser):
    """A parser whose help writes options with hyphens; both spellings are read."""

    def __init__(self, command: str, text: str) -> None:
        super().__init__(prog=f"polymask {command}", description=text, exit_on_error=False, allow_abbrev=False)

    def format_help(self, *args: Any, **how: Any) -> str:
        """The help, with hyphens."""
        return re.sub(r"--[a-z][a-z_.]*", lambda found: found[0].replace("_", "-"), super().format_help(*args, **how))

    @property
    def names(self) -> list[str]:
        """Every option, such as ``--data_root``; not the forms that append to a list."""
        return [name for name in self._option_string_actions if name.startswith("--") and not name.endswith("+")]


def nearest(found: str, names: Iterable[str]) -> str:
    """A question to append to an error, if a name is near.

    >>> nearest("pakcnet", ["packnet", "piggyback"])
    ': did you mean packnet?'
    """
    near = difflib.get_close_matches(found, list(names), 1, 0.65)
    return f": did you mean {near[0]}?" if near else ""


def words(argv: Sequence[str]) -> list[str]:
    """The command line with underscores in the names of options, and with the entries of a list as one value.

    >>> words(["--data-root", "x-y", "--order", "1", "0", "--lr=0.1"])
    ['--data_root', 'x-y', '--order', '[1, 0]', '--lr', '0.1']
    """
    split: list[tuple[str, list[str]]] = [("", [])]
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            split.append((name.replace("-", "_").replace("__", "--", 1), [value] if equals else []))
        else:
            split[-1][1].append(word)
    out: list[str] = []
    for name, values in split:
        out += [name] if name else []
        several = name in SEQUENCES or (len(values) > 1 and name in MAYBE)
        whole = len(values) == 1 and values[0].startswith(("[", "null"))
        out += [listed(values)] if values and several and not whole else values
    return out


def listed(values: Sequence[str]) -> str:
    """Words as one list, numbers as numbers; commas separate as well."""
    entries = [entry for value in values for entry in value.split(",") if entry]
    return f"[{', '.join(entry if NUMBER.fullmatch(entry) else json.dumps(entry) for entry in entries)}]"


def said(argv: Sequence[str], name: str, default: str) -> str:
    """What the command line, else its ``--config``, says for one option, before there is a parser."""
    given = dict(zip(argv, [*argv[1:], ""], strict=False))
    if f"--{name}" in given:
        return given[f"--{name}"]
    return str(configured(argv).get(name, default))


def configured(argv: Sequence[str]) -> dict[str, Any]:
    """What the file behind ``--config`` says; of another method than its own, all but the options of that method.

    Raises:
        UsageError: if there is none, or it is no mapping.
    """
    if "--config" not in argv:
        return {}
    path = Path([*argv, ""][argv.index("--config") + 1])
    if not path.is_file():
        raise UsageError(f"expected a file for --config, found no {path}")
    try:
        found = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UsageError(f"expected YAML in {path}, found: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        what = "an empty file" if found is None else f"a {type(found).__name__}"
        raise UsageError(f"expected options and their values in {path}, found {what}")
    if "task_names" in found:
        raise UsageError(f"expected the options of a run in {path}, found a run that Python started: go on from there")
    given = dict(zip(argv, [*argv[1:], ""], strict=False)).get("--method")
    if given is not None and given.replace("-", "_") != str(found.get("method", given)).replace("-", "_"):
        found.pop("options", None)
    return found


def parse(parser: Parser, argv: Sequence[str]) -> dict[str, Any]:
    """The values of a command line (in the form of ``words``), checked.

    Raises:
        UsageError: for an unknown option, with the nearest name, or a value of another type.
    """
    given = [full_name(parser, word) if word.startswith("--") else word for word in argv]
    file = configured(argv)
    if file:
        given[given.index("--config") + 1] = yaml.safe_dump(file)
    for key in file:
        if f"--{key}" not in parser.names:
            raise UsageError(f"unknown key {key!r} in the file of --config{nearest(key, plain(parser))}")
    try:
        parsed: Namespace = parser.parse_args(given)
    except ArgumentError as error:
        raise UsageError(told(str(error))) from error
    values: dict[str, Any] = parsed.as_dict()
    return {name: value for name, value in values.items() if name not in ("config", "polymask")}


def full_name(parser: Parser, name: str) -> str:
    """The full name of an option; ``--ratio`` is short for ``--options.ratio``.

    Raises:
        UsageError: if there is none, or there are several.
    """
    if name in parser.names or name.startswith("--net.") or name.endswith("+"):
        return name
    inside = [full for full in parser.names if full.partition(".")[2] == name[2:]]
    if len(inside) == 1:
        return inside[0]
    shown = name.replace("_", "-")
    if inside:
        raise UsageError(f"expected one of {', '.join(inside)}, found {shown}, which could be each of them")
    known = [f"--{part}".replace("_", "-") for part in plain(parser)]
    hint = nearest(f"--{name[2:].rpartition('.')[2]}".replace("_", "-"), known)
    raise UsageError(f"unknown option {shown}{hint or ': --help lists those there are'}")


def plain(parser: Parser) -> list[str]:
    """The last part of every option's name."""
    return [name[2:].rpartition(".")[2] for name in parser.names]


def told(text: str) -> str:
    r"""One line from what jsonargparse says in many.

    >>> told("Parser key \"lr\":\n  Expected a <class 'float'>. Got value: x")
    'expected a number for --lr, found x'
    """
    key = re.search(r'key "([^"]+)"', text)
    value = re.search(r"(?:Given value|Got value): (.*)", text)
    kinds = re.findall(r"Expected (?:an? )?(.+?)(?:\. Got value.*)?(?:\n|$)", text)
    if key is None or value is None or not kinds:
        return " ".join(text.split())
    names = [re.sub(r"<class '(.*?)'>|typing\.", r"\1", kind) for kind in kinds]
    names = [re.sub(r"Literal\[(.*)\]", r"one of \1", TYPES.get(kind, kind)) for kind in names if kind != "NoneType"]
    return f"expected {' or '.join(names)} for --{key[1].replace('_', '-')}, found {value[1]}"
