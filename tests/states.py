"""Small networks whose forward leaves something behind: what moves in buffers, what is harmless, what is refused."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Body(nn.Module):
    """Two layers with something between them, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.between: nn.Module = nn.Identity()
        self.start()

    def start(self) -> None:
        """What the kind needs."""

    def mid(self, h: Tensor) -> Tensor:
        """What the kind does."""
        return self.between(h)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.mid(self.a(x)).relu()).relu())


class Centre(nn.Module):
    """A running mean that is taken off, and is no norm."""

    def __init__(self, width: int = 8, persistent: bool = True) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(width), persistent)

    def forward(self, h: Tensor) -> Tensor:
        if self.training:
            self.centre.mul_(0.9).add_(h.detach().mean(0), alpha=0.1)
        return h - self.centre


class CentreInAChild(Body):
    moves = ("between.centre",)

    def start(self) -> None:
        self.between = Centre()


class CentreInNoStateDict(Body):
    moves = ("between.centre",)

    def start(self) -> None:
        self.between = Centre(persistent=False)


class CentreInTheRoot(Body):
    moves = ("running_mean",)

    def start(self) -> None:
        self.register_buffer("running_mean", torch.zeros(8))

    def mid(self, h: Tensor) -> Tensor:
        if self.training:
            self.running_mean = 0.9 * self.running_mean + 0.1 * h.detach().mean(0)
        return h - self.running_mean


class Steps(Body):
    """A counter that the answer reads, and what it starts only late."""

    moves = ("step", "late")

    def start(self) -> None:
        self.register_buffer("step", torch.tensor(0))
        self.register_buffer("late", torch.zeros(8))

    def mid(self, h: Tensor) -> Tensor:
        if self.training:
            self.step += 1
            if self.step % 100 == 0:
                self.late += h.detach().mean(0)
        return h * (1 + self.step) - self.late


class Codebook(Body):
    """Vectors quantised, by codes that a forward moves; the first batch fills them."""

    moves = ("codes", "size", "filled")

    def start(self) -> None:
        self.codes = nn.Parameter(torch.randn(5, 8), requires_grad=False)
        self.register_buffer("size", torch.zeros(5, dtype=torch.int32))
        self.register_buffer("filled", torch.tensor(False))

    def mid(self, h: Tensor) -> Tensor:
        if self.training and not self.filled:
            self.codes.data.copy_(h.detach()[torch.arange(5) % len(h)] + torch.arange(5)[:, None] * 0.1)
            self.filled.fill_(True)
        chosen = torch.cdist(h, self.codes).argmin(-1)
        if self.training:
            with torch.no_grad():
                one = F.one_hot(chosen, 5)
                self.size += one.sum(0)
                self.codes.mul_(0.9).add_(one.float().T @ h, alpha=0.1)
        return h + (self.codes[chosen] - h).detach() * (1 + self.size[chosen])[:, None]


class CodebookThatTrains(Codebook):
    moves = ("codes", "size", "filled")

    def start(self) -> None:
        super().start()
        self.codes.requires_grad_(True)

    def mid(self, h: Tensor) -> Tensor:
        return super().mid(h) + self.codes.mean()


class Covariance(Body):
    moves = ("covariance",)

    def start(self) -> None:
        self.register_buffer("covariance", torch.zeros(8, 8))

    def mid(self, h: Tensor) -> Tensor:
        if self.training:
            self.covariance.mul_(0.9).add_(h.detach().T @ h.detach(), alpha=0.1)
        return h @ (torch.eye(8) + self.covariance)


class Spectral(nn.Module):
    """A layer that divides by an estimate of its weight's largest singular value."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(outputs, inputs)), nn.Parameter(torch.zeros(outputs))
        self.register_buffer("u", F.normalize(torch.randn(outputs), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        with torch.no_grad():
            v = F.normalize(w.T @ self.u, dim=0)
            if self.training:
                self.u.copy_(F.normalize(w @ v, dim=0))
        return F.linear(x, w / (self.u @ w @ v), self.bias)


class OwnSpectralNorm(Body):
    moves = ("between.u",)

    def start(self) -> None:
        self.between = Spectral(8, 8)


class SpectralHead(Body):
    """A head with a buffer, which a new head must not draw anew."""

    moves = ("head.u",)

    def start(self) -> None:
        self.head = Spectral(8, 4)


class Queue(Body):
    """A memory with a pointer."""

    moves = ("queue", "pointer")

    def start(self) -> None:
        self.register_buffer("queue", torch.zeros(16, 8))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.int16))

    def mid(self, h: Tensor) -> Tensor:
        if self.training:
            at = (int(self.pointer) + torch.arange(len(h))) % 16
            self.queue[at] = h.detach()
            self.pointer.add_(len(h)).remainder_(16)
        return h + self.queue.mean(0)


class GrowingMemory(Body):
    moves = ("memory",)

    def start(self) -> None:
        self.register_buffer("memory", torch.zeros(0, 8), persistent=False)

    def mid(self, h: Tensor) -> Tensor:
        if self.training:
            self.memory = torch.cat([self.memory, h.detach()])[-64:]
        return h + self.memory.sum(0) / 64


class Renormed(Body):
    """A weight that every forward brings back within a norm."""

    moves = ("a.weight",)

    def mid(self, h: Tensor) -> Tensor:
        self.a.weight.data = torch.renorm(self.a.weight.data, 2, 0, 0.3)
        return self.a(h[:, :6])


class OwnNorm(nn.Module):
    """A norm whose statistics have names of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(8))
        self.register_buffer("mean_so_far", torch.zeros(8))

    def forward(self, h: Tensor) -> Tensor:
        if self.training:
            self.mean_so_far.lerp_(h.detach().mean(0), 0.1)
        return (h - self.mean_so_far) * self.gain


