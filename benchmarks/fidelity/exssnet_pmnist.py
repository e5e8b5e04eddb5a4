"""ExSSNeT against SupSup at 10 % density with private heads on permuted MNIST, and SSNeT, which forgets."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

from _learn import permutations
from _row import Target, Values, measure

from polymask import Training, learn
from polymask.nets import build_net

SETTING = "10 permutations of MNIST, MLP 100-100, 10 % density, private heads, 2 epochs a task, batch 128"
OPTIONS: dict[str, tuple[str, dict[str, Any], int]] = {
    "exssnet": ("exssnet", {"density": 0.1}, 1),
    "supsup": ("supsup", {"density": 0.1, "heads": "private"}, 2),
    "ssnet": ("exssnet", {"density": 0.1, "exclusive": False}, 1),
}


def above(values: Values) -> bool:
    return mean(values["exssnet"]) > mean(values["supsup"])


TARGETS = [
    Target(
        "pmnist-exssnet-above-supsup",
        "ExSSNeT",
        SETTING,
        "accuracy of ExSSNeT above SupSup's",
        "specified",
        above,
        ("exssnet", "supsup"),
    ),
    Target(
        "pmnist-ssnet-drifts",
        "SSNeT",
        SETTING,
        "largest logit drift: ExSSNeT's 0, SSNeT's not",
        "specified",
        lambda values: max(values["exssnet"]) == 0 < min(values["ssnet"]),
        ("exssnet", "ssnet"),
    ),
]


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    method, options, epochs = OPTIONS[name]
    # As many epochs for a mask alone as for a mask and its weights together; scores learn at one rate in all arms.
    rate = {"lr": 1e-2} if method == "supsup" else {}
    training = Training(epochs=epochs, batch_size=128, device="cpu", **rate)
    model = build_net("mlp", (1, 28, 28), 10, hidden=(100, 100), seed=seed)
    tasks = permutations(args.data_root, 10, seed)
    shared = work.parents[1] / "pmnist-exssnet-runs" / f"{name}-{seed}"
    report = learn(model, tasks, method, out=shared, seed=seed, training=training, options=options).report
    return float(report["max_logit_drift"] if "drifts" in target.name else 100 * report["average_accuracy"])


if __name__ == "__main__":
    measure(__doc__, TARGETS, arm)
