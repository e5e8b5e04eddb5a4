"""Where and how do masks of a frozen network start, and do scales help them? Four rates of travel an arm.

Phase A chooses, by validation: on MiniLM four neighbours of the 20 Newsgroups that the board does not use; on
EfficientNet-Lite0 FashionMNIST. Phase B reports, once: the board's three tasks; two groups of ten classes of Tiny
ImageNet (ImageNet's classes contain them). Every run is a line of benchmarks/starts.csv, which is not run again;
`Piggyback`'s defaults of a kind of network follow from it.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent / "fidelity"))
import _texts as texts
import backbone_study as lite

from _board import BATCH, EPOCHS, EXAMPLES, chosen
from _board_ours import halves, of_phase
from _measure import machine, validated
from polymask import Piggyback, Stream, Training, learn
from polymask.methods.piggyback import init_for
from polymask.parts.binarize import kept_count, straight_through, top_k
from polymask.sites.slots import Scores
from polymask.streams import make_stream

FILE = Path(__file__).with_suffix(".csv")
FIELDS = ("phase", "network", "arm", "knob", "seed", "accuracy")
ATTENTION = ["*attention*weight"]
LAST = ["*layer.3.*weight", "*layer.4.*weight", "*layer.5.*weight"]
KAPPAS = {"MiniLM": (1.2, 2.4, 5.0, 10.0), "EfficientNet-Lite0": (5.0, 20.0, 80.0, 320.0)}
DENSITIES = (0.98, 0.95, 0.9, 0.7)


class TopK(Piggyback):
    """What is kept of a layer are so many of the largest ``|score|``; scores begin at the weights' magnitudes."""

    def __init__(self, model: Any, example: Any, *, density: float = 0.9, **options: Any) -> None:
        self.density = density
        super().__init__(model, example, **options)

    def _open(self, phase: str, batches: Any) -> None:
        for name in self.sites.weights:
            w = self.sites.base(name)
            scores = 0.01 * w.abs() / w.abs().mean()
            mask = Largest(kept_count(w.numel(), self.density))
            self.give_scores(name, Scores(scores, mask.read, mask))


