"""What the benchmarks share: the machine in words, arms that take turns, ratios against the first arm, tables."""

from __future__ import annotations

import argparse
import csv
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median, quantiles

import torch

THREADS = (1, 2)


def options(what: str) -> argparse.ArgumentParser:
    """A command line with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run: few rounds, numbers without meaning")
    return parser


def with_data(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The same with a data root, for benchmarks that read MNIST where it is at hand."""
    root = os.environ.get("POLYMASK_DATA_ROOT")
    parser.add_argument("--data-root", default=root, help="a folder that holds ylecun/mnist; none: random tensors")
    return parser


def needed_root(args: argparse.Namespace, *names: str) -> str:
    """The data root, for benchmarks that mean nothing without these data sets; without one they end with a sentence."""
    if args.data_root is None:
        print(f"Not measured: expected --data-root, a folder that holds {' and '.join(names)}, found none.")
        raise SystemExit(0)
    root: str = args.data_root
    return root


def machine() -> str:
    """Processor, cores, load, torch and Python, in a line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    capability, load = torch.backends.cpu.get_cpu_capability(), os.getloadavg()[0]
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{name}, {os.cpu_count()} cores, {capability}, load {load:.1f} at the start; {versions}"


@cache
def with_torchvision() -> torch.library.Library:
    """The two operators that a torchvision of another build asks for by name; they live as long as the library."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class Times:
    """Seconds of every arm in every round: by the wall's clock, and of all the process's threads together.

    Args:
        wall: arm -> seconds of each round.
        cpu: likewise.
    """

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)

    def add(self, arm: str, wall: float, cpu: float) -> None:
        self.wall.setdefault(arm, []).append(wall)
        self.cpu.setdefault(arm, []).append(cpu)

    def time(self, arm: str, run: Callable[[], object]) -> None:
        """Run an arm once."""
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        self.add(arm, time.perf_counter() - wall, time.process_time() - cpu)

    def ratios(self, arm: str, against: str, clock: str = "wall") -> list[float]:
        """An arm over another, round by round."""
        seconds = self.wall if clock == "wall" else self.cpu
        return [a / b for a, b in zip(seconds[arm], seconds[against], strict=True)]


def take_turns(arms: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> Times:
    """Time the arms A B C A B C ..., so that what the machine does besides hits all of them alike."""
    times = Times()
    for turn in range(-warmup, rounds):
        for arm, run in arms.items():
            if turn < 0:
                run()
            else:
                times.time(arm, run)
    return times


def middle(values: Sequence[float]) -> tuple[float, float]:
    """The first and third quartile."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def spread(values: Sequence[float]) -> str:
    """Median and quartiles of ratios."""
    low, high = middle(values)
    return f"{median(values):.3f} ({low:.3f}-{high:.3f})"


def compare(times: Times, plain: str, targets: Mapping[str, float] | None = None, unit: float = 1e3) -> list[list[str]]:
    """A row an arm: medians, and medians of the per-round ratios against the plain arm."""
    rows = [["arm", "wall ms", "CPU ms", "wall / plain (quartiles)", "CPU / plain", "target"]]
    for arm in times.wall:
        ratio, target = times.ratios(arm, plain), (targets or {}).get(arm)
        rows.append(
            [
                arm,
                f"{median(times.wall[arm]) * unit:.3g}",
                f"{median(times.cpu[arm]) * unit:.3g}",
                spread(ratio) if arm != plain else "1",
                f"{median(times.ratios(arm, plain, 'cpu')):.3f}" if arm != plain else "1",
                "" if target is None else verdict(median(ratio), target),
            ]
        )
    return rows


def validated(folder: str | Path) -> dict[str, float]:
    """Task -> the best validation score of its epochs, from a run's folder."""
    best: dict[str, float] = {}
    with (Path(folder) / "epochs.csv").open() as file:
        for line in csv.DictReader(file):
            best[line["task"]] = max(best.get(line["task"], 0.0), float(line["val"] or 0))
    return best


def verdict(found: float, most: float, unit: str = "") -> str:
    """A target, and whether a figure meets it."""
    return f"<= {most:g}{unit} {'met' if found <= most else 'MISSED'}"


def show(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Print rows, the first of which names the columns."""
    print(f"\n{title}")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for place, row in enumerate(rows):
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip(), flush=True)
        if place == 0:
            print("  " + "  ".join("-" * width for width in widths))
