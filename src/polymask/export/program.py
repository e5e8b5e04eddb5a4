"""A network followed by ``torch.export``: a program that torch alone loads and runs, and from which ONNX is made."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from polymask.calling import REFUSALS, leaves_of
from polymask.export.answer import Answer, Form

ABOUT = "polymask.json"
"""The file in a program that says what the json beside it says."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters say of themselves: what they made is compared, and an error is told in a line of ours."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def follow(model: Answer, form: Form) -> tuple[ExportedProgram, Form]:
    """The program of a network, and the form of its inputs: a length may turn out to be one alone.

    Args:
        model: in evaluation mode.
        form: of its inputs.

    Raises:
        ValueError: if the forward cannot be followed, or takes no other number of rows than the example's.
    """
    try:
        program, found = _export(model, form)
        return (program, found) if _takes_others(program, found) else _export(model, _with_lengths_fixed(form))
    except ValueError as error:
        fixed = replace(form, free=[{} for _ in form.free])
        try:
            _export(model, fixed)
        except ValueError:
            raise error from error.__cause__
        rows = len(form.leaves[0])
        raise ValueError(
            f"expected a network that takes any number of rows, found one that does not ({_reason(error.__cause__)}): "
            f"export it for one number with --batch {rows}"
        ) from error


def _export(model: Answer, form: Form) -> tuple[ExportedProgram, Form]:
    # Lengths as far as the network allows: a table of positions ends somewhere.
    known = {name: Dim.AUTO if name == "length" else Dim(name) for axes in form.free for name in axes.values()}
    shapes = tuple({axis: known[name] for axis, name in axes.items()} for axes in form.free)
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(model, form.leaves, dynamic_shapes=(shapes,), strict=False)
    except REFUSALS as error:
        raise ValueError(
            f"expected a forward that torch.export can follow, found one that it cannot ({_reason(error)}): where it "
            "branches on the values of its input, write the branch with torch.where or torch.cond; or take the weights "
            "alone, with --to safetensors, and run the network's own code"
        ) from error
    return program, replace(form, free=_free(program, form))


def _takes_others(program: ExportedProgram, form: Form) -> bool:
    """Whether a program that was followed at one length takes another: what it holds to one it only says when run."""
    try:
        with quiet(), torch.no_grad():
            program.module()(*leaves_of(form.batches()[-1]))
    except REFUSALS:
        return False
    return True


def _with_lengths_fixed(form: Form) -> Form:
    return replace(form, free=[{a: name for a, name in axes.items() if name != "length"} for axes in form.free])


def _free(program: ExportedProgram, form: Form) -> list[dict[int, str]]:
    """The axes that really may measure anything."""
    shapes = [node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder"][-len(form.free) :]
    return [
        {axis: name for axis, name in axes.items() if not isinstance(shape[axis], int)}
        for shape, axes in zip(shapes, form.free, strict=True)
    ]


def _reason(error: BaseException | None) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"[:300]


def to_bytes(program: ExportedProgram, about: Mapping[str, Any]) -> bytes:
    """A program as the bytes of a ``.pt2`` file, what is said of it in its file ``polymask.json``."""
    buffer = io.BytesIO()
    for node in program.graph.nodes:
        # Where in this machine's files the line of a forward stands is nobody's business.
        node.meta.pop("stack_trace", None)
    with quiet():
        torch.export.save(program, buffer, extra_files={ABOUT: json.dumps(about)})
    return buffer.getvalue()


def opened(data: bytes) -> Callable[[Sequence[Tensor]], Tensor]:
    """The program in a file, to be called with its inputs."""
    with quiet():
        program = torch.export.load(io.BytesIO(data)).module()

    def run(leaves: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            answer: Tensor = program(*leaves)
        return answer

    return run
