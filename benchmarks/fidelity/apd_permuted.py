"""APD on permuted digits: accuracy and order robustness over capacity, beside fine-tuning and no anchor."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from _row import WORK, OutOfTimeError, Target, Values, _where, limited, options, write

sys.path.insert(0, str(Path(__file__).parents[2]))
from polymask import METHODS, Training, learn
from polymask.disk import write_file
from polymask.methods import APD
from polymask.nets import build_net
from polymask.report.metrics import aopd, mopd
from polymask.streams import make_stream

ORDERS = ((0, 1, 2, 3, 4, 5), (3, 5, 1, 0, 4, 2), (4, 2, 0, 5, 3, 1))
SPARSE = {"lambda1": 0.01, "shrink": 0.85}
"""Chosen on permuted MNIST of 8x8 (``benchmarks/apd_sparsity.py``), for six tasks within 300 % of the capacity."""
ARMS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "lambda2 100": ("apd", SPARSE),
    "lambda2 1": ("apd", {**SPARSE, "lambda2": 1.0}),
    "lambda2 0.01": ("apd", {**SPARSE, "lambda2": 0.01}),
    "exact": ("apd", {**SPARSE, "form": "exact"}),
    "no anchor": ("apd", {**SPARSE, "form": "fixed", "lambda2": 0.0}),
    "consolidated": ("apd", {**SPARSE, "consolidate": 3}),
    "fine-tuning": ("finetune", {}),
}
SETTING = "6 permuted-digit tasks in 3 orders, MLP 64-100-100, 15 epochs of Adam at 1e-3"


def all_below(*arms: str) -> Any:
    """Whether the default's disparities are below those of these arms, and its capacity at most 300 %."""

    def reached(values: Values) -> bool:
        ours = {key: mean(values[f"lambda2 100, {key}"]) for key in ("capacity", "AOPD", "MOPD")}
        lower = all(ours[key] < mean(values[f"{arm}, {key}"]) for arm in arms for key in ("AOPD", "MOPD"))
        return lower and ours["capacity"] <= 300

    return reached


TARGET = Target(
    "apd-permuted-digits", "APD", SETTING,
    "capacity at most 300 %, AOPD and MOPD below fine-tuning and below no anchor", "specified",
    all_below("fine-tuning", "no anchor"), tuple(ARMS),
)  # fmt: skip

TARGETS = [TARGET]


def run(name: str, order: int, seed: int) -> dict[str, Any]:
    """One run's final accuracies by task, in points, and its capacity; an earlier call's is used."""
    done = WORK / TARGET.name / f"{name}-{order}-{seed}.json".replace(" ", "-")
    if not done.exists():
        method, how = ARMS[name]
        torch.manual_seed(seed)
        model = build_net("mlp", (1, 8, 8), 10, hidden=(100, 100))
        stream = make_stream("digits-permuted", tasks=6, seed=seed, order=ORDERS[order])
        training = Training(epochs=15, optimizer="adam", lr=1e-3, schedule="constant", device="cpu")
        made = learn(model, stream, METHODS[method], seed=seed, training=training, options=how)
        final = [100 * value for value in made.report["accuracy"][-1]]
        names = [task.name for task in stream]
        active = made.method.active()["capacity"] if isinstance(made.method, APD) else 1.0
        found = {"final": dict(zip(names, final, strict=True)), "capacity": 100 * active, "machine": _where("cpu")}
        done.parent.mkdir(parents=True, exist_ok=True)
        write_file(done, json.dumps(found).encode())
        print(f"{name}, order {order}, seed {seed}: {mean(final):.2f} % at {100 * active:.0f} %", flush=True)
    loaded: dict[str, Any] = json.loads(done.read_text())
    return loaded


def values_of(name: str, runs: Mapping[tuple[int, int], Mapping[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """The numbers of an arm: accuracy and capacity seed by seed, disparities of averages over seeds."""
    finals = {
        task: [mean(runs[order, seed]["final"][task] for seed in seeds) for order in range(len(ORDERS))]
        for task in runs[0, seeds[0]]["final"]
    }
    by_seed = [[runs[order, seed] for order in range(len(ORDERS))] for seed in seeds]
    return {
        f"{name}, accuracy": [mean(mean(one["final"].values()) for one in ones) for ones in by_seed],
        f"{name}, capacity": [mean(one["capacity"] for one in ones) for ones in by_seed],
        f"{name}, AOPD": [aopd(finals)],
        f"{name}, MOPD": [mopd(finals)],
    }


def main() -> None:
    args = options(__doc__ or "")
    seeds = args.seeds if args.seeds != [0, 1, 2] else [0, 1, 2, 3, 4]
    torch.set_num_threads(args.threads)
    found: dict[str, Any] = {}
    machines: set[str] = set()
    try:
        with limited(args.minutes):
            for name in ARMS:
                runs = {(order, seed): run(name, order, seed) for seed in seeds for order in range(len(ORDERS))}
                found |= values_of(name, runs, seeds)
                machines |= {one["machine"] for one in runs.values()}
            write(TARGET, found, seeds, machines)
    except OutOfTimeError:
        print(f"Stopped after {args.minutes:g} minutes: run the same command again, it goes on.")
        sys.exit(3)


if __name__ == "__main__":
    main()
