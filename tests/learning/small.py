"""Small runs: a network with everything that can go wrong, tasks of Gaussian blobs, and how two runs are compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymask.learning.learn import Learned, learn
from polymask.learning.training import Training
from polymask.parts.seeds import generator
from polymask.streams.stream import Task

METHODS: dict[str, dict[str, Any]] = {
    "packnet": {},
    "piggyback": {"backbone": "first-task"},
    "supsup": {"density": 0.6},
    "tfm": {"growth": 3},
    "finetune": {},
}
"""The methods that differ most in what a stopped run has to bring back, with their options."""

WIDTH = 6
FAST = Training(epochs=2, batch_size=16)
SAVED = replace(FAST, save_every=0)
"""With a checkpoint after every step, which takes a third of the time."""


class Net(nn.Module):
    """BatchNorm, dropout and a head."""

    def __init__(self, outputs: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
        self.more = nn.Sequential(nn.Linear(16, 12), nn.ReLU())
        self.head = nn.Linear(12, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.more(self.body(x)))


def net(outputs: int = 4) -> Net:
    """The network, the same weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net(outputs)


def blobs(name: str, classes: int, count: int, part: str = "train") -> tuple[Tensor, Tensor]:
    """A cloud of points for each class; the centres belong to the name, the points to the part as well."""
    centres = 2 * torch.randn(classes, WIDTH, generator=generator(name, "centres"))
    y = torch.arange(count) % classes
    return centres[y] + torch.randn(count, WIDTH, generator=generator(name, part)), y


def task(name: str, classes: int = 3, count: int = 64, **more: Any) -> Task:
    """A task of blobs with all its parts."""
    return Task(
        name, blobs(name, classes, count), blobs(name, classes, 24, "val"), blobs(name, classes, 24, "test"), **more
    )


def tasks() -> list[Task]:
    """Three tasks with heads of 3, 2 and 4."""
    return [task("one"), task("two", 2), task("three", 4)]


class Once:
    """A loss of the user's in which something happens at one call."""

    def __init__(self, at: int, happens: Callable[[Tensor], Tensor]) -> None:
        self.left, self.happens = at, happens

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        self.left -= 1
        loss = F.cross_entropy(logits, y)
        return self.happens(loss) if self.left == 0 else loss


def stop(loss: Tensor) -> Tensor:
    """Ctrl-C."""
    raise KeyboardInterrupt


def run(method: str, out: Path | None = None, stream: Sequence[Task] | None = None, **more: Any) -> Learned:
    """Learn the tasks, fast."""
    more = {"training": FAST, "options": METHODS.get(method, {}), **more}
    given = tasks() if stream is None else stream
    return learn(more.pop("model", None) or net(), given, method, out=out, **more)


run_saved = partial(run, training=SAVED)
"""Learn the tasks, saving every step: for runs that are to be stopped."""


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def results(out: Path) -> dict[str, Any]:
    """What results.json says, apart from times."""
    found = json.loads((out / "results.json").read_text())
    return {key: value for key, value in found.items() if not key.startswith("seconds")}


def assert_same(out: Path, other: Path) -> None:
    """Two runs left the same: the same bank to the byte, the same figures, no row twice, nothing half-written."""
    assert files(out / "bank") == files(other / "bank")
    assert results(out) == results(other)
    assert (out / "epochs.csv").read_text() == (other / "epochs.csv").read_text()
    left = [name for name in files(out) if name.endswith(".tmp") or name == "checkpoint.pt"]
    assert left == []
