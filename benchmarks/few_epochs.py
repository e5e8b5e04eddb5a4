"""What do HAT, SupSup and ExSSNeT need to learn in a tenth of their epochs? Rates of gates and scores, by validation.

What a run is warned of by few epochs, and what the warning advises, were chosen by this.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from _measure import machine, needed_root, options, show, with_data
from polymask import Stream, Training
from polymask.nets import build_net
from polymask.streams import make_stream
from pool import CIFAR, STREAMS, learned, network, stream_of

DIGITS = "digits, 5 permutations"
SGD = {"optimizer": "sgd", "lr": 0.05, "momentum": 0.0}
HAT = [("hat", {**SGD, "mask_lr": rate}, {"c": c}) for rate in (0.05, 0.5, 2.0, 5.0) for c in (0.75, 0.1)]
ADAM = [
    ("hat", {"optimizer": "adam", "lr": 1e-3, "mask_lr": rate}, {"c": c}) for rate in (0.01, 0.05) for c in (0.75, 0.1)
]
SUPSUP = [("supsup", {"lr": rate}, {}) for rate in (0.001, 0.003, 0.01, 0.03)]
EXSSNET = [("exssnet", {"phases": {"mask": {"lr": rate}}}, {}) for rate in (0.001, 0.003, 0.01)]
WAYS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [("independent", {}, {}), *HAT, *ADAM, *SUPSUP, *EXSSNET]


def streams(data_root: str, examples: int) -> Iterator[tuple[str, Stream, nn.Module]]:
    """Name, tasks and network: permuted digits on an MLP, and the images of ``pool.py`` on the default conv net."""
    yield DIGITS, make_stream("digits-permuted", tasks=5), build_net("mlp", (1, 8, 8), 10, hidden=(100, 100))
    for name in STREAMS:
        stream = stream_of(name, data_root, examples)
        yield name, stream, network(stream, {})


def main() -> None:
    """Every way at a tenth of its epochs on three streams; or some ways, or other numbers of epochs."""
    parser = with_data(options(__doc__ or ""))
    parser.add_argument("--ways", type=int, nargs="+", default=[*range(len(WAYS))], help="numbers of ways")
    parser.add_argument("--epochs", type=int, nargs="+", default=[3])
    parser.add_argument("--streams", nargs="+", choices=(DIGITS, *STREAMS), default=[DIGITS, *STREAMS])
    args = parser.parse_args()
    root = needed_root(args, CIFAR)
    torch.set_num_threads(1)
    print(machine())
    epochs = [1] if args.quick else args.epochs
    for name, stream, model in streams(root, 200 if args.quick else 2000):
        if name not in args.streams:
            continue
        rows = [["way", "training; options", *(f"{count} epochs: %" for count in epochs)]]
        for number in args.ways:
            method, how, own = WAYS[number]
            said = "; ".join(", ".join(f"{k} {v}" for k, v in one.items()) for one in (how, own))
            rows.append([f"{number} {method}", said])
            for count in epochs:
                training = replace(Training(device="cpu", quiet=True, epochs=count), **how)
                rows[-1].append(f"{learned(copy.deepcopy(model), stream, method, training, own)[0]:.1f}")
            print("; ".join(rows[-1]), flush=True)
        show(name, rows)


if __name__ == "__main__":
    main()
