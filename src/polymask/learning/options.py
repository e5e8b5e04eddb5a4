"""A method's own options, from its class's signature; what else a run says of a method before anything is trained."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polymask.method.contract import Method

CONTRACT = ("model", "example", "head", "seed")
"""The arguments that every method has; the others are its own options."""

JOINT = "joint"
"""Joint training's name where methods are named; it is a mode of the run, no method."""


class Refused(ValueError):  # noqa: N818 - the name says what is wrong
    """A method does not take its options, or the network, or a stream the orders that are asked for."""


def options_of(kind: type[Method]) -> dict[str, Any]:
    """A method's own options and their defaults, from its signature; what it hands on by ``**``, from its base's.

    >>> from polymask.methods import SupSup
    >>> options_of(SupSup)["density"]
    0.5
    """
    found: dict[str, Any] = {}
    for base in kind.__mro__:
        if "__init__" in vars(base):
            parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
            named = [one for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
            found = {**found, **{one.name: one.default for one in named if one.name not in {*CONTRACT, *found}}}
            if not any(one.kind is one.VAR_KEYWORD for one in parameters):
                break
    return found


def shares_head(kind: type[Method] | None, options: Mapping[str, Any]) -> bool:
    """Whether the tasks of a method share a head, as its option says; in joint training (None) each has its own.

    >>> from polymask.methods import PackNet, SupSup
    >>> shares_head(SupSup, {}), shares_head(SupSup, {"heads": "private"}), shares_head(PackNet, {})
    (True, False, False)
    """
    return kind is not None and {**options_of(kind), **options}.get("heads") == "masked"


def folder_name(method: str) -> str:
    """A method's name as part of a folder's, also that of a class of the user's own.

    >>> folder_name("packnet"), folder_name("my.module:Mine")
    ('packnet', 'my.module-Mine')
    """
    return method.replace(":", "-")


def run_folder(method: str, seed: int, order: int = 0) -> str:
    """A run's folder in that of a comparison.

    >>> run_folder("packnet", 0), run_folder("packnet", 0, order=2)
    ('packnet-0', 'packnet-0-order-2')
    """
    return f"{folder_name(method)}-{seed}" + (f"-order-{order}" if order else "")
