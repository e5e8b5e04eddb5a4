"""What a correction's size buys in accuracy: APD on permuted MNIST shrunk to 8x8, over lambda1 and shrink.

APD's defaults were chosen here, and so was what its permuted digits are measured with.
"""

from __future__ import annotations

from itertools import product
from statistics import mean

import torch
from torch.nn import functional as F

from _measure import machine, needed_root, options, show, with_data
from polymask import METHODS, Training, learn
from polymask.methods import APD
from polymask.nets import build_net
from polymask.streams import Task, make_stream, permute, prepare

DATA = "ylecun/mnist"
TRIES = [*product((4e-4, 5e-3, 1e-2), (0.5, 0.7, 0.85, 1.0)), (4e-4, 1.5)]
TRAIN, TEST = 1438, 1000


def small(data_root: str) -> Task:
    """MNIST with as many images as the embedded digits, each averaged over squares of 3x3 pixels."""
    feeds = prepare(make_stream("datasets", [DATA], data_root=data_root)[0], seed=0)
    assert feeds.test is not None
    parts = []
    for feed, count in ((feeds.train, TRAIN), (feeds.test, TEST)):
        x, y = next(iter(feed.ordered(count)))
        parts.append((F.avg_pool2d(x[:, :, 2:26, 2:26], 3), y))
    return Task("mnist-8x8", parts[0], test=parts[1], labels=[str(digit) for digit in range(10)])


def main() -> None:
    """Learn the stream with every setting, between networks of their own and fine-tuning."""
    args = with_data(options(__doc__ or "")).parse_args()
    root = needed_root(args, DATA)
    torch.set_num_threads(1)
    print(machine())
    data, tasks = small(root), 2 if args.quick else 6
    training = Training(
        epochs=1 if args.quick else 15, optimizer="adam", lr=1e-3, schedule="constant", device="cpu", quiet=True
    )
    rows = [["arm", "accuracy %", "capacity %", "largest logit drift"]]
    arms = [("independent", {}), ("finetune", {})] + [("apd", {"lambda1": a, "shrink": b}) for a, b in TRIES]
    for method, how in arms[:3] if args.quick else arms:
        torch.manual_seed(0)
        net = build_net("mlp", (1, 8, 8), 10, hidden=(100, 100))
        made = learn(net, permute(data, tasks), METHODS[method], seed=0, training=training, options=how)
        active = made.method.active()["capacity"] if isinstance(made.method, APD) else float("nan")
        name = " ".join([method, *(f"{key} {value:g}" for key, value in how.items())])
        drift = made.report["max_logit_drift"]
        rows.append([name, f"{100 * mean(made.report['accuracy'][-1]):.2f}", f"{100 * active:.0f}", f"{drift:.4f}"])
    show(f"{tasks} tasks, MLP 64-100-100, one seed", rows)


if __name__ == "__main__":
    main()
