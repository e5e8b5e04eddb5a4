"""A published or specified number beside ours: what is measured, how often, and whether it was reached."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from _measure import machine
from polymask.disk import write_file

HERE = Path(__file__).parent
RESULTS, WORK = HERE / "results", HERE.parents[1] / "build" / "fidelity"

SEEDS = [0, 1, 2]

Values = Mapping[str, Sequence[float]]
"""Arm -> one number a seed; most rows have the one arm "ours"."""


@dataclass(frozen=True)
class Target:
    """One row of the table.

    Args:
        name: of its result, unique.
        method: which method it is about.
        setting: data, network and protocol in a phrase.
        target: the number or the relation, as text.
        source: "published", "recalled" (quoted from memory) or "specified".
        reached: whether the values reach it; a row that fails is "approximated", its distance printed. None: nothing
            was to be reached, what is found is "reported".
        arms: what is measured for it.
        reduced: how our protocol is smaller than the source's; such a row is never more than "approximated".
        asked: further words of its command.
    """

    name: str
    method: str
    setting: str
    target: str
    source: str
    reached: Callable[[Values], bool] | None
    arms: Sequence[str] = ("ours",)
    reduced: str = ""
    asked: str = ""


def near(value: float, within: float) -> Callable[[Values], bool]:
    """Whether our mean lies within so much of a number."""
    return lambda values: abs(mean(values["ours"]) - value) <= within


class OutOfTimeError(Exception):
    """The minutes of a piece are over; what is finished is kept."""


@contextmanager
def limited(minutes: float) -> Iterator[None]:
    """Stop whatever runs after so many minutes."""

    def stop(*_: object) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def options(what: str, gpu: bool = False, host: str | None = None) -> argparse.Namespace:
    """The command line that all rows share, and where or with which host they are computed if that is open."""
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data-root", default=os.environ.get("POLYMASK_DATA_ROOT"), help="a folder of data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=9.5, help="stop after so many; the same command goes on")
    parser.add_argument("--only", nargs="+", help="names of rows")
    parser.set_defaults(device="cpu")
    if gpu:
        parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    if host is not None:
        parser.add_argument(
            "--host", default=host, help="folder, or name on the hub, of another host; rows are its own"
        )
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("expected a GPU for --device cuda, found none: leave it out")
    return args


def measure(
    what: str,
    targets: Sequence[Target],
    arm: Callable[[Target, str, int, Path, Any], float],
    gpu: bool = False,
    host: str | None = None,
) -> None:
    """Measure what is missing of some rows, seed by seed, and write those that are complete.

    Args:
        what: the script's first line.
        targets: its rows.
        arm: ``(target, arm, seed, work folder, arguments) -> number``; called again with the same folder after a stop.
        gpu: whether ``arm`` heeds ``--device``.
        host: what ``--host`` is by default, where ``arm`` heeds it; what another one gets is kept apart.
    """
    args = options(what, gpu, host)
    torch.set_num_threads(args.threads)
    chosen = [target for target in targets if args.only is None or target.name in args.only]
    if host is not None and args.host != host:
        own = Path(args.host).name
        chosen = [replace(one, name=f"{one.name}-{own}", setting=one.setting.replace(host, own)) for one in chosen]
    try:
        with limited(args.minutes):
            for target in chosen:
                found = {name: [_one(target, name, seed, arm, args) for seed in args.seeds] for name in target.arms}
                values = {name: [one["value"] for one in ones] for name, ones in found.items()}
                write(target, values, args.seeds, {one["machine"] for ones in found.values() for one in ones})
    except OutOfTimeError:
        print(f"Stopped after {args.minutes:g} minutes: run the same command again, it goes on.")
        sys.exit(3)


def _one(target: Target, name: str, seed: int, arm: Callable[..., float], args: Any) -> dict[str, Any]:
    work = WORK / target.name / f"{name}-{seed}".replace(" ", "-")
    done = work / "value.json"
    if not done.exists():
        work.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        value = arm(target, name, seed, work, args)
        write_file(done, json.dumps({"value": value, "machine": _where(args.device)}).encode())
        print(f"{target.name}: {name}, seed {seed}: {value:.4f} ({time.perf_counter() - start:.0f} s)", flush=True)
    return {"machine": "not recorded", **json.loads(done.read_text())}


def _where(device: str) -> str:
    """What measures: a processor or a GPU, and torch."""
    name = torch.cuda.get_device_name() if device == "cuda" else machine().partition(", load")[0]
    return f"{name}; torch {torch.__version__}"


def write(target: Target, values: Values, seeds: Sequence[int], machines: Set[str]) -> None:
    """Write a row's result; the table is made from these."""
    reached = None if target.reached is None else target.reached(values)
    row = {
        "name": target.name,
        "method": target.method,
        "setting": target.setting,
        "target": target.target,
        "source": target.source,
        "reduced": target.reduced,
        "status": status(target, reached),
        "reached": reached,
        "seeds": list(seeds),
        "values": {name: [round(value, 4) for value in found] for name, found in values.items()},
        "ours": "; ".join(_summary(name, found) for name, found in values.items()),
        "command": command_of(Path(sys.argv[0]).name),
        "machine": " / ".join(sorted(machines)),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{target.name}.json").write_text(json.dumps(row, indent=2) + "\n")
    print(f"{target.name}: target {target.target}; {row['ours']}: {row['status']}")


def status(target: Target, reached: bool | None) -> str:
    """What a row is called: no more than was measured."""
    if reached is None:
        return "reported"
    return "reproduced" if reached and not target.reduced else "approximated"


def command_of(script: str) -> str:
    return f"python benchmarks/fidelity/{script} --data-root DATA"


def _summary(name: str, found: Sequence[float]) -> str:
    spread = f" ± {stdev(found):.2f}" if len(found) > 1 else ""
    return ("" if name == "ours" else f"{name} ") + f"{mean(found):.2f}{spread}"
