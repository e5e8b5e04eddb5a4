"""What is exported: a task's plain network, an input of it, and what goes in instead where the graph prepares it."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymask.asking.named import places_of
from polymask.bank.probe import batch_of
from polymask.calling import as_read, tensors_of
from polymask.export.answer import Form, Takes, form_of, rows_of
from polymask.loaded import Loaded
from polymask.parts.seeds import generator
from polymask.sites.table import Sites, bake
from polymask.streams.inputs import Inputs
from polymask.streams.texts.described import inputs_from
from polymask.task import TaskRecord


@dataclass(frozen=True)
class Source:
    """A task as the bank has it, on the CPU.

    Args:
        sites: the attached network.
        plain: the task's network.
        record: the task.
        batch: an input of the network.
        fixed: the number of rows that it takes alone, if the bank knows that it takes no other.
        about: what the bank says of task and network, as JSON.
    """

    sites: Sites
    plain: nn.Module
    record: TaskRecord
    batch: Any
    fixed: int | None
    about: dict[str, Any]


def source_of(loaded: Loaded, task: str, base: nn.Module | None, example: Any) -> Source:
    """Read a task.

    Args:
        loaded: the run.
        task: its name.
        base: as for ``Bank.model``; left alone.
        example: an input as the network reads it; None: the bank's probe.

    Raises:
        ValueError: if there is neither an example nor a probe.
    """
    bank, record = loaded.bank, loaded.bank.record(task)
    sites = bank.model(copy.deepcopy(base))
    bank.activate(sites, task)
    plain, outline = bake(sites.model).cpu(), bank.outline
    probe = outline["probe"]
    batch = batch_of(bank.path, probe) if example is None else example
    if batch is None:
        raise ValueError(
            "expected an input to follow the network with, found a bank without a probe: give one, as the network "
            "reads it, as example= of polymask.export_task"
        )
    batch = as_read(plain, tensors_of(batch, lambda t: t.detach().cpu()))
    fixed = rows_of(batch) if example is None and probe.get("rows") == "own" else None
    about = {
        "task": task,
        "place": places_of(bank)[task],
        "method": record.meta.method,
        "outputs": record.meta.outputs,
        "labels": list(record.meta.labels),
        "preparation": dict(record.meta.inputs),
        "builder": outline["builder"],
        **({"plugged": outline["plugged"]} if "plugged" in outline else {}),
    }
    return Source(sites, plain, record, batch, fixed, about)


@dataclass(frozen=True)
class Entrance:
    """What goes into a file's graph.

    Args:
        form: of its inputs.
        takes: what they are.
        prepares: whether there is anything to prepare.
        prepare: how the graph prepares them; None: not at all.
        resize: whether it brings images of any size to the one that the network reads.
    """

    form: Form
    takes: Takes
    prepares: bool
    prepare: Inputs | None = None
    resize: bool = False

    def __str__(self) -> str:
        shapes = [
            f"{one['name']!r} {one['dtype']} ({', '.join(map(str, one['shape']))})" for one in self.form.describe()
        ]
        inside = "they are prepared inside the graph" if self.prepares else "there is nothing to prepare"
        how = {
            "raw": f"numbers as the task's data had them, images from 0 to 1; {inside}",
            "bytes": "bytes; they are prepared inside the graph",
            "prepared": "what the network reads; "
            + ("how inputs are prepared stands in the json beside" if self.prepares else inside),
        }
        return f"takes {', '.join(shapes)}: {how[self.takes]}"


def entrance_of(source: Source, takes: Takes | None, shape: Sequence[int] | None, batch: int | None) -> Entrance:
    """What goes in, as it was asked for.

    Args:
        source: the task.
        takes: what goes in; None: raw numbers, where the record says how they are prepared.
        shape: of one raw input; None: as the network reads it.
        batch: the number of rows; None: any.

    Raises:
        ValueError: if raw inputs cannot be prepared, or not from this shape.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"expected a batch of a row or more, found {batch}: leave --batch out for any")
    found, x = inputs_from(source.record.meta.inputs), source.batch
    inputs = found if isinstance(found, Inputs) else Inputs()
    described = any(value is not None for value in (inputs.mean, inputs.std, inputs.size, inputs.channels))
    prepares = described or found is not inputs
    fractions = isinstance(x, Tensor) and x.is_floating_point()
    takes = takes or ("raw" if source.record.meta.inputs and fractions else "prepared")
    batch = batch or source.fixed
    if takes == "prepared":
        if shape is not None:
            raise ValueError("expected --shape with raw inputs alone, found prepared ones: give --takes raw or bytes")
        return Entrance(form_of(x, batch), takes, prepares)
    if not (isinstance(x, Tensor) and fractions):
        raise ValueError(
            f"expected a network that reads one tensor of fractions for --takes {takes}, found another one"
        )
    own, wanted = tuple(x.shape[1:]), tuple(shape or x.shape[1:])
    resize = _resizes(inputs, own, wanted)
    rows, draw = max(rows_of(x), 3), generator("export", source.record.meta.task)
    if takes == "raw":
        raw = torch.rand((rows, *wanted), generator=draw)
    else:
        raw = torch.randint(256, (rows, *wanted), generator=draw, dtype=torch.uint8)
    inputs(raw)  # of other channels than it can bring to those of the network it says so
    return Entrance(form_of(raw, batch, resize), takes, prepares, inputs, resize)


def _resizes(inputs: Inputs, own: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether images of a shape have to be resampled.

    Raises:
        ValueError: if the record does not say how they come to the network's shape.
    """
    if math.prod(wanted) < 1 or len(wanted) != len(own):
        raise ValueError(f"expected --shape like {' '.join(map(str, own))}, which the network reads, found {wanted}")
    channels = wanted[:1] != own[:1] and inputs.channels is None
    size = wanted[1:] != own[1:]
    if channels or (size and (inputs.size is None or len(own) != 3)):
        raise ValueError(
            f"expected --shape {' '.join(map(str, own))}, found {' '.join(map(str, wanted))}: the task's record does "
            "not say that others are brought to it"
        )
    return size
