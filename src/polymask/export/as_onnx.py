"""A program as ONNX: axes named, labels and preparation in its metadata, and run by onnxruntime."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from polymask.calling import REFUSALS
from polymask.export.answer import Form
from polymask.export.program import quiet

MOST = 2**31 - 1
"""The bytes that one file of ONNX may have."""


def require(to: str) -> None:
    """Raise unless what a format needs is installed.

    Raises:
        ModuleNotFoundError: it names the extra.
    """
    for package in ("onnx", "onnxscript", "onnxruntime") if to == "onnx" else ():
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"expected the package {package} to export to onnx, found none: pip install 'polymask[onnx]', or "
                "export it --to torch"
            ) from error


def to_bytes(program: ExportedProgram, form: Form, about: Mapping[str, Any]) -> bytes:
    """A program as the bytes of an ``.onnx`` file, with what is said of it in ``metadata_props``.

    Raises:
        ValueError: if an operator has no form in ONNX, or the file would be larger than ONNX allows.
    """
    try:
        with quiet():
            made = torch.onnx.export(
                program, dynamo=True, input_names=form.names, output_names=["logits"], verbose=False
            )
        assert made is not None
        proto = made.model_proto
        _name_axes(proto.graph, form)
        for node in (*proto.graph.node, *(node for function in proto.functions for node in function.node)):
            # Where in this machine's files the line of a forward stands is nobody's business.
            del node.metadata_props[:]
        for key, value in about.items():
            proto.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
        size = proto.ByteSize()
        data: bytes = proto.SerializeToString() if size <= MOST else b""
    except REFUSALS as error:
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        raise ValueError(
            f"expected a network whose operators ONNX has, found that it cannot be said there ({lines[0][:300]}): "
            "export it --to torch, which keeps torch's own operators, or --to safetensors"
        ) from error
    if not data:
        raise ValueError(
            f"expected a network of at most {MOST} bytes, which a file of ONNX can hold, found {size}: export it --to "
            "torch or --to safetensors"
        )
    return data


def _name_axes(graph: Any, form: Form) -> None:
    """Call the axes of inputs what they are, and of all that follows from them, too."""
    names: dict[str, str] = {}
    for value, free in zip(graph.input, form.free, strict=True):
        for axis, name in free.items():
            names.setdefault(value.type.tensor_type.shape.dim[axis].dim_param, name)
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda found: names.get(found[0], found[0]), dim.dim_param)


def opened(data: bytes, names: Sequence[str]) -> Callable[[Sequence[Tensor]], Tensor]:
    """The graph in a file, run by onnxruntime on the CPU.

    Args:
        data: the file.
        names: of its inputs.

    Raises:
        ValueError: if onnxruntime does not run the graph.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as failures

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, torch.get_num_threads()
    known = [kind for kind in vars(failures).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    kinds: tuple[type[Exception], ...] = (*known, TypeError)

    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except kinds as error:
        raise ValueError(_refused(error)) from error

    def run(leaves: Sequence[Tensor]) -> Tensor:
        wanted = {one.name for one in session.get_inputs()}
        try:
            given = {name: leaf.numpy() for name, leaf in zip(names, leaves, strict=True) if name in wanted}
            return torch.from_numpy(session.run(None, given)[0])
        except kinds as error:
            raise ValueError(_refused(error)) from error

    return run


def _refused(error: Exception) -> str:
    return (
        f"expected a graph that onnxruntime runs on the CPU, found that it does not ({str(error).splitlines()[0]}): "
        "export it --to torch, or --to safetensors"
    )
