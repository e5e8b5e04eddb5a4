"""TFM's three relations: old tasks stay, old features help, and so does a normalisation of the task's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from _learn import MNIST, TINY_IMAGENET, tiny_imagenet
from _row import Target, Values, measure
from torch import nn

from polymask import Task, Training, learn
from polymask.nets import build_net
from polymask.streams import make_stream

ARMS = ("TFM", "not normalised", "old hidden")
Widths = tuple[int, ...]


def helps(values: Values) -> bool:
    """Whether old features and normalisation help, on average over seeds."""
    full, plain, hidden = (mean(values[name]) for name in ARMS)
    return full >= hidden and full >= plain


def rows(name: str, setting: str, reduced: str = "") -> list[Target]:
    relation = "TFM >= not normalised; TFM >= old features hidden (the new units alone)"
    stays = "largest change of a finished task's logit, normalised or not: 0"
    return [
        Target(f"{name}-relations", "TFM", setting, relation, "specified", helps, ARMS, reduced),
        Target(f"{name}-constant", "TFM", setting, stays, "specified", lambda v: max(v["drift"]) == 0, ("drift",)),
    ]


TARGETS = [
    *rows(
        "splitmnist-tfm",
        "MNIST in 5 tasks of 2 digits, MLP 20-20, 4 units a layer and task, in the end 36-36 in all arms; 3 epochs of "
        "Adam 1e-3, batch 64",
    ),
    *rows(
        "tinyimagenet-tfm",
        "10 tasks of 5 classes of Tiny ImageNet, 32 x 32, convolutions of 32-64-64 with BatchNorm, 4 channels a layer "
        "and task, in the end 68-100-100 in all arms; 10 epochs of Adam 1e-3, batch 64",
    ),
]
BASE: dict[str, Widths] = {"splitmnist-tfm": (20, 20), "tinyimagenet-tfm": (32, 64, 64)}
EPOCHS = {"splitmnist-tfm": 3, "tinyimagenet-tfm": 10}
GROWTH = 4


def network(name: str, widths: Widths, seed: int) -> nn.Module:
    if name == "splitmnist-tfm":
        return build_net("mlp", (1, 28, 28), 2, hidden=widths, seed=seed)
    return build_net("convnet", (3, 32, 32), 5, widths=widths, pool=False, seed=seed)


def tasks_of(name: str, args: Any, seed: int) -> list[Task]:
    if name == "tinyimagenet-tfm":
        return tiny_imagenet(args.data_root, 40, 32, seed)[:10]
    return list(make_stream("split", [MNIST], data_root=args.data_root, tasks=5, seed=seed))


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    stream, _, what = target.name.rpartition("-")
    shared = work.parents[1] / f"{stream}-runs"

    def run(arm: str) -> tuple[float, float]:
        return RUNS[arm](stream, shared / f"{arm}-{seed}".replace(" ", "-"), seed, args)

    if what == "constant":
        return max(run(each)[1] for each in ARMS[:2])
    return run(name)[0]


def grown(normalise: bool) -> Callable[[str, Path, int, Any], tuple[float, float]]:
    """Accuracy in points and largest drift of TFM."""

    def run(stream: str, out: Path, seed: int, args: Any) -> tuple[float, float]:
        options = {"growth": GROWTH, "normalise": normalise}
        net, how = network(stream, BASE[stream], seed), training(stream)
        found = learn(net, tasks_of(stream, args, seed), "tfm", out=out, seed=seed, training=how, options=options)
        return 100 * found.report["average_accuracy"], found.report["max_logit_drift"]

    return run


def hidden(stream: str, out: Path, seed: int, args: Any) -> tuple[float, float]:
    """The same units, but no task reads another's: the first has the base, every other one its growth."""
    scores = []
    for place, task in enumerate(tasks_of(stream, args, seed)):
        widths = BASE[stream] if place == 0 else tuple(GROWTH for _ in BASE[stream])
        how = {"out": out / str(place), "seed": seed, "training": training(stream)}
        scores.append(learn(network(stream, widths, seed), [task], "independent", **how).report["average_accuracy"])
    return 100 * mean(scores), 0.0


def training(stream: str) -> Training:
    return Training(epochs=EPOCHS[stream], optimizer="adam", lr=1e-3, batch_size=64, device="cpu", save_every=20)


RUNS = {"TFM": grown(True), "not normalised": grown(False), "old hidden": hidden}

if __name__ == "__main__":
    measure(f"{__doc__} On {MNIST} and {TINY_IMAGENET}.", TARGETS, arm)
