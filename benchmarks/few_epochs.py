"""What do HAT and SupSup need to learn in a tenth of their epochs? Rates of gates and scores, by validation.

What a run is warned of by few epochs, and what the warning advises, were chosen by this.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from _measure import machine, needed_root, options, show, with_data
from polymask import Training
from pool import CIFAR, STREAMS, learned, stream_of

HAT = [("hat", {"mask_lr": rate}, {"c": c}) for rate in (0.05, 0.5, 2.0, 5.0) for c in (0.75, 0.1)]
ADAM = [
    ("hat", {"optimizer": "adam", "lr": 1e-3, "mask_lr": rate}, {"c": c}) for rate in (0.01, 0.05) for c in (0.75, 0.1)
]
SUPSUP = [("supsup", {"lr": rate}, {}) for rate in (0.003, 0.01, 0.03, 0.1, 0.3)]
WAYS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [("independent", {}, {}), *HAT, *ADAM, *SUPSUP]


def main() -> None:
    """Every way at a tenth of its epochs on both streams; or some ways at other numbers of them."""
    parser = with_data(options(__doc__ or ""))
    parser.add_argument("--ways", type=int, nargs="+", default=[*range(len(WAYS))], help="numbers of ways")
    parser.add_argument("--epochs", type=int, nargs="+", default=[3])
    args = parser.parse_args()
    root = needed_root(args, CIFAR)
    torch.set_num_threads(1)
    print(machine())
    epochs = [1] if args.quick else args.epochs
    for name in STREAMS:
        stream = stream_of(name, root, 200 if args.quick else 2000)
        rows = [["way", "training; options", *(f"{count} epochs: %" for count in epochs)]]
        for number in args.ways:
            method, how, own = WAYS[number]
            said = "; ".join(", ".join(f"{k} {v}" for k, v in one.items()) for one in (how, own))
            rows.append([f"{number} {method}", said])
            for count in epochs:
                training = replace(Training(device="cpu", quiet=True, epochs=count), **how)
                rows[-1].append(f"{learned(stream, {}, method, training, own)[0]:.1f}")
            print("; ".join(rows[-1]), flush=True)
        show(name, rows)


if __name__ == "__main__":
    main()
