"""How often single images find their task, against the number of tasks: asked of a run that supsup_inference.py keeps.

It writes benchmarks/fidelity/results/NAME-by-tasks.csv, of which docs/inference_picture.py draws.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from _learn import some_of
from _row import RESULTS, WORK, OutOfTimeError, limited
from supsup_inference import PROTOCOLS, learned
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))
from polymask import Bank, Inference, Method, TaskRecord
from polymask.disk import write_file
from polymask.inference.infer import By, Way
from polymask.streams import prepare

WAYS: Mapping[str, tuple[Way, By]] = {
    "one-shot, H": ("one-shot", "entropy"),
    "one-shot, G": ("one-shot", "superfluous"),
    "binary, G": ("binary", "superfluous"),
    "every mask": ("every-mask", "entropy"),
}
COUNTS = (2, 5, 10, 25, 50, 100, 250, 1000, 2500)
ASKED, MOST = 500, 50
"""About so many images for each number of tasks, at most so many of a task."""


@dataclass
class First:
    """A learner of which only the first tasks are known."""

    method: Method
    count: int

    def __post_init__(self) -> None:
        self.sites = self.method.sites
        self.records: dict[str, TaskRecord] = dict(list(self.method.records.items())[: self.count])

    def plain(self, task: str) -> nn.Module:
        return self.method.plain(task)


def share(inference: Inference, method: Method, count: int, images: Sequence[Tensor]) -> float:
    """The share in % of single images of the first tasks whose task is found among these."""
    inference.update(First(method, count))
    each = min(MOST, max(1, ASKED // count))
    found = [
        choice == task
        for task, x in zip(inference.tasks, images, strict=False)
        for choice in inference(x[:each]).choice
    ]
    return 100 * sum(found) / len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data-root", default=os.environ.get("POLYMASK_DATA_ROOT"), help="a folder of data sets")
    parser.add_argument("--name", choices=sorted(PROTOCOLS), default="supsup-inference-250")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=9.5, help="stop after so many; the same command goes on")
    args = parser.parse_args()
    torch.set_num_threads(1)
    place, tasks = WORK / args.name / f"run-{args.seed}", PROTOCOLS[args.name].tasks
    if not (place / "bank").exists() or len(Bank.open(place / "bank").tasks) < tasks:
        raise SystemExit(f"expected a finished run in {place}, found none: supsup_inference.py --only {args.name}")
    done = WORK / args.name / f"by-tasks-{args.seed}.json"
    found: dict[str, float] = json.loads(done.read_text()) if done.exists() else {}
    counts = [count for count in COUNTS if count <= tasks]
    try:
        with limited(args.minutes):
            run, stream = learned(args.name, args.seed, place, args.data_root)
            feeds = (prepare(task, seed=args.seed).test for task in stream)
            images = [some_of(feed, MOST, place) for place, feed in enumerate(feeds)]
            for name, (way, by) in WAYS.items():
                inference = Inference(First(run.method, counts[0]), way, by)
                for count in counts:
                    if (key := f"{name} / {count}") not in found:
                        found[key] = share(inference, run.method, count, images)
                        write_file(done, json.dumps(found).encode())
                        print(f"{name}, {count} tasks: {found[key]:.2f} %", flush=True)
    except OutOfTimeError:
        print(f"Stopped after {args.minutes:g} minutes: run the same command again, it goes on.")
        sys.exit(3)
    with (RESULTS / f"{args.name}-by-tasks.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["tasks", *WAYS])
        writer.writerows([count, *(f"{found[f'{name} / {count}']:.2f}" for name in WAYS)] for count in counts)


if __name__ == "__main__":
    main()
