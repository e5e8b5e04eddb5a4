"""Which domain is an input of, and which task inside it? Six methods, every way of asking, and pixels beside them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from _asked import PIXELS, TOGETHER, TRAINED, Asked, ask_learner, ask_pixels, ask_trained, kept, labels_of
from _confused import Truth, best, figures, shares
from _domain_table import Found, publish
from _domains import (
    CALIBRATION,
    CLASSES,
    SIZE,
    TEST,
    TRAIN,
    VALIDATION,
    Images,
    domains,
    group,
    images_of,
    some,
    tasks_of,
)
from _learn import EQUAL_FROM_ZERO, TINY_IMAGENET
from _row import RESULTS, WORK, OutOfTimeError, Target, Values, _where, limited, options, write

sys.path.insert(0, str(Path(__file__).parents[2]))
from polymask import Bank, Method, Task, Training, learn
from polymask.nets import build_net
from polymask.nets.weights import load_weights

OUT = WORK / "which-domain"
NET: dict[str, Any] = {"widths": (16, 32, 64), "pool": False}
METHODS: Mapping[str, dict[str, Any]] = {
    "supsup": {},
    "packnet": EQUAL_FROM_ZERO,
    "hat": {},
    "piggyback": {"norms": "private", "start": "constant"},
    "wsn": {},
    "ksm": {},
}
FROZEN, SPARE = ("piggyback", "ksm"), {"supsup": 90}
"""Methods over a pretrained network; outputs beyond the labels, where tasks share a head."""
EPOCHS, PRETRAIN = 5, 20_000
LOST = 2
"""Points that may be lost by asking."""
SETTING = (
    "MNIST, FashionMNIST, CIFAR-10 (JPEG) and seven groups of ten classes of Tiny ImageNet, grey, 32 x 32, convnet "
    "16-32-64; PackNet's free weights from zero; the way of each method is chosen on held-out images; "
    f"{TEST} test images of each task"
)
REDUCED = (
    f"{TRAIN} images of each task, a fifth of them for validation, {EPOCHS} epochs; Piggyback's and KSM's network by "
    f"{PRETRAIN} images of 100 other classes"
)


def loses_little(values: Values) -> bool:
    """Whether every method loses at most so much by asking for single images."""
    return all(mean(values[f"{name}, given"]) - mean(values[f"{name}, domain found"]) <= LOST for name in METHODS)


def above_pixels(values: Values) -> bool:
    """Whether every method finds the domain more often than what is told from the images alone."""
    return all(mean(values[f"{name}, domain"]) > mean(values[f"{PIXELS}, domain"]) for name in METHODS)


TARGETS = [
    Target("domains-lost", "six methods", SETTING, f"between domains, at most {LOST} points below the task given, "
           f"single images; batches of {TOGETHER} are reported", "specified", loses_little, reduced=REDUCED),
    Target("domains-found", "six methods", SETTING, "the domain of single images found more often than by each of "
           "mean images and statistics of pixels", "specified", above_pixels, reduced=REDUCED),
]  # fmt: skip


ROWS = (("given", "domain found", f"domain found of {TOGETHER}"), ("domain", "task"))
"""The numbers that each row shows; the second also what a network finds that is trained to tell domains."""


RATES: Mapping[str, dict[str, Any]] = {
    "hat": {"optimizer": "sgd", "lr": 0.05, "momentum": 0.0},
    "supsup": {"lr": 0.01},
}
"""Of those that do not take their recipe's."""


def training() -> Training:
    return Training(
        epochs=EPOCHS,
        batch_size=64,
        device="cpu",
        val_fraction=VALIDATION,
        calibration_fraction=CALIBRATION,
        save_every=20,
        quiet=True,
    )


