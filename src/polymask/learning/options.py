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
    """A method's own options and their defaults, from its signature.

    >>> from polymask.methods import SupSup
    >>> options_of(SupSup)["density"]
    0.5
    """
    parameters = inspect.signature(kind).parameters
    return {name: one.default for name, one in parameters.items() if name not in CONTRACT}


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
