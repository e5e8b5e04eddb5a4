"""Does the 200th task cost more than the 2nd?  Piggyback and SupSup, narrow ResNet-18, each task into a bank."""

from __future__ import annotations

import gc
import tempfile
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F

from _measure import Times, machine, options, show, threads, verdict
from polymask import Bank, Method, Piggyback, SupSup, TaskRecord
from polymask.nets import build_net

MOST, STEPS = 1.1, 3
METHODS: dict[str, Callable[[nn.Module, torch.Tensor], Method]] = {"Piggyback": Piggyback, "SupSup": SupSup}
PARTS = ("begin", "steps", "end", "commit")


def new(name: str, folder: str) -> tuple[Method, Bank]:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    method = METHODS[name](build_net("resnet18", (3, 32, 32), 10, width=20), x)
    kept = {"head": method.head, "drawn": method.drawn, "example": x}
    return method, Bank.create(Path(folder) / "bank", method.sites, method=method.name, **kept)


def add(method: Method, bank: Bank, task: str, times: Times) -> None:
    """One task from begin to its place on disk; its parts timed one by one, its whole as their sum."""

    def steps() -> None:
        draw = torch.Generator().manual_seed(0)
        x, y = torch.randn(4, 3, 32, 32, generator=draw), torch.randint(10, (4,), generator=draw)
        optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
        method.model.train()
        for k in range(STEPS):
            method.on_step(k / STEPS)
            optimizer.zero_grad()
            F.cross_entropy(method.model(x), y).backward()
            optimizer.step()

    times.time("begin", lambda: method.begin(task))
    times.time("steps", steps)
    times.time("end", lambda: method.end(task))
    times.time("commit", lambda: bank.commit({task: method.record(task)}, method.sites))
    times.add("whole", *(sum(clock[part][-1] for part in PARTS) for clock in (times.wall, times.cpu)))


def size_of(record: TaskRecord) -> int:
    """A record's tensors in memory."""
    return sum(mask.nbytes for mask in record.masks.values()) + sum(value.nbytes for value in record.private.values())


def early_and_late(times: Times, count: int) -> list[list[str]]:
    """A row a part: the median of tasks 2 to 7, of the last six, and their ratio."""
    rows = [["part", "tasks 2-7, ms", f"tasks {count - 5}-{count}, ms", "late / early", "CPU late / early", "target"]]
    for part in (*PARTS, "whole"):
        wall, cpu = ([median(clock[part][1:7]), median(clock[part][-6:])] for clock in (times.wall, times.cpu))
        ratio, target = wall[1] / wall[0], verdict(wall[1] / wall[0], MOST) if part == "whole" else ""
        figures = [f"{1e3 * wall[0]:.1f}", f"{1e3 * wall[1]:.1f}", f"{ratio:.3f}", f"{cpu[1] / cpu[0]:.3f}", target]
        rows.append([part, *figures])
    return rows


def memory(name: str, count: int) -> str:
    """What a task leaves in memory beyond its own record: the median growth from one task to the next."""
    with tempfile.TemporaryDirectory() as folder:
        method, bank = new(name, folder)
        for place in range(3):
            add(method, bank, f"task {place}", Times())
        tracemalloc.start()
        counts = [alive() for place in range(count) if not add(method, bank, f"task {3 + place}", Times())]
        tracemalloc.stop()
        size = size_of(method.record(f"task {2 + count}"))
    tensors, python = (median(b - a for a, b in pairwise(column)) for column in zip(*counts, strict=True))
    return (
        f"  memory a task, median of {count}: its record's tensors {size:,} bytes; tensors alive grow by {tensors:,.0f}"
        f" ({tensors - size:+,.0f}); Python's own allocations by {python:,.0f}, numpy's payloads of masks among them"
    )


def alive() -> tuple[int, int]:
    """The bytes of all distinct tensor storages, and those that Python's allocators hold."""
    gc.collect()
    tensors = (thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))
    storages = {one.data_ptr(): one.nbytes() for one in (tensor.untyped_storage() for tensor in tensors)}
    return sum(storages.values()), tracemalloc.get_traced_memory()[0]


def main() -> None:
    args = options(__doc__).parse_args()
    count = 20 if args.quick else 200
    print(machine())
    with threads(1):
        for name in METHODS:
            with tempfile.TemporaryDirectory() as folder:
                (method, bank), times = new(name, folder), Times()
                for place in range(count):
                    add(method, bank, f"task {place}", times)
            show(f"{name}: {count} tasks, {STEPS} steps each, 1 thread", early_and_late(times, count))
            print(memory(name, 5 if args.quick else 25))


if __name__ == "__main__":
    main()
