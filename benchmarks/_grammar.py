"""Small networks drawn from a grammar, by seed: the build, an example, and batches unlike the example."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from _blocks import Said
from _kit import STEPPED, Kit

OUTPUTS, TOKENS, FEATURES = 4, 12, 5
FAMILIES = ("flat", "flat", "flat", *STEPPED, "image", "image", "signal")
SPATIAL = {"image": 2, "signal": 1}
FLAGS = ("number", "scalar", "scalar", "each sample", "each sample", "truth")
EXAMPLE = "the example"
VARIATIONS = ("like the example", "other values", "other sizes", "one sample", "large")


class Net(nn.Module):
    """A stem, blocks, a way from places to samples, and a head under one of many names."""

    def __init__(self, kit: Kit, flag: str | None) -> None:
        super().__init__()
        d, draw, family = kit.d, kit.draw, kit.family
        self.family, self.batch, self.spatial = family, int("time first" in family), kit.spatial
        self.words = draw.random() < 0.1
        stem: dict[int, Callable[[], nn.Module]] = {
            0: lambda: nn.Embedding(TOKENS, d) if family == "tokens" else nn.Linear(FEATURES, d),
            1: lambda: nn.Conv1d(2, d, 3, padding=1),
            2: lambda: nn.Conv2d(2, d, 3, padding=1),
        }
        self.stem, self.act = stem[kit.spatial](), nn.Identity() if family == "tokens" else kit.act()
        self.blocks = nn.ModuleList(kit.body(flag is not None))
        inner = Kit(draw, "flat", d, 0, kit.words)
        self.pool = "none" if family == "flat" else draw.choice(self._pools())
        kit.words.append(f"pool {self.pool}")
        self.flat = nn.Linear((9 if kit.spatial == 2 else 8) * d, d) if self.pool == "flatten" else nn.Identity()
        self.query = nn.Linear(d, 1) if self.pool == "attention" else None
        self.after = nn.ModuleList(inner.body(False)[:1] if draw.random() < 0.4 else [])
        self.name = draw.choice(("head", "fc", "classifier", "out", "readout"))
        head = nn.Linear(d, OUTPUTS, draw.random() < 0.8)
        setattr(self, self.name, nn.Sequential(nn.Dropout(0.1), head) if draw.random() < 0.2 else head)

    def _pools(self) -> tuple[str, ...]:
        return ("mean", "max", "flatten") if self.spatial else ("mean", "max", "last", "first", "attention")

    def forward(self, x: Tensor, flag: Any = None, real: Tensor | None = None) -> Any:
        said = self._said(x, flag, real)
        h = self.act(self.stem(x))
        for block in self.blocks:
            h = block(h, said)
        h = self._pooled(h, said)
        for block in self.after:
            h = block(h, Said())
        logits = getattr(self, self.name)(h)
        return {"logits": logits} if self.words else logits

    def _said(self, x: Tensor, flag: Any, real: Tensor | None) -> Said:
        time = None if self.family not in STEPPED else 1 - self.batch
        if self.family == "tokens":
            real = (x != 0).float()
        if flag is not None:
            flag = torch.as_tensor(flag).long()
            if flag.ndim:
                shape = [1] * (2 + (time is not None) + self.spatial)
                shape[self.batch] = -1
                flag = flag.view(shape)
        return Said(self.batch, time, flag, None if real is None else real[..., None])

    def _pooled(self, h: Tensor, said: Said) -> Tensor:
        if self.pool == "none":
            return h
        if self.pool == "flatten":
            return self.flat((h[..., ::2, ::2] if self.spatial == 2 else h).flatten(1))
        if self.spatial:
            return h.flatten(2).mean(-1) if self.pool == "mean" else h.flatten(2).amax(-1)
        if self.pool == "attention":
            return (torch.softmax(self.query(h), said.time) * h).sum(said.time)
        if self.pool == "mean" and said.real is not None:
            return (h * said.real).sum(said.time) / said.real.sum(said.time).clamp(min=1)
        if self.pool in ("first", "last"):
            return h.select(said.time, 0 if self.pool == "first" else -1)
        return h.mean(said.time) if self.pool == "mean" else h.amax(said.time)


@dataclass(frozen=True)
class Inputs:
    """Draws batches of one of ``VARIATIONS``.

    The example knows no flag above 1 and no padding, or little; later batches do, as a user's would.

    Args:
        family: what the network reads.
        flag: what kind of second input there is; None: there is none.
        named: whether inputs are given by name.
        fixed: whether the network takes one size alone.
    """

    family: str
    flag: str | None
    named: bool
    fixed: bool

    def __call__(self, draw: torch.Generator, count: int, variation: str) -> Any:
        count = {"one sample": 1, "other sizes": 9}.get(variation, count)
        steps = 9 if variation == "other sizes" else 6
        parts = {"x": self._first(draw, count, steps, variation)}
        if self.flag is not None:
            parts["flag"] = self._second(draw, count, variation)
        if self.family == "series, masked":
            left = torch.randint(steps if variation == EXAMPLE else 1, steps + 1, (count, 1), generator=draw)
            parts["real"] = (torch.arange(steps) < left).float()
        if self.named:
            return parts
        return tuple(parts.values()) if len(parts) > 1 else parts["x"]

    def _first(self, draw: torch.Generator, count: int, steps: int, variation: str) -> Tensor:
        """Tokens with padding behind, or numbers."""
        if self.family == "tokens":
            ids = torch.randint(1, TOKENS, (count, steps), generator=draw)
            least = steps if variation == EXAMPLE and bool(torch.rand((), generator=draw) < 0.5) else 2
            return ids.masked_fill(
                torch.arange(steps) >= torch.randint(least, steps + 1, (count, 1), generator=draw), 0
            )
        side, long = (6, 8) if self.fixed else (steps, steps + 2)
        shapes = {
            "flat": (count, FEATURES),
            "series, time first": (steps, count, FEATURES),
            "image": (count, 2, side, side),
            "signal": (count, 2, long),
        }
        x = torch.randn(shapes.get(self.family, (count, steps, FEATURES)), generator=draw)
        return x * 300 if variation == "large" else x

    def _second(self, draw: torch.Generator, count: int, variation: str) -> Tensor | int:
        far = variation == "other values" and bool(torch.rand((), generator=draw) < 0.5)
        most = 2 if self.flag == "truth" or variation == EXAMPLE else 300 if far else 4
        value = torch.randint(most, (count,) if self.flag == "each sample" else (), generator=draw)
        return int(value) if self.flag == "number" else value.bool() if self.flag == "truth" else value


@dataclass(frozen=True)
class Drawn:
    """A network of the grammar.

    Args:
        seed: its number; all else follows from it.
        words: what it is made of.
        build: makes it, each time alike.
        example: an input.
        batch: draws fresh inputs.
    """

    seed: int
    words: str
    build: Callable[[], nn.Module]
    example: Any
    batch: Inputs


def drawn(seed: int) -> Drawn:
    """The network of a seed."""
    words: list[str] = []
    net = _build(seed, words)
    batch = Inputs(net.family, *_flag(seed), fixed=net.pool == "flatten")
    example = batch(torch.Generator().manual_seed(seed), 3, EXAMPLE)
    return Drawn(seed, ", ".join(words), partial(_build, seed), example, batch)


def _flag(seed: int) -> tuple[str | None, bool]:
    """What kind of second input there is, and whether inputs are given by name."""
    draw = random.Random(f"flag {seed}")
    return (draw.choice(FLAGS) if draw.random() < 0.4 else None), draw.random() < 0.2


def _build(seed: int, words: list[str] | None = None) -> Net:
    draw = random.Random(seed)
    family, (flag, named) = draw.choice(FAMILIES), _flag(seed)
    words = [] if words is None else words
    words += [family, *([f"flag: {flag}"] if flag else []), *(["by name"] if named else [])]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net(Kit(draw, family, draw.choice((8, 10, 12)), SPATIAL.get(family, 0), words), flag)