def pretrained(data_root: str) -> str:
    """Weights of the network after a hundred other classes."""
    path = OUT / "pretrained.pt"
    if not path.exists():
        task = group(data_root, 100, 100)
        task = replace(task, train=some(task.train, PRETRAIN, "pretraining"))
        model = build_net("convnet", (1, *SIZE), 100, **NET).to(memory_format=torch.channels_last)
        how = Training(epochs=EPOCHS, batch_size=64, device="cpu", save_every=20, quiet=True)
        made = learn(model, [task], "independent", out=OUT / "pretraining", training=how)
        body = made.method.plain(task.name).state_dict()
        torch.save({key: value for key, value in body.items() if not key.startswith("head")}, path)
    return str(path)


def learned(name: str, seed: int, tasks: Sequence[Task], place: Path, data_root: str) -> Method:
    """The learner of all tasks, from its folder where it was made before."""
    spare = SPARE.get(name, 0)
    net = build_net("convnet", (1, *SIZE), CLASSES + spare, seed=seed, **NET).to(memory_format=torch.channels_last)
    if name in FROZEN:
        load_weights(net, pretrained(data_root), "head")
    trained = replace(training(), **RATES.get(name, {}))
    how: dict[str, Any] = {"seed": seed, "options": METHODS[name], "training": trained, "spare": spare}
    return learn(net, tasks, name, out=place, **how).method


def asked(name: str, seed: int, tasks: Sequence[Task], images: Images, data_root: str) -> Asked:
    """All scores of one method, or of pixels; what an earlier call has measured is read."""
    place = OUT / f"{name}-{seed}"
    if name == PIXELS:
        return Asked(ask_pixels(images, place))
    if name == TRAINED:
        return Asked(ask_trained(images, place, domains(), seed))
    method = learned(name, seed, tasks, place / "run", data_root)
    labels = kept(place / "labels.safetensors", lambda: {"labels": labels_of(method, images)})["labels"]
    sizes = Bank.open(place / "run" / "bank").sizes()["per_task"].values()
    return Asked(ask_learner(method, images, place), labels, mean(sizes))


def values_of(found: Found, chosen: Mapping[str, str]) -> dict[str, list[float]]:
    """The numbers of the rows, seed by seed: each method by its chosen way, of pixels whichever finds most."""
    values: dict[str, list[float]] = {}
    for name, seeds in found.items():
        if name in (PIXELS, TRAINED):
            every = [
                [shares(one["test"], truth.test, truth)[0] for one in asked.by_way.values()] for asked, truth in seeds
            ]
            values[f"{name}, domain"] = [max(each) for each in every]
            continue
        way = chosen[name]
        each = [figures(way, asked.by_way[way], asked.labels, truth) for asked, truth in seeds]
        keys = ("domain", "given", "domain found", f"domain found of {TOGETHER}", "task")
        values |= {f"{name}, {key}": [one[key] for one in each] for key in keys}
    return values


def main() -> None:
    args = options(__doc__ or "")
    if args.data_root is None:
        raise SystemExit(f"expected --data-root, a folder that holds {TINY_IMAGENET} and others, found none")
    seeds = args.seeds if args.seeds != [0, 1, 2] else [0]
    torch.set_num_threads(args.threads)
    found: dict[str, list[tuple[Asked, Truth]]] = {name: [] for name in (*METHODS, PIXELS, TRAINED)}
    try:
        with limited(args.minutes):
            for seed in seeds:
                tasks = tasks_of(args.data_root, seed)
                images = images_of(tasks, args.data_root, seed)
                truth = Truth.of(images, domains())
                for name, each in found.items():
                    each.append((asked(name, seed, tasks, images, args.data_root), truth))
    except OutOfTimeError:
        print(f"Stopped after {args.minutes:g} minutes: run the same command again, it goes on.")
        sys.exit(3)
    chosen = {name: best(each) for name, each in found.items()}
    print(publish(found, chosen, RESULTS))
    values = values_of(found, chosen)
    for target, keys in zip(TARGETS, ROWS, strict=True):
        if args.only is not None and target.name not in args.only:
            continue
        own = {name: value for name, value in values.items() if name.partition(", ")[2] in keys}
        write(target, own, seeds, {_where("cpu")})


if __name__ == "__main__":
    main()
