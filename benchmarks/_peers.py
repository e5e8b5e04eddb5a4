"""Other libraries' loops, each in a process of its own environment, asked to run in turn with ours."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from _mnist import MNIST
from polymask.streams import load_images

SCRIPTS = Path(__file__).parent / "peers"


class Peer:
    """A script of ``peers/`` that waits for requests: a line in, a line of JSON out.

    Args:
        environment: the virtual environment.
        script: its file name.
        args: its arguments.
    """

    def __init__(self, environment: Path, script: str, args: Sequence[str]) -> None:
        self._command = [str(environment / "bin" / "python"), str(SCRIPTS / script), *args]
        self._said = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - open as long as the process
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._said}
        self._process: subprocess.Popen[str] = subprocess.Popen(self._command, text=True, bufsize=1, **pipes)

    def ask(self, request: str) -> dict[str, float]:
        """Send a request and wait for the answer.

        Raises:
            RuntimeError: if the script ended instead; with the last that it said.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(request + "\n")
            line = self._process.stdout.readline()
        if not line:
            self._process.wait(60)
            self._said.seek(0)
            raise RuntimeError(f"expected an answer of {self._command}, found:\n{self._said.read()[-3000:]}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()


def write_mnist(folder: Path, data_root: str | None) -> None:
    """MNIST in its original files, as torchvision reads them: ``folder/MNIST/raw``; random pictures without a root."""
    draw = torch.Generator().manual_seed(0)

    def pictures(count: int) -> tuple[Tensor, Tensor]:
        x = torch.randint(256, (count, 28, 28), generator=draw, dtype=torch.uint8)
        return x, torch.randint(10, (count,), generator=draw)

    parts = {"train": pictures(60_000), "t10k": pictures(10_000)}
    if data_root is not None:
        task = load_images(MNIST, data_root)
        parts = {"train": tuple(task.train), "t10k": tuple(task.test)}
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, (x, y) in parts.items():
        shape, labels = np.array([0x803, len(x), 28, 28], ">i4"), np.array([0x801, len(y)], ">i4")
        (raw / f"{name}-images-idx3-ubyte").write_bytes(shape.tobytes() + x.numpy().tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(labels.tobytes() + y.numpy().astype(np.uint8).tobytes())
