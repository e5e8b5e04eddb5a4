"""Does the 200th task cost more than the 2nd?  Piggyback and SupSup, narrow ResNet-18, each task into a bank."""

from __future__ import annotations

import gc
import resource
import tempfile
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F

from _long_run import early_and_late as in_turns
from _long_run import fill, opened, resumed
from _measure import Times, machine, options, show, spread, threads, verdict
from polymask import Bank, Method, Piggyback, SupSup, TaskRecord
from polymask.nets import build_net

MOST, STEPS, TURNS = 1.1, 3, 6
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


def side_by_side(name: str, count: int) -> tuple[Times, Times]:
    """Tasks 2 to 7 of one learner, and the last six of another, in turns: a clock that drifts moves both alike."""
    early, late = Times(), Times()
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        young, old = new(name, first), new(name, second)
        add(*young, "task 0", Times())
        for place in range(count - TURNS):
            add(*old, f"task {place}", Times())
        for turn in range(TURNS):
            add(*young, f"task {1 + turn}", early)
            add(*old, f"task {count - TURNS + turn}", late)
    return early, late


def early_and_late(early: Times, late: Times, count: int) -> list[list[str]]:
    """A row a part: its medians, and the median ratio of a turn with its quartiles."""
    rows = [["part", "tasks 2-7, ms", f"tasks {count - 5}-{count}, ms", "late / early", "CPU late / early", "target"]]
    for part in (*PARTS, "whole"):
        wall, cpu = (
            [b / a for a, b in zip(getattr(early, clock)[part], getattr(late, clock)[part], strict=True)]
            for clock in ("wall", "cpu")
        )
        target = verdict(median(wall), MOST) if part == "whole" else ""
        medians = [f"{1e3 * median(times.wall[part]):.1f}" for times in (early, late)]
        rows.append([part, *medians, spread(wall), f"{median(cpu):.3f}", target])
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


def long_run(method: str, folder: Path, count: int, seconds: float) -> None:
    """Whole runs of permuted digits: what a task costs besides its training, resuming, opening."""
    out, turns, most = folder / f"{method}-{count}", 20, 1.2
    late = count - turns - 10
    if (done := fill(method, count, out, late, seconds)) < late:
        print(f"{method}: {done} of {late} tasks are learned, the same command goes on")
        return
    if done < count:
        cpu, wall = resumed(method, count, out)
        print(f"{method}: resumed at task {done} in {cpu:.1f} CPU s, {wall:.1f} s besides imports")
        early, old = in_turns(method, count, out, turns)
        ratio, times = median(old) / median(early), [f"{1e3 * median(one):.1f}" for one in (early, old)]
        rows = [["", f"tasks 11-{10 + turns}, ms", f"tasks {count - turns + 1}-{count}, ms", "late / early", "target"]]
        rows.append(["CPU besides training", *times, f"{ratio:.3f}", verdict(ratio, most)])
        show(f"{method}: a run of {count} tasks, medians, in turns", rows)
    spent, grown = opened(out)
    print(f"{method}: a bank of {count} tasks opens in {spent:.1f} ms and {grown:.1f} MB")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"the process took {peak:.0f} MB at most, torch among them")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--run", type=Path, help="instead: whole runs in this folder, which a later call goes on with")
    parser.add_argument("--count", type=int, default=1000, help="tasks of such a run")
    parser.add_argument("--method", default="piggyback", help="of such a run")
    parser.add_argument("--seconds", type=float, default=540, help="after which such a run stops until the next call")
    args = parser.parse_args()
    count = 20 if args.quick else 200
    print(machine())
    if args.run is not None:
        with threads(1):
            long_run(args.method, args.run, args.count, args.seconds)
        return
    with threads(1):
        for name in METHODS:
            rows = early_and_late(*side_by_side(name, count), count)
            show(f"{name}: {count} tasks, {STEPS} steps each, 1 thread", rows)
            print(memory(name, 5 if args.quick else 25))


if __name__ == "__main__":
    main()
