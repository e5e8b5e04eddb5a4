"""The command line's parser: options from catalogues, kind about spelling, one clear line for what is wrong."""

from __future__ import annotations

import difflib
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from polymask.cli.values import Options, UsageError, convert, from_words, in_words, read_file, takes_several, types_of
from polymask.near import nearest


def flag(name: str) -> str:
    """How an option is written.

    >>> flag("data_root"), flag("options.s_max")
    ('--data-root', '--options.s-max')
    """
    return f"--{name.replace('_', '-')}"


ALIKE = (
    {"ratio", "density", "sparsity"},
    {"lr", "learning_rate"},
    {"epochs", "num_epochs"},
    {"batch_size", "bs"},
    {"weight_decay", "wd"},
    {"data", "dataset", "datasets"},
    {"data_root", "data_dir", "root"},
    {"size", "img_size", "image_size", "resize"},
    {"model", "arch", "network"},
    {"weights", "pretrained", "checkpoint", "backbone"},
    {"out", "output", "output_dir", "out_dir"},
    {"workers", "num_workers"},
    {"devices", "gpus"},
    {"tasks", "num_tasks"},
    {"seed", "seeds"},
    {"method", "methods"},
)
"""Options that mean the same, here or in other programs; what one method calls so, another calls otherwise."""


def suggest(found: str, own: Collection[str], elsewhere: Mapping[str, str]) -> str:
    """What an option that is none was probably meant to be.

    Args:
        found: its name.
        own: the options that there are.
        elsewhere: those of other methods, streams and commands -> whose they are.

    >>> suggest("ratio", ["density", "lr"], {"ratio": "packnet"})
    ': did you mean --density? --ratio is an option of packnet'
    >>> suggest("degres", ["lr"], {"degrees": "the stream rotated"})
    ': did you mean --degrees, an option of the stream rotated?'
    """
    near = difflib.get_close_matches(found, [*own, *elsewhere], 1, 0.65)
    name = found if found in elsewhere or any(found in group for group in ALIKE) else near[0] if near else ""
    whose = f" {flag(name)} is an option of {elsewhere[name]}" if name in elsewhere else ""
    if alike := [one for group in ALIKE if name in group for one in own if one in group and one != name]:
        return f": did you mean {flag(alike[0])}?{whose}"
    if whose:
        return f":{whose}" if name == found else f": did you mean {flag(name)}, an option of {elsewhere[name]}?"
    return nearest(flag(found), map(flag, own))


def too_many(words: Sequence[str], left: str) -> str:
    """What is wrong with a word that no option takes."""
    place = words.index(left)
    before = [i for i in range(place) if words[i].startswith("--")]
    if not before:
        return f"expected no more words, found {left!r}"
    option = words[before[-1]].partition("=")[0]
    values = [words[before[-1]].partition("=")[2], *words[before[-1] + 1 :]]
    after = next((i for i, word in enumerate(values) if word.startswith("--")), len(values))
    found = " ".join(word for word in values[:after] if word)
    several = f": polymask compare --seeds {found} learns with each of them" if option == "--seed" else ""
    return f"expected one value for {option}, found {found}{several}"


class Parser(ArgumentParser):
    """The options of a command: argparse parts the words and prints the help, values are read by their types here.

    Args:
        command: the command's name.
        text: what it does.
        examples: lines of a shell, shown at the end of the help.
    """

    def __init__(self, command: str, text: str, examples: Sequence[str] = ()) -> None:
        super().__init__(
            prog=f"polymask {command}",
            description=text,
            epilog="\n  ".join(["examples:", *examples]) if examples else None,
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
            argument_default=SUPPRESS,
        )
        self.kinds: dict[str, Any] = {}
        self.defaults: dict[str, Any] = {}
        self.overrides: dict[str, Any] = {}
        self.groups: list[str] = []
        self.elsewhere: dict[str, str] = {}
        self.words: list[str] = []

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
                    self.words.append(full)
                    self.add_argument(full, **how, nargs="+" if takes_several(kinds[name]) else None)
                    continue
                how |= {"nargs": "+" if takes_several(kinds[name]) else None, "metavar": name.upper(), "dest": full}
                # A switch needs no word: --quiet is --quiet true.
                how |= {"nargs": "?", "const": "true"} if kinds[name] is bool else {}
                self.kinds[full], self.defaults[full] = kinds[name], default
                self.add_argument(flag(full), **how)

    def error(self, message: str) -> NoReturn:
        """What argparse found is a ``UsageError``."""
        # An unquoted '#3' reaches nobody.
        lacks = message.startswith("argument --task") or message.endswith(": task")
        hint = ": in a shell '#' begins a comment, so write '#3' in quotes" if lacks else ""
        raise UsageError(f"{message}{hint}")

    def read(self, argv: Sequence[str]) -> dict[str, Any]:
        """The values of a command line, over those of its ``--config``, over the defaults; groups as dicts.

        Raises:
            UsageError: for an unknown option, with the nearest name, or a value of another type.
        """
        words = [self._in_full(word) if word.startswith("--") else word for word in argv]
        found, left = self.parse_known_args(words)
        if left:
            raise UsageError(too_many(words, left[0]))
        given = self.values_of(vars(found))
        file = self.values_in(read_file(given.pop("config", None), given.get("method")))
        out: dict[str, Any] = {group: {} for group in self.groups}
        for name, value in {**self.defaults, **file, **given}.items():
            group, dot, leaf = name.rpartition(".")
            out |= {group: {**(out.get(group) or {}), leaf: value}} if dot else {name: value}
        out.pop("config", None)
        return out | self.overrides

    def values_of(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the words after each option mean."""
        # What stands without an option is a name of a file or a task, and means no more than it says.
        return {
            name: self._value(name, words if isinstance(words, list) else [words], from_words)
            if name in self.kinds
            else words
            for name, words in given.items()
        }

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
        if name in self.words:
            usage = " ".join([self.prog, *map(str.upper, self.words)])
            raise UsageError(f"unknown option {flag(name)}: it is a word without a name, {usage}")
        hint = suggest(name.rpartition(".")[2], self._leaves(), self.elsewhere)
        raise UsageError(f"unknown option {flag(name)}{hint or ': --help lists those there are'}")
