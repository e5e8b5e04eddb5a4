"""The head of a task: how wide it is, and a fresh one of the width that a task asks for."""

from __future__ import annotations

import math

import torch

from polymask.parts.seeds import generator
from polymask.sites.table import Sites


def width_of(sites: Sites, head: str) -> int:
    """How many outputs the head has now; 0 if it has no tensor of its own."""
    found = [sites.tensor(name) for name in sites.inside(head)]
    # Beside a matrix may stand a temperature, which has no rows.
    return next((len(t) for axes in (2, 1) for t in found if t.ndim >= axes), 0)


def is_shared(sites: Sites, head: str) -> bool:
    """Whether all tasks have one head, as wide as it was built: neither one each, nor one tied to another module."""
    names = sites.inside(head)
    return bool(names) and not any(map(sites.is_tied, names)) and not _private(sites, names)


def fresh_head(sites: Sites, head: str, outputs: int | None, key: tuple[object, ...]) -> None:
    """Put a new head of ``outputs`` units in place of a private one; a shared one stays, if it is wide enough.

    A head that is tied to another module (an embedding) follows that one's role and keeps its width.

    Weight, bias and whatever else has a row for each output are uniform in ``(-b, b)``, ``b = 1 / sqrt(fan_in)``, as
    torch draws a linear layer.

    Args:
        sites: the attached model, its head as wide as it was built.
        head: the head module's name.
        outputs: the width; None: as built.
        key: what the draw is keyed by.

    Raises:
        ValueError: if a shared head is narrower than the task, or a tied one has another width; for no output.
    """
    names, width = sites.inside(head), width_of(sites, head)
    if outputs is not None and outputs < 1:
        raise ValueError(f"expected an output or more, found {outputs}: leave outputs out for the head as it was built")
    if any(sites.is_tied(name) for name in names):
        if outputs not in (None, width):
            raise ValueError(
                f"expected {width} outputs, the width of the head {head!r}, which is tied to another module, found "
                f"{outputs}: leave outputs out, or untie the head"
            )
        return
    private = _private(sites, names)
    grows = [name for name in private if sites.tensor(name).shape[:1] == (width,)]
    if not grows:
        if outputs is not None and width and outputs > width:
            raise ValueError(
                f"expected at most {width} outputs, the width of the shared head {head!r}, found {outputs}: "
                "build the model with a head as wide as the largest task"
            )
        return
    fan_in = max(math.prod(sites.tensor(name).shape[1:]) for name in grows)
    draw, bound = generator(*key, "head"), 1 / math.sqrt(fan_in)
    for name in grows:
        shape = (outputs or width, *sites.tensor(name).shape[1:])
        sites.write(name, torch.empty(shape).uniform_(-bound, bound, generator=draw))


def _private(sites: Sites, names: list[str]) -> list[str]:
    """The parameters among these that a task has of its own."""
    return [
        name
        for name in names
        if sites.roles[name].kind == "private" and isinstance(sites.tensor(name), torch.nn.Parameter)
    ]