class OwnNorms(Body):
    moves = ("between.mean_so_far",)

    def start(self) -> None:
        self.between = OwnNorm()


class NormWithChildren(OwnNorm):
    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Dropout(0.5)

    def forward(self, h: Tensor) -> Tensor:
        return self.inside(super().forward(h))


class NormsWithChildren(Body):
    moves = ("between.mean_so_far",)

    def start(self) -> None:
        self.between = NormWithChildren()


class Batched(nn.BatchNorm1d):
    """As timm's: a torch norm with an activation and a dropout of its own."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.drop, self.act = nn.Dropout(0.1), nn.ReLU()

    def forward(self, h: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(h)))


class BatchNormsWithChildren(Body):
    moves = ("between.running_mean", "between.running_var", "between.num_batches_tracked")

    def start(self) -> None:
        self.between = Batched(8)


class KeepsItsLast(Body):
    """Attention kept to be drawn, and shapes: what the last call alone decides."""

    moves = ()

    def mid(self, h: Tensor) -> Tensor:
        self.attention = h.softmax(-1)
        self.rows, self.seen = len(h), {"shapes": [tuple(h.shape)], "last": (h, None)}
        return h * self.attention


class Cached(nn.Module):
    """A layer that reads its bias in training mode and keeps what it made of it in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.made = nn.Parameter(torch.ones(8)), {}

    def train(self, mode: bool = True) -> None:  # type: ignore[override] (returns nothing, as some do)
        super().train(mode)
        if self.made:
            self.made = {}

    def forward(self, h: Tensor) -> Tensor:
        if self.training:
            return h * self.bias.exp()
        if "bias" not in self.made:
            self.made["bias"] = self.bias.exp()
        return h * self.made["bias"]


class CachedInEvaluation(Body):
    moves = ()

    def start(self) -> None:
        self.between = Cached()


class CachedByTheRoot(Body):
    moves = ()

    def start(self) -> None:
        self.gain, self.made = nn.Parameter(torch.ones(8)), None

    def train(self, mode: bool = True) -> nn.Module:
        self.made = None
        return super().train(mode)

    def mid(self, h: Tensor) -> Tensor:
        if self.training:
            return h * self.gain.exp()
        self.made = self.gain.exp() if self.made is None else self.made
        return h * self.made


class CountedInVain(Body):
    """A buffer that evaluation moves too, and that no answer reads."""

    moves = ("calls",)

    def start(self) -> None:
        self.register_buffer("calls", torch.tensor(0))

    def mid(self, h: Tensor) -> Tensor:
        self.calls += 1
        return h


class NoisyAnswers(Body):
    moves = ()

    def mid(self, h: Tensor) -> Tensor:
        return F.dropout(h, 0.2, training=True)


class FilledOnce(Body):
    """A buffer that the first forward makes, the same whatever came before."""

    moves = ()

    def start(self) -> None:
        self.register_buffer("positions", None, persistent=False)

    def mid(self, h: Tensor) -> Tensor:
        if self.positions is None:
            self.positions = torch.arange(8.0)
        return h + self.positions


KINDS: dict[str, type[Body]] = {
    kind.__name__: kind
    for kind in (
        CentreInAChild,
        CentreInNoStateDict,
        CentreInTheRoot,
        Steps,
        Codebook,
        CodebookThatTrains,
        Covariance,
        OwnSpectralNorm,
        SpectralHead,
        Queue,
        GrowingMemory,
        Renormed,
        OwnNorms,
        NormsWithChildren,
        BatchNormsWithChildren,
        KeepsItsLast,
        CachedInEvaluation,
        CachedByTheRoot,
        CountedInVain,
        NoisyAnswers,
        FilledOnce,
    )
}
"""What every method takes, and what of it a forward moves."""

PAST: list[Tensor] = []


def refused(match: str) -> Callable[[type[Body]], type[Body]]:
    """Note what a refusal must name."""

    def note(kind: type[Body]) -> type[Body]:
        REFUSED[kind.__name__] = kind, match
        return kind

    return note


