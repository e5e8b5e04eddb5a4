"""A frozen network under masks: given, or what the first task trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from polymask.method.contract import Method

Backbone = Literal["given", "first-task"]


def trains_first(method: Method, backbone: Backbone) -> bool:
    """Whether the open task is the one that trains the network, unmasked."""
    return backbone == "first-task" and not method.count


def freeze(method: Method) -> None:
    """Keep every masked weight as it is now."""
    for name in method.sites.weights:
        method.sites.freeze(name)


def keep_first(method: Method) -> None:
    """Let the network of later tasks be the one that the first leaves, its own norms included, but for the head."""
    freeze(method)
    inner = [name for name in method.initial if name not in method.sites.inside(method.head)]
    method.initial = {**method.initial, **{name: method.sites.tensor(name).detach().clone() for name in inner}}


def reserved(method: Method, backbone: Backbone) -> str:
    """What stays reserved once the task that trained the network is removed; "" if nothing does."""
    # Its record alone has no masks.
    first = any(not record.masks for record in method.records.values())
    return "" if backbone == "given" or first else "the weights that the first task trained"


def still(method: Method, backbone: Backbone) -> list[str]:
    """What of the base never learns: all of a network that was given."""
    return method.sites.names("frozen", *(("masked",) if backbone == "given" else ()))
