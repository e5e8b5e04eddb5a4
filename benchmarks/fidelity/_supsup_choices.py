"""SupSup's rate of scores and density, four tries each, by validation on streams that no row of it reports.

Of the digits' rows on MNIST shrunk to 8 x 8, of permuted MNIST's on FashionMNIST: three permutations each.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from _row import RESULTS, options
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from _measure import validated
from apd_sparsity import small
from polymask import Stream, Training, learn
from polymask.nets import build_net
from polymask.streams import make_stream, permute

FASHION = "zalando-datasets/fashion_mnist"
FILE = RESULTS / "supsup-choices.csv"
FIELDS = ("row", "lr", "density", "validation accuracy")
RATES, DENSITIES = (3e-4, 1e-3, 3e-3, 1e-2), (0.1, 0.3, 0.7)
"""The densities are of top-k at the best rate; 0.5 is tried with every rate."""


def digits(data_root: str, lr: float, density: float) -> tuple[nn.Module, Stream, Training, dict[str, Any]]:
    """As digits-supsup: 64-300-100-50, a threshold, RMSProp in batches of 64."""
    how = {"epochs": 50, "optimizer": "rmsprop", "lr": lr, "batch_size": 64, "val_fraction": 0.11}
    net = build_net("mlp", (1, 8, 8), 50, hidden=(300, 100))
    return net, permute(small(data_root), 3), Training(device="cpu", quiet=True, **how), {"select": "threshold"}


def permuted(data_root: str, lr: float, density: float) -> tuple[nn.Module, Stream, Training, dict[str, Any]]:
    """As pmnist-supsup: 784-100-100-10, top-k, Adam in batches of 10, at two of its five epochs."""
    stream = make_stream("permuted", [FASHION], data_root=data_root, tasks=3)
    how = {"epochs": 2, "optimizer": "adam", "lr": lr, "batch_size": 10}
    net = build_net("mlp", (1, 28, 28), 10, hidden=(100, 100))
    return net, stream, Training(device="cpu", quiet=True, **how), {"density": density}


def score(made: tuple[nn.Module, Stream, Training, dict[str, Any]]) -> float:
    """The mean over tasks of the best validation accuracy, in points of 100."""
    net, stream, training, own = made
    with tempfile.TemporaryDirectory() as folder:
        learn(net, stream, "supsup", out=folder, seed=0, training=training, options=own)
        return 100 * mean(validated(folder).values())


def tried() -> dict[tuple[str, ...], float]:
    """(row, rate, density) -> what was measured."""
    if not FILE.exists():
        return {}
    with FILE.open() as file:
        return {tuple(line[name] for name in FIELDS[:-1]): float(line[FIELDS[-1]]) for line in csv.DictReader(file)}


def chosen(row: str) -> tuple[float, float]:
    """The rate and density that validate best."""
    found = {key[1:]: value for key, value in tried().items() if key[0] == row}
    if not found:
        raise SystemExit(f"expected tries of {row}, found none: _supsup_choices.py first")
    lr, density = max(found, key=lambda key: found[key])
    return float(lr), float(density)


def main() -> None:
    """Try what is missing, and write every try down."""
    args = options(__doc__ or "")
    torch.set_num_threads(args.threads)
    for row, make in {"digits-supsup": digits, "pmnist-supsup": permuted}.items():
        for lr in RATES:
            attempt(row, make(args.data_root, lr, 0.5), lr, 0.5)
        if row == "pmnist-supsup":
            lr = chosen(row)[0]
            for density in DENSITIES:
                attempt(row, make(args.data_root, lr, density), lr, density)


def attempt(row: str, made: tuple[nn.Module, Stream, Training, dict[str, Any]], lr: float, density: float) -> None:
    """One try, unless it is known."""
    key = (row, f"{lr:g}", f"{density:g}")
    if key in tried():
        return
    found = f"{score(made):.2f}"
    new = not FILE.exists()
    with FILE.open("a", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([*([FIELDS] if new else []), (*key, found)])
    print(*key, found, sep="; ", flush=True)


if __name__ == "__main__":
    main()
