"""The formats: a task's network as the bytes of a file, and the same bytes loaded again and asked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from safetensors.torch import load
from torch import nn

from polymask.builder import Builder
from polymask.export import as_onnx, program, weights
from polymask.export.answer import Answer, Form
from polymask.export.check import Checked, Reference, by_network, compare
from polymask.export.made import Entrance, Source
from polymask.sites.plugs import plug_again

Format = Literal["onnx", "torch", "safetensors"]
SUFFIX = {"onnx": ".onnx", "torch": ".pt2", "safetensors": ".safetensors"}
Written = tuple[bytes, Form, Checked]
"""A file's bytes, the form of its inputs as it turned out, and what it answered."""


def as_program(source: Source, network: nn.Module, door: Entrance, about: Mapping[str, Any]) -> Written:
    """A program of torch, the network and its preparation in one."""
    followed, form = program.follow(_answer(source, network, door), door.form)
    data = program.to_bytes(followed, {**about, "inputs": form.describe()})
    by = f"torch {torch.__version__.partition('+')[0]}"
    return data, form, compare(_reference(source, door), form, by, program.opened(data))


def as_graph(source: Source, network: nn.Module, door: Entrance, about: Mapping[str, Any]) -> Written:
    """A graph of ONNX, the same."""
    import onnxruntime

    followed, form = program.follow(_answer(source, network, door), door.form)
    data = as_onnx.to_bytes(followed, form, {**about, "inputs": form.describe()})
    by = f"onnxruntime {onnxruntime.__version__}"
    return data, form, compare(_reference(source, door), form, by, as_onnx.opened(data, form.names))


def as_weights(
    source: Source, network: nn.Module, door: Entrance, about: Mapping[str, Any], base: nn.Module | None
) -> Written:
    """Weights alone, loaded again into the network that the bank builds, or into the one that was given."""
    data = weights.to_bytes(network, source.record.private, about)
    builder = source.about["builder"]
    built = copy.deepcopy(base).cpu() if base is not None else Builder.from_json(builder).build()
    built = plug_again(built, source.about.get("plugged", ()))
    again = _answer(source, weights.put_weights(built, load(data)), door)
    return data, door.form, compare(_reference(source, door), door.form, "the network built again", by_network(again))


def _answer(source: Source, network: nn.Module, door: Entrance) -> Answer:
    return Answer(network, door.form.example, source.record.meta.outputs, door.prepare, door.resize)


def _reference(source: Source, door: Entrance) -> Reference:
    return Reference(source.plain, source.record.meta.outputs, door.prepare)


Writer = Callable[[Source, nn.Module, Entrance, Mapping[str, Any]], Written]
WRITERS: dict[str, Writer] = {"onnx": as_graph, "torch": as_program}
"""The formats that hold a graph."""
