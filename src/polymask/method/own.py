"""A method of the user's own, by its address ``package.module:Class``."""

from __future__ import annotations

import importlib

from polymask.method.contract import Method

DECLARED = ("name", "card", "recipes")
"""What a method's class says of itself."""


def import_method(address: str) -> type[Method]:
    """The class at an address.

    Args:
        address: ``package.module:Class``; the module is found as any import is.

    Raises:
        ValueError: if nothing can be imported from there, or it is no method.

    >>> import_method("polymask.methods.hat:HAT").name
    'hat'
    >>> import_method("polymask.nets:MLP")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: expected a class at 'polymask.nets:MLP' that inherits from polymask.Method, found MLP, which does not...
    """
    module, _, name = address.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"expected package.module:Class that can be imported, found {address!r}: {error}: is the module in this "
            "folder or on PYTHONPATH, and spelled like this?"
        ) from error
    way = "write one as README's 'Add a method' shows"
    if not (isinstance(found, type) and issubclass(found, Method)):
        what = getattr(found, "__name__", repr(found))
        raise ValueError(
            f"expected a class at {address!r} that inherits from polymask.Method, found {what}, which does not: {way}"
        )
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    missing += [name for name in DECLARED if name not in dir(found)]
    if missing:
        raise ValueError(f"expected {address!r} to have {', '.join(missing)}, found a class without: {way}")
    return found
