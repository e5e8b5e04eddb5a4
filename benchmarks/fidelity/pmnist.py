"""Permuted MNIST, ten tasks, MLP 100-100, as the WSN paper compares PackNet, SupSup and WSN on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _learn import EQUAL_FROM_ZERO, permutations, points
from _row import Target, measure, near
from _supsup_choices import chosen

from polymask import Training
from polymask.nets import build_net

NUMBERS: list[tuple[str, dict[str, Any], float]] = [
    ("packnet", {"tasks": 10, **EQUAL_FROM_ZERO}, 96.37),
    ("supsup", {}, 96.31),
    ("wsn", {"density": 0.1}, 96.14),
    ("wsn", {}, 96.24),
]


SETTING = "10 permutations of MNIST, MLP 100-100, 5 epochs a phase, batch 10, Adam 1e-3, 10 % validation"


def target(method: str, options: dict[str, Any], number: float) -> Target:
    form = {"wsn": f", {100 * options.get('density', 0.5):g} %", "packnet": ", equal shares, from zero"}
    name = f"pmnist-{method}" + (f"-{100 * options.get('density', 0.5):g}" if method == "wsn" else "")
    return Target(name, method + form.get(method, ""), SETTING, f"{number}", "recalled", near(number, 0.5))


def other(name: str, method: str, setting: str) -> Target:
    """What else a method has there, to tell what the distance comes from."""
    return Target(name, method, setting, "what it brings is reported", "specified", None)


TARGETS = [target(*number) for number in NUMBERS]
OPTIONS = {one.name: options for one, (_, options, _) in zip(TARGETS, NUMBERS, strict=True)}
OPTIONS |= {"pmnist-packnet-default": {"tasks": 10}, "pmnist-supsup-chosen": {}}
TARGETS += [
    other("pmnist-packnet-default", "packnet", SETTING),
    other(
        "pmnist-supsup-chosen",
        "supsup",
        f"{SETTING.replace('Adam 1e-3', 'Adam')}; rate and density chosen on permutations of FashionMNIST",
    ),
]


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    lr, options = 1e-3, OPTIONS[target.name]
    if target.name.endswith("chosen"):
        lr, density = chosen("pmnist-supsup")
        options = {"density": density}
    training = Training(epochs=5, optimizer="adam", lr=lr, batch_size=10, device="cpu", save_every=20)
    model = build_net("mlp", (1, 28, 28), 10, hidden=(100, 100), seed=seed)
    method = target.method.partition(",")[0]
    return points(model, permutations(args.data_root, 10, seed), method, work, seed, training, options)


if __name__ == "__main__":
    measure(__doc__, TARGETS, arm)