@dataclass(frozen=True)
class Largest:
    """A mask of the largest ``|score|``, and how a weight is read through it."""

    count: int

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        return top_k(scores.detach(), self.count)

    def read(self, w: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return straight_through(w, scores, self(scores), signed=True)


@dataclass(frozen=True)
class Arm:
    """One place and way to start; ``only`` names the network that it is for."""

    options: Mapping[str, Any] = field(default_factory=dict)
    only: str | None = None
    top: bool = False


CONSTANT, MAGNITUDE = {"start": "constant"}, {"start": "magnitude"}
FROZEN, PRIVATE = {"norms": "frozen"}, {"norms": "private"}
ARMS: Mapping[str, Arm] = {
    "all, constant, norms frozen": Arm({**CONSTANT, **FROZEN}),
    "all, magnitude, norms frozen": Arm({**MAGNITUDE, **FROZEN}),
    "all, constant, norms private": Arm({**CONSTANT, **PRIVATE}),
    "all, magnitude, norms private": Arm({**MAGNITUDE, **PRIVATE}),
    "all, top-k, norms frozen": Arm(FROZEN, top=True),
    "all, top-k, norms private": Arm(PRIVATE, top=True),
    "attention, constant, norms frozen": Arm({**CONSTANT, **FROZEN, "masked": ATTENTION}, "MiniLM"),
    "last half, constant, norms frozen": Arm({**CONSTANT, **FROZEN, "masked": LAST}, "MiniLM"),
    **{
        f"all, magnitude, norms {norms}, a scale a {scale}": Arm(
            {**MAGNITUDE, "norms": norms, "scale": scale}, "EfficientNet-Lite0"
        )
        for norms in ("frozen", "private")
        for scale in ("tensor", "unit")
    },
}


def knobs(network: str, arm: str) -> tuple[float, ...]:
    """The four tries: kappa, or of top-k the density."""
    return DENSITIES if ARMS[arm].top else KAPPAS[network]


def learned(phase: str, network: str, arm: str, knob: float, seed: int, data_root: str) -> float:
    """The mean over tasks: of A of the best validation accuracy, of B of the test accuracy; in points of 100."""
    text = network == "MiniLM"
    stream = text_stream(phase, data_root) if text else image_stream(phase, data_root, seed)
    lr, epochs, batch = (1e-4, EPOCHS, BATCH) if text else (1e-3, lite.EPOCHS, lite.BATCH)
    rows = EXAMPLES if text else 0.9 * lite.TRAIN
    options = dict(ARMS[arm].options)
    if text:
        options.setdefault("masked", ["bert.encoder.*.weight"])
    # The sum of the schedule's factors: one a step, or half of them under a cosine.
    steps = epochs * rows / batch * (1.0 if text else 0.5)
    options["density" if ARMS[arm].top else "init"] = knob if ARMS[arm].top else init_for(knob, lr, steps)
    training = Training(
        epochs=epochs,
        optimizer="adamw" if text else "adam",
        lr=chosen("linear probe") if text else 1e-3,
        mask_lr=lr,
        norm_lr=1e-3 if text else 0.01,
        schedule="constant" if text else "cosine",
        batch_size=batch,
        device="cpu",
        quiet=True,
    )
    model = texts.encoder(4, seed) if text else lite.network(seed, True)
    with tempfile.TemporaryDirectory() as folder:
        kind = TopK if ARMS[arm].top else Piggyback
        run = learn(model, stream, kind, out=folder, seed=seed, training=training, options=options)
        return 100 * mean(validated(folder).values() if phase == "A" else run.report["accuracy"][-1])


def text_stream(phase: str, data_root: str) -> Stream:
    """Four neighbours of the 20 Newsgroups, or the board's tasks."""
    return of_phase(phase, data_root) if phase == "B" else halves((1,), data_root)


def image_stream(phase: str, data_root: str, seed: int) -> Stream:
    """Some of FashionMNIST, or of two groups of Tiny ImageNet."""
    if phase == "A":
        return Stream("fashion", (lite.images(data_root, lite.FASHION, seed),))
    groups = [[*range(10)], [*range(100, 110)]]
    how: dict[str, Any] = {"data_root": data_root, "tasks": groups, "size": (lite.SIZE, lite.SIZE), "examples": 2000}
    return make_stream("split", ["zh-plus/tiny-imagenet"], **how)


def known() -> dict[tuple[str, ...], float]:
    """What was measured: every field but the last -> accuracy."""
    if not FILE.exists():
        return {}
    with FILE.open() as file:
        return {tuple(line[name] for name in FIELDS[:-1]): float(line["accuracy"]) for line in csv.DictReader(file)}


def best(network: str, arm: str, found: Mapping[tuple[str, ...], float]) -> float:
    """The knob that validates best on A; exit with a sentence while a try is missing."""
    tries = {knob: found.get(("A", network, arm, f"{knob:g}", "0")) for knob in knobs(network, arm)}
    if None in tries.values():
        sys.exit(f"expected all four tries of {arm!r} on A, found {tries}: --phase A first, or --arms without it")
    return max(tries, key=lambda knob: tries[knob] or 0.0)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", default=os.environ.get("POLYMASK_DATA_ROOT"), required=False)
    parser.add_argument("--phase", choices=("A", "B"), help="without it nothing is run")
    parser.add_argument("--network", choices=tuple(KAPPAS), default="MiniLM")
    parser.add_argument(
        "--arms", nargs="+", choices=tuple(ARMS), default=tuple(ARMS), metavar="ARM", help="these alone"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of phase B")
    parser.add_argument("--minutes", type=float, default=9.5, help="begin no run after so many")
    args = parser.parse_args()
    if args.phase is None:
        print("expected --phase A or B, found none: nothing is run")
        return
    if args.data_root is None:
        parser.error("expected --data-root, a folder of data sets, found none")
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    print(machine())
    start, found = time.monotonic(), known()
    for arm in args.arms:
        if ARMS[arm].only not in (None, args.network):
            continue
        runs = [(knob, 0) for knob in knobs(args.network, arm)]
        if args.phase == "B":
            runs = [(best(args.network, arm, found), seed) for seed in args.seeds]
        for knob, seed in runs:
            key = (args.phase, args.network, arm, f"{knob:g}", str(seed))
            if key in found:
                continue
            if time.monotonic() - start > 60 * args.minutes:
                print(f"Stopped after {args.minutes:g} minutes: run the same command again, it goes on.")
                sys.exit(3)
            accuracy = learned(args.phase, args.network, arm, knob, seed, args.data_root)
            print(*key, f"{accuracy:.2f}", sep="; ", flush=True)
            append((*key, f"{accuracy:.2f}"))


def append(line: tuple[str, ...]) -> None:
    """Write a run down."""
    new = not FILE.exists()
    with FILE.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(FIELDS)
        writer.writerow(line)


if __name__ == "__main__":
    main()