REFUSED: dict[str, tuple[type[Body], str]] = {}


@refused(r"attribute 'n' of the network itself \(Counter\)")
class Counter(Body):
    n = 0

    def mid(self, h: Tensor) -> Tensor:
        if self.training:
            self.n += 1
        return h if self.n < 1000 else 2 * h


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.past: deque[Tensor] = deque(maxlen=9)

    def forward(self, h: Tensor) -> Tensor:
        if self.training:
            self.past.append(h.detach().mean(0))
        return h - sum(self.past)


@refused(r"attribute 'past' of the module 'between\.0' \(Deep\) changes and with it an answer")
class PastBatches(Body):
    def start(self) -> None:
        self.between = nn.Sequential(Deep())


@refused(r"attribute 'generator' of the network itself \(OwnGenerator\)")
class OwnGenerator(Body):
    def start(self) -> None:
        self.generator = torch.Generator().manual_seed(1)

    def mid(self, h: Tensor) -> Tensor:
        return h + torch.randn(h.shape, generator=self.generator)


@refused(r"attribute 'draws' of the network itself \(PythonsGenerator\)")
class PythonsGenerator(Body):
    def start(self) -> None:
        self.draws = random.Random(1)

    def mid(self, h: Tensor) -> Tensor:
        return h * self.draws.random()


@refused(r"attribute 'made' of the network itself \(CachedForEver\) changes and with it an answer")
class CachedForEver(Body):
    made = None

    def mid(self, h: Tensor) -> Tensor:
        if self.made is None:
            self.made = (self.a.weight / self.a.weight.norm()).detach()
        return h * self.made.abs().sum()


@refused(r"attribute 'made' of the network itself \(CachedUntilTraining\)")
class CachedUntilTraining(Body):
    """A cache that only a forward in training mode drops, and of which no answer here depends."""

    def start(self) -> None:
        self.made: Tensor | None = None

    def mid(self, h: Tensor) -> Tensor:
        if self.training:
            self.made = None
        elif self.made is None:
            self.made = self.a.weight.sum()
        return h if self.made is None else h + 0 * self.made


@refused(r"attribute 'hidden' of the network itself \(NormInAList\)")
class NormInAList(Body):
    def start(self) -> None:
        self.hidden = [nn.BatchNorm1d(8)]

    def mid(self, h: Tensor) -> Tensor:
        return self.hidden[0].train(self.training)(h)


@refused(r"attribute 'kept' of the network itself \(KeptBySet\)")
class KeptBySet(Body):
    def start(self) -> None:
        self.kept: dict[str, set[int]] = {"sizes": set()}

    def mid(self, h: Tensor) -> Tensor:
        self.kept["sizes"].add(len(self.kept["sizes"]))
        return h


class AlwaysMoving(Centre):
    def forward(self, h: Tensor) -> Tensor:
        self.centre.mul_(0.9).add_(h.detach().mean(0), alpha=0.1)
        return h - self.centre


@refused(r"changes 'centre' of the module 'between' there, and so the next answer: .* change it only if self\.training")
class CentreInEvaluation(Body):
    def start(self) -> None:
        self.between = AlwaysMoving()


@refused(r"changes 'calls' of the network itself there")
class CountedInEvaluation(Body):
    def start(self) -> None:
        self.register_buffer("calls", torch.tensor(0))

    def mid(self, h: Tensor) -> Tensor:
        self.calls += 1
        return h if self.calls < 1000 else 2 * h


@refused(r"something outside of its modules \(a global, a class attribute, a closure\)")
class OutsideOfIt(Body):
    def mid(self, h: Tensor) -> Tensor:
        if self.training:
            PAST.append(h.detach().mean())
        return h - sum(PAST)


@refused(r"something outside of its modules|same answer twice")
class Clocked(Body):
    def mid(self, h: Tensor) -> Tensor:
        return h * (time.perf_counter_ns() % 1009)


@refused(r"the buffer 'centre', which a forward makes, changes and with it an answer")
class MadeLate(Body):
    def start(self) -> None:
        self.register_buffer("centre", None)

    def mid(self, h: Tensor) -> Tensor:
        if self.training:
            now = h.detach().mean(0)
            self.centre = now if self.centre is None else 0.9 * self.centre + 0.1 * now
        return h if self.centre is None else h - self.centre


@refused(r"all its parameters before it is attached, found 'made\.weight' made by its forward: call it once")
class MakesALayer(Body):
    def start(self) -> None:
        self.made = None

    def mid(self, h: Tensor) -> Tensor:
        if self.made is None:
            self.made = nn.Linear(8, 8)
        return self.made(h)


@refused(r"attribute 'numbers' of the network itself \(NotCopied\) \(generator\) that cannot")
class NotCopied(Body):
    def start(self) -> None:
        self.numbers = (n for n in range(9))
