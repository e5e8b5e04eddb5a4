"""What the shell says of a class or a function, read from its signature and docstring: plain data, written as JSON."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse

from polymask.cli.values import Options


def options_in(call: Callable[..., Any], skip: Collection[str] = ()) -> Options:
    """The arguments of a class or a function as options.

    Args:
        call: what is called with them.
        skip: names of arguments that are no options.

    >>> from polymask.methods import TFM
    >>> about = options_in(TFM, skip=("model", "example"))["growth"]
    >>> about["type"], about["default"]
    ('int', 8)
    """
    meanings = {one.arg_name: " ".join((one.description or "").split()) for one in parse(call.__doc__ or "").params}
    kinds = get_type_hints(inspect.getattr_static(call, "__init__") if isinstance(call, type) else call)
    options: Options = {}
    for name, one in inspect.signature(call).parameters.items():
        if name not in skip and one.kind is not one.VAR_KEYWORD:
            options[name] = {"type": text_of(kinds.get(name, Any)), "meaning": meanings.get(name, "")}
            options[name] |= {} if one.default is one.empty else {"default": one.default}
    return options


def examples_in(text: str) -> list[str]:
    r"""The lines of a shell in a docstring's section ``Examples``, without their indentation.

    >>> examples_in("Do it.\n\n    Examples:\n        polymask demo\n\n    Args:\n        x: y.")
    ['polymask demo']
    """
    found = [one.description or "" for one in parse(text).examples]
    return [line.strip() for part in found for line in part.splitlines() if line.strip()]


def text_of(kind: Any) -> str:
    """A type as text that ``values.types_of`` reads; what no command line can say is anything.

    >>> text_of(float | Sequence[float] | None), text_of(Literal["all", "last"])
    ('float | list[float] | None', "Literal['all', 'last']")
    """
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " | ".join(map(text_of, inside))
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, inside))}]"
    if origin in (list, Sequence) or Ellipsis in inside:
        return f"list[{text_of(inside[0])}]"
    if origin in (tuple, dict, Mapping):
        return f"{'tuple' if origin is tuple else 'dict'}[{', '.join(map(text_of, inside))}]"
    return "None" if kind is NoneType else kind.__name__ if kind in (bool, int, float, str) else "Any"
