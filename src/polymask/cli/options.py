"""The command line's parser: options from catalogues, kind about spelling, one clear line for what is wrong."""

from __future__ import annotations

import difflib
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from polymask.cli.values import Options, UsageError, convert, from_words, in_words, read_file, takes_several, types_of


def nearest(found: str, names: Iterable[str]) -> str:
    """A question to append to an error, if a name is near.

    >>> nearest("pakcnet", ["packnet", "piggyback"])
    ': did you mean packnet?'
    """
    near = difflib.get_close_matches(found, list(names), 1, 0.65)
    return f": did you mean {near[0]}?" if near else ""


def flag(name: str) -> str:
    """How an option is written.

    >>> flag("data_root"), flag("options.s_max")
    ('--data-root', '--options.s-max')
    """
    return f"--{name.replace('_', '-')}"


class Parser(ArgumentParser):
    """The options of a command: argparse parts the words and prints the help, values are read by their types here.

    Args:
        command: the command's name.
        text: what it does.
    """

    def __init__(self, command: str, text: str) -> None:
        super().__init__(prog=f"polymask {command}", description=text, allow_abbrev=False, argument_default=SUPPRESS)
        self.kinds: dict[str, Any] = {}
        self.defaults: dict[str, Any] = {}
        self.overrides: dict[str, Any] = {}
        self.groups: list[str] = []

    def add(self, options: Options, group: str = "", skip: Collection[str] = ()) -> None:
        """Take options; those of a group are ``--GROUP.NAME``, and ``--NAME`` where no other has that name."""
        kinds = types_of({name: about["type"] for name, about in options.items()})
        self.groups += [group] if group else []
        for name, about in options.items():
            if name not in skip:
                full, default = f"{group}.{name}" if group else name, about.get("default")
                text = f"{about['meaning']} ({in_words(kinds[name])}{'' if default is None else f'; else {default}'})"
                how: dict[str, Any] = {"help": text.replace("%", "%%")}
                if "default" not in about:
                    self.add_argument(full, **how)
                    continue
                how |= {"nargs": "+" if takes_several(kinds[name]) else None, "metavar": name.upper(), "dest": full}
                if kinds[name] is bool:
                    how |= {"nargs": "?", "const": "true"}  # by itself a flag means yes
                self.kinds[full], self.defaults[full] = kinds[name], default
                self.add_argument(flag(full), **how)

    def error(self, message: str) -> NoReturn:
        """What argparse found is a ``UsageError``."""
        raise UsageError(message)

    def read(self, argv: Sequence[str]) -> dict[str, Any]:
        """The values of a command line, over those of its ``--config``, over the defaults; groups as dicts.

        Raises:
            UsageError: for an unknown option, with the nearest name, or a value of another type.
        """
        words = [self._in_full(word) if word.startswith("--") else word for word in argv]
        given = self.values_of(vars(self.parse_args(words)))
        file = self.values_in(read_file(given.pop("config", None), given.get("method")))
        out: dict[str, Any] = {group: {} for group in self.groups}
        for name, value in {**self.defaults, **file, **given}.items():
            group, dot, leaf = name.rpartition(".")
            out |= {group: {**(out.get(group) or {}), leaf: value}} if dot else {name: value}
        out.pop("config", None)
        return out | self.overrides

    def values_of(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the words after each option mean."""
        several = {name: words if isinstance(words, list) else [words] for name, words in given.items()}
        return {name: self._value(name, words, from_words) for name, words in several.items()}

    def _value(self, name: str, found: Any, read: Callable[[Any, Any], Any]) -> Any:
        try:
            return read(found, self.kinds.get(name, str))
        except ValueError as error:
            words = " ".join(found) if read is from_words else found
            raise UsageError(f"expected {in_words(self.kinds[name])} for {flag(name)}, found {words}") from error

    def values_in(self, file: Mapping[str, Any]) -> dict[str, Any]:
        """What a file says, under the options' own names."""
        flat: dict[str, Any] = {}
        for key, value in file.items():
            inside = key in self.groups and isinstance(value, dict)
            flat |= {f"{key}.{leaf}": one for leaf, one in value.items()} if inside else {key: value}
        if unknown := [key for key in flat if key not in self.kinds]:
            hint = nearest(unknown[0].rpartition(".")[2], self._leaves())
            raise UsageError(f"unknown key {unknown[0]!r} in the file of --config{hint}")
        return {key: self._value(key, value, convert) for key, value in flat.items()}

    def _leaves(self) -> list[str]:
        return [name.rpartition(".")[2] for name in self.kinds]

    def _in_full(self, word: str) -> str:
        """An option as it is called in full; ``--ratio`` is short for ``--options.ratio``."""
        key, equals, value = word.partition("=")
        name = key[2:].replace("-", "_")
        if name.startswith("net.") and "net" in self.kinds and name not in self.kinds:
            # Which arguments a network takes is not known before it is made.
            self.kinds[name] = Any
            self.add_argument(flag(name), dest=name, help=SUPPRESS)
        inside = [name] if name in self.kinds else [one for one in self.kinds if one.rpartition(".")[2] == name]
        if len(inside) == 1:
            return f"{flag(inside[0])}{equals}{value}"
        if inside:
            several = ", ".join(map(flag, inside))
            raise UsageError(f"expected one of {several}, found {flag(name)}, which could be each of them")
        hint = nearest(flag(name.rpartition(".")[2]), map(flag, self._leaves()))
        raise UsageError(f"unknown option {flag(name)}{hint or ': --help lists those there are'}")
