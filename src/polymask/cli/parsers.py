"""Parsers of the subcommands, made from the signatures of what they call."""

from __future__ import annotations

import inspect
from argparse import SUPPRESS
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal

from polymask.cli.options import Parser, UsageError, nearest, said
from polymask.learning.config import CONTRACT, JOINT, options_of
from polymask.learning.training import Training
from polymask.methods import METHODS
from polymask.streams.by_name import NAMED

NESTED = {"how", "options", "training"}
STREAM = {"data", "tasks", "order", "seed", "labels"}
"""What ``run_named`` passes to every stream, or what no command line can say."""


def chosen(name: str, found: str, known: Iterable[str]) -> str:
    """One of the known names, hyphens or underscores alike.

    Raises:
        UsageError: if it is none of them, with the nearest.
    """
    names = list(known)
    for spelled in (found, found.replace("-", "_")):
        if spelled in names:
            return spelled
    raise UsageError(f"no {name} {found!r}{nearest(found, names) or ': there are ' + ', '.join(names)}")


def method_of(argv: list[str], joint: bool = True) -> str:
    """The method that a command line asks for; joint training is one where it can be learned by it."""
    return chosen("method", said(argv, "method", "packnet"), [*METHODS, JOINT] if joint else METHODS)


def stream_of(argv: list[str], default: str = "digits") -> str:
    """The stream that a command line asks for."""
    return chosen("stream", said(argv, "stream", default), NAMED)


def add_config(parser: Parser) -> None:
    """Let a file say what the command line does not."""
    parser.add_argument("--config", action="config", help="A file of options, such as a run's config.yaml.")
    parser.add_argument("--polymask", type=str, help=SUPPRESS)


def add_run(parser: Parser, run: Callable[..., Any], stream: str, skip: Iterable[str] = ()) -> None:
    """What ``run_named`` takes, what the stream takes besides, and how a run is trained."""
    parser.add_function_arguments(run, skip={*NESTED, *skip})
    parser.add_class_arguments(Training)
    if own := stream_options(stream):
        others = {name for name in inspect.signature(NAMED[stream]).parameters if name not in own}
        parser.add_function_arguments(NAMED[stream], skip={*others})


def add_options(parser: Parser, method: str, group: str = "options") -> None:
    """A method's own options; where its backbone comes from is said by ``--weights``."""
    if method == JOINT:
        # In a comparison one network for the whole stream is the reference.
        default, kinds = "last" if group == JOINT else "all", Literal["all", "last"]
        text = "all: a network for every prefix of the stream; last: one for the whole."
        parser.add_argument(f"--{group}.prefixes", type=kinds, default=default, help=text)
        return
    if set(options_of(METHODS[method])) - {"backbone"}:
        taken = set(inspect.signature(METHODS[method]).parameters)
        parser.add_class_arguments(METHODS[method], group, skip=taken & {*CONTRACT, "backbone"})
    else:
        # A run's own file says that there are none.
        parser.add_argument(f"--{group}", type=dict[str, Any], default={}, help=SUPPRESS)


def stream_options(stream: str) -> list[str]:
    """The arguments that only this stream has."""
    return [name for name in inspect.signature(NAMED[stream]).parameters if name not in STREAM]


def regrouped(values: Mapping[str, Any], stream: str) -> dict[str, Any]:
    """The values of a command line as ``run_named`` takes them.

    Raises:
        UsageError: for a setting out of range.
    """
    rest, own = dict(values), stream_options(stream)
    settings = {field.name: rest.pop(field.name) for field in fields(Training) if field.name in rest}
    rest["how"] = {name: rest.pop(name) for name in own if name in rest}
    try:
        rest["training"] = Training(**settings)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return rest
