"""HAT on ten permutations of MNIST, as its paper trains it, with a narrower network: 98.6 % on average."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from _learn import permutations, points
from _row import Target, measure, near
from hat_split_mnist import TRAINING

from polymask.nets import build_net

EPOCHS, WIDTH = 10, 400
TARGETS = [
    Target(
        "permuted-mnist-hat",
        "HAT",
        "10 permutations of MNIST, MLP 784-2000-2000 with dropout .2 and .5, SGD .05, a third on a plateau, batch 64, "
        "s_max 400, c 0.75",
        "98.6",
        "published",
        near(98.6, 0.3),
        reduced=f"MLP 784-{WIDTH}-{WIDTH} without dropout, {EPOCHS} epochs a task instead of at most 200",
    )
]


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    training = replace(TRAINING, epochs=EPOCHS, device=args.device)
    net = build_net("mlp", (1, 28, 28), 10, hidden=(WIDTH, WIDTH), seed=seed)
    return points(net, permutations(args.data_root, 10, seed), "hat", work, seed, training)


if __name__ == "__main__":
    measure(__doc__, TARGETS, arm, gpu=True)
