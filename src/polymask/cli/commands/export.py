"""The subcommand that writes a finished task as a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from polymask.cli.commands.ask import the_task
from polymask.export.task import export_task
from polymask.loaded import load


def export(
    say: Callable[[str], None],
    dir: str,
    task: str | None = None,
    to: Literal["onnx", "torch", "safetensors"] = "onnx",
    out: str | None = None,
    takes: Literal["raw", "bytes", "prepared"] | None = None,
    shape: Sequence[int] | None = None,
    batch: int | None = None,
    fold: bool = False,
    prune: bool = False,
    overwrite: bool = False,
) -> int:
    """Write a finished task as a file that needs no polymask: a graph of ONNX, a program of torch, or weights alone.

    Examples:
        polymask export runs/first --task digits/0-1 --to onnx
        polymask export runs/first --task '#3' --to torch --prune --out small.pt2

    Args:
        say: called with what was written.
        dir: the run's folder, or a bank.
        task: its name, or '#3' for the third that was learned; without it the only one that there is.
        to: onnx; torch, a .pt2 that torch.export.load reads; or safetensors, the weights alone.
        out: the file, or a folder for it; without it export/ in the run's folder.
        takes: raw, numbers as the data had them (images 0..1), or bytes, prepared inside the graph; or prepared, with
            the preparation in the json beside; without it raw where the task says how.
        shape: of one raw input, such as 1 28 28, where the network reads another; images are then taken in any size.
        batch: the number of rows, for a network that takes one alone; without it any.
        fold: fold each BatchNorm into the layer before it.
        prune: take out the units that the task's masks shut.
        overwrite: replace a file that is there.
    """
    name = the_task(load(dir), task)
    found = export_task(
        dir, name, out, to=to, takes=takes, shape=shape, batch=batch, fold=fold, prune=prune, overwrite=overwrite
    )
    say(str(found))
    return 0
