"""The parser of each subcommand, with the options of the method and the stream that the command line names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from polymask.cli.catalog import METHODS_FILE, RUN_FILE, options_for, read
from polymask.cli.options import Parser
from polymask.cli.values import UsageError, read_file
from polymask.learning.options import JOINT
from polymask.near import nearest

HIDDEN = ("backbone", "dir")
"""Arguments that are no options of any command line, though a signature has them."""

CONFIG = {"type": "str | None", "default": None, "meaning": "a file of options, such as a run's config.yaml."}


def choose(name: str, found: str, known: Iterable[str]) -> str:
    """One of the known names, hyphens or underscores alike; an address ``package.module:Class`` is a method as it is.

    Raises:
        UsageError: if it is none of them, with the nearest.

    >>> choose("method", "linear-probe", ["packnet", "linear_probe"])
    'linear_probe'
    """
    names = list(known)
    for spelled in (found, found.replace("-", "_")):
        if spelled in names or (name == "method" and ":" in found):
            return spelled
    raise UsageError(f"no {name} {found!r}{nearest(found, names) or ': there are ' + ', '.join(names)}")


def first_look(argv: Sequence[str]) -> dict[str, Any]:
    """What decides which options there are: method, methods, stream and data, as the line says, else its file."""
    parser, known = Parser("", ""), {**read(RUN_FILE)["run"], **read(RUN_FILE)["commands"]["compare"]["options"]}
    parser.add({"config": CONFIG, **{name: known[name] for name in ("method", "methods", "stream", "data")}})
    given = parser.values_of(vars(parser.parse_known_args(argv)[0]))
    file = read_file(given.get("config"), given.get("method"))
    return {**parser.values_in({name: value for name, value in file.items() if name in parser.kinds}), **given}


def add_method(parser: Parser, method: str, group: str = "options") -> None:
    """A method's own options; where its backbone comes from is said by ``--weights``.

    Raises:
        UsageError: if there is no such method.
    """
    try:
        parser.add(options_for(method), group, skip=("backbone",))
    except ValueError as error:
        raise UsageError(str(error)) from error


def add_run(parser: Parser, stream: str, skip: Collection[str] = ()) -> None:
    """What ``run_named`` takes, how a run is trained, and what the stream takes besides."""
    streams = read(RUN_FILE)["streams"]
    parser.overrides["stream"] = stream = choose("stream", stream, streams)
    for options in (read(RUN_FILE)["run"], read(RUN_FILE)["training"], streams[stream]):
        parser.add(options, skip=skip)


def fill_run(parser: Parser, look: Mapping[str, Any]) -> None:
    """A run, and the options of its method."""
    parser.add({"config": CONFIG})
    add_run(parser, look.get("stream", "digits"))
    method = choose("method", look.get("method", "packnet"), [*read(METHODS_FILE), JOINT])
    parser.overrides["method"] = method
    add_method(parser, method)


def fill_compare(parser: Parser, look: Mapping[str, Any]) -> None:
    """What runs share, and the options of every method."""
    parser.add({"config": CONFIG})
    add_run(parser, look.get("stream", "digits"), skip=("method", "seed", "out", "relearn"))
    known = [*read(METHODS_FILE), JOINT]
    parser.overrides["methods"] = methods = [choose("method", name, known) for name in look.get("methods") or known]
    for method, group in groups(methods).items():
        add_method(parser, method, group)
    # In a comparison one network for the whole stream is the reference.
    parser.defaults |= {f"{JOINT}.prefixes": "last"} if JOINT in methods else {}


def groups(methods: Sequence[str]) -> dict[str, str]:
    """Method -> the group of its options; a class of the user's own is called by its name alone.

    >>> groups(["packnet", "my.module:Mine"])
    {'packnet': 'packnet', 'my.module:Mine': 'Mine'}
    """
    names = [method.rpartition(":")[2] for method in methods]
    return {method: name if names.count(name) == 1 else method for method, name in zip(methods, names, strict=True)}


def fill_add(parser: Parser, look: Mapping[str, Any]) -> None:
    """Data and training; the network and the method are those of the run."""
    stream = look.get("stream", "datasets" if look.get("data") else "digits")
    fixed = ("method", "seed", "out", "model", "net", "weights", "head", "adapters", "spare", "scenario", "relearn")
    add_run(parser, stream, skip=fixed)
    # What is not said is as the run has it, and no default.
    parser.defaults |= dict.fromkeys(read(RUN_FILE)["training"])


def fill_methods(parser: Parser, look: Mapping[str, Any]) -> None:
    """The one method that is named, if one is."""
    parser.overrides |= {"method": choose("method", look["method"], read(METHODS_FILE))} if "method" in look else {}


def fill_roles(parser: Parser, look: Mapping[str, Any]) -> None:
    """The options of the method."""
    parser.overrides["method"] = method = choose("method", look.get("method", "packnet"), read(METHODS_FILE))
    add_method(parser, method)


MORE: dict[str, Callable[[Parser, Mapping[str, Any]], None]] = {
    "run": fill_run,
    "compare": fill_compare,
    "add": fill_add,
    "methods": fill_methods,
    "roles": fill_roles,
}
"""Subcommand -> what depends on the rest of the command line."""


def parser_of(command: str, argv: Sequence[str]) -> Parser:
    """The parser of a subcommand, for this command line."""
    about = read(RUN_FILE)["commands"][command]
    parser = Parser(command, about["what"], about["examples"])
    parser.add(about["options"])
    if command in MORE:
        MORE[command](parser, first_look(argv))
    parser.elsewhere = elsewhere(command, parser.kinds)
    return parser


def elsewhere(command: str, kinds: Collection[str]) -> dict[str, str]:
    """The options that other methods, streams and commands have -> whose they are."""
    own, run = {name.rpartition(".")[2] for name in kinds}, read(RUN_FILE)
    found: dict[str, list[str]] = {}
    if command in MORE:
        for method, entry in read(METHODS_FILE).items():
            for name in entry["options"]:
                found.setdefault(name, []).append(method)
        for stream, options in run["streams"].items():
            for name in options:
                found.setdefault(name, []).append(f"the stream {stream}")
    for other, about in {**run["commands"], "run": {"options": {**run["run"], **run["training"]}}}.items():
        for name in about["options"]:
            found.setdefault(name, []).append(f"polymask {other}")
    named = {name: " and ".join(whose[:3]) for name, whose in found.items()}
    return {name: whose for name, whose in named.items() if name not in own and name not in HIDDEN}
