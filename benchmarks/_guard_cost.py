"""What begin, end and commit cost: of the 1,000th small task beside the 10th, and of a ResNet-18 beside its hashes."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F

from _measure import Times, show, spread, verdict
from polymask import HAT, Bank, Method, PackNet, Piggyback
from polymask.nets import MLP, build_net
from polymask.parts.pack import unpack
from polymask.task import reads

MOST, BEYOND, TURNS, EARLY = 1.2, 0.3, 9, 10
PARTS = ("begin", "end", "commit")
SMALL: dict[str, Callable[[nn.Module, torch.Tensor], Method]] = {"piggyback": Piggyback, "hat": HAT}
LARGE = {**SMALL, "packnet": PackNet}


class Learner:
    """A method with a bank, and the seconds that its verbs take."""

    def __init__(
        self, make: Callable[[nn.Module, torch.Tensor], Method], net: nn.Module, shape: tuple[int, ...]
    ) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
        self.method, self.times, self.count = make(net, self.x), Times(), 0
        about = {"method": self.method.name, "head": self.method.head, "drawn": self.method.drawn, "example": self.x}
        self.bank = Bank.create(Path(self.folder.name) / "bank", self.method.sites, **about)

    def add(self) -> None:
        """One task from begin to its place on disk, its verbs timed; the steps between are not."""
        task, method, timed = f"task {self.count}", self.method, Times()
        for phase in method.phases:
            timed.time("begin", lambda phase=phase: method.begin(task, phase))
            optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
            method.model.train()
            method.on_step(0.5)
            loss = F.cross_entropy(method.model(self.x), torch.arange(4) % 2) + method.penalty()
            loss.backward()
            optimizer.step()
        timed.time("end", lambda: method.end(task))
        timed.time("commit", lambda: self.bank.commit({task: method.record(task)}, method.sites))
        for part in PARTS:
            self.times.add(part, sum(timed.wall[part]), sum(timed.cpu[part]))
        self.times.add(
            "whole", *(sum(clock[part][-1] for part in PARTS) for clock in (self.times.wall, self.times.cpu))
        )
        self.count += 1


def early_and_late(name: str, count: int) -> list[list[str]]:
    """A young learner around its 10th task and an old one around its last, in turns: medians and ratios of a turn."""
    young, old = (Learner(SMALL[name], MLP(64, (32,), 2), (64,)) for _ in range(2))
    for _ in range(EARLY - TURNS // 2):
        young.add()
    for _ in range(count - TURNS // 2):
        old.add()
    young.times, old.times = Times(), Times()
    for _ in range(TURNS):
        young.add()
        old.add()
    rows = [["part", f"task {EARLY}, CPU ms", f"task {count}, CPU ms", "late / early", "target"]]
    for part in (*PARTS, "whole"):
        early, late = young.times.cpu[part], old.times.cpu[part]
        ratios = [b / a for a, b in zip(early, late, strict=True)]
        target = verdict(median(ratios), MOST) if part == "whole" else ""
        rows.append([part, f"{1e3 * median(early):.2f}", f"{1e3 * median(late):.2f}", spread(ratios), target])
    return rows


def beyond_reads(name: str, width: int, tasks: int) -> list[str]:
    """Medians over all tasks but the first: each verb, the record's hashes asked for once more, what lies beyond."""
    learner = Learner(LARGE[name], build_net("resnet18", (3, 32, 32), 10, width=width), (3, 32, 32))
    hashes, rest = [], []
    for _ in range(tasks):
        learner.add()
        record = learner.method.record(f"task {learner.count - 1}")
        masks = {name: unpack(packed) for name, packed in record.masks.items()}
        begun = time.process_time()
        reads(learner.method.sites, masks)
        hashes.append(time.process_time() - begun)
        rest.append(learner.times.cpu["whole"][-1] - hashes[-1])
    middle = [f"{median(learner.times.cpu[part][1:]):.3f}" for part in (*PARTS, "whole")]
    found = median(rest[1:])
    return [name, *middle, f"{median(hashes[1:]):.3f}", f"{found:.3f}", verdict(found, BEYOND, " s")]


def cost(quick: bool, methods: Sequence[str]) -> None:
    """Both parts, printed, for those of some methods that have one."""
    warnings.simplefilter("ignore")
    count, width, tasks = (30, 8, 3) if quick else (1000, 64, 6)
    for name in [name for name in SMALL if name in methods]:
        show(f"{name}, MLP 64-32-2, the {count}th task beside the {EARLY}th, CPU", early_and_late(name, count))
    rows = [["method", *PARTS, "whole", "reads", "beyond reads", "target"]]
    rows += [beyond_reads(name, width, tasks) for name in LARGE if name in methods]
    show(f"ResNet-18, width {width}, CPU seconds a task", rows)
