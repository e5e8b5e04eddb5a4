"""HAT running full on permuted MNIST as AdaHAT's authors logged it, and AdaHAT, which does not."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

from _learn import permutations
from _row import Target, Values, measure

from polymask import Training, learn
from polymask.nets import build_net

NET = "MLP 256-100-64, 2 epochs a task, batch 128, Adam 1e-3, s_max 400, c 0.1"
TRACE = (1.0, 0.580, 0.256, 0.130, 0.055, 0.025, 0.018, 0.009)
"""The mean gate of weights and biases while task 1, 2, ... is learned, as logged; the tenth's is .0014."""
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "HAT, unions": ("hat", {"c": 0.1, "rule": "unions"}),
    "HAT, tight": ("hat", {"c": 0.1}),
    "AdaHAT": ("adahat", {}),
    "AdaHAT, steps": ("adahat", {"scales": "step", "alpha": 1e-2}),
}
TASKS = [f"task {k}" for k in (*range(1, 9), 10)]


def follows(values: Values) -> bool:
    found = [mean(values[name]) for name in TASKS]
    close = all(abs(ours / theirs - 1) <= 0.25 for ours, theirs in zip(found[:4], TRACE[:4], strict=True))
    near = all(1 / 3 <= ours / theirs <= 3 for ours, theirs in zip(found[4:8], TRACE[4:], strict=True))
    return close and near and found[8] < 0.02


TARGETS = [
    Target(
        "pmnist-hat-runs-full",
        "HAT, min of unions",
        f"permuted MNIST, {NET}; mean gate over weights and biases",
        f"{', '.join(f'{g:g}' for g in TRACE)}, ..., .0014 at 10; within 25 %, from task 5 a factor of 3, last < .02",
        "published",
        follows,
        TASKS,
    ),
    Target(
        "pmnist-adahat-above-hat",
        "AdaHAT",
        f"20 permutations of MNIST, {NET}",
        "mean accuracy of AdaHAT above HAT under min of unions",
        "published",
        lambda values: mean(values["AdaHAT"]) > mean(values["HAT, unions"]),
        tuple(ARMS),
    ),
]


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    if target.name == "pmnist-adahat-above-hat":
        return 100 * float(run(name, 20, seed, work, args)["average_accuracy"])
    report = run("HAT, unions", 20, seed, work, args)
    free = list(report["capacity"].values())
    place = int(name.split()[1]) - 1
    return 1.0 if place == 0 else gate_of(free[place - 1]["free"])


def run(name: str, tasks: int, seed: int, work: Path, args: Any) -> dict[str, Any]:
    """One run of so many tasks; the rows share them."""
    method, options = ARMS[name]
    shared = work.parents[1] / "hat-pmnist-runs" / f"{name}-{seed}".replace(" ", "-")
    training = Training(epochs=2, optimizer="adam", lr=1e-3, mask_lr=1e-3, batch_size=128, device="cpu", save_every=20)
    stream = permutations(args.data_root, tasks, seed)
    how = {"out": shared, "seed": seed, "training": training, "options": options}
    return dict(learn(network(seed), stream, method, **how).report)


def network(seed: int) -> Any:
    return build_net("mlp", (1, 28, 28), 10, hidden=(256, 100, 64), seed=seed)


def gate_of(free: dict[str, float]) -> float:
    """The mean over all entries, from the means of the tensors."""
    sizes = {name: tensor.numel() for name, tensor in network(0).named_parameters() if name in free}
    return sum(free[name] * size for name, size in sizes.items()) / sum(sizes.values())


if __name__ == "__main__":
    measure(__doc__, TARGETS, arm)
