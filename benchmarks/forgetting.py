"""Does the first task survive SGD with momentum and weight decay?  Ten tasks of permuted MNIST, MLP 784-256-256."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from _measure import machine, options, show, threads, with_data
from _mnist import origin, permuted_mnist
from _peers import Peer
from polymask import METHODS, Task, Training, learn
from polymask.learning.learn import Learned
from polymask.nets import build_net
from polymask.streams import prepare

LRS = {"piggyback": (0.03, 0.1, 0.3, 1.0), "supsup": (0.1, 0.3, 1.0)}
USUAL = (0.02, 0.05, 0.1)
ELSEWHERE = [
    ["measured elsewhere", "task 1, right after it", "task 1, at the end"],
    ["Avalanche, PackNet", "about 97 %", "9.7 %"],
    ["hat-cl, HAT", "about 97 %", "10.0 %"],
    ["CLArena, HAT", "about 97 %", "16.6 %"],
]


def fit(name: str, tasks: Sequence[Task], lr: float, epochs: int, count: int) -> Learned:
    """Learn tasks with SGD, momentum 0.9 and weight decay 5e-4; ``count`` tasks will come in all."""
    training = Training(
        epochs=epochs, optimizer="sgd", lr=lr, momentum=0.9, weight_decay=5e-4, batch_size=128, device="cpu"
    )
    model = build_net("mlp", (1, 28, 28), 10, hidden=(256, 256))
    return learn(model, tasks, name, training=training, options={"tasks": count} if name == "packnet" else {})


def choose_lr(name: str, task: Task, grid: Sequence[float], count: int) -> float:
    """The learning rate with the best validation accuracy on the first task; the test split is not looked at."""
    scored = {lr: fit(name, [replace(task, test=None)], lr, 1, count).report["accuracy"][0][0] for lr in grid}
    return max(scored, key=lambda lr: scored[lr])


def row(name: str, tasks: Sequence[Task], epochs: int, quick: bool) -> list[str]:
    start = time.perf_counter()
    grid = LRS.get(name, USUAL)
    lr = grid[1] if quick else choose_lr(name, tasks[0], grid, len(tasks))
    report = fit(name, tasks, lr, epochs, len(tasks)).report
    first, last = report["accuracy"][0][0], report["accuracy"][-1][0]
    mean = sum(report["accuracy"][-1]) / len(tasks)
    drift = f"{report['max_logit_drift']:.3g}"
    return [name, f"{lr:g}", percent(first), percent(last), drift, percent(mean), f"{time.perf_counter() - start:.0f}"]


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def avalanche(environment: Path, tasks: Sequence[Task], lr: float, epochs: int) -> list[str]:
    """Avalanche's PackNet on the same rows in the same order of tasks, in its own environment."""
    feeds = prepare(tasks[0], seed=0)
    places = torch.arange(784).view(1, 1, 28, 28)
    orders = torch.stack([task.train.changed(places).flatten() for task in tasks])
    back = orders[0].argsort()
    with tempfile.TemporaryDirectory() as scratch:
        parts = {"": feeds.train, "_test": feeds.test or feeds.val}
        data = {}
        for suffix, feed in parts.items():
            batches = list(feed.ordered(4096))
            data["x" + suffix] = torch.cat([x.flatten(1) for x, _ in batches])[:, back]
            data["y" + suffix] = torch.cat([y for _, y in batches])
        torch.save({**data, "orders": orders}, Path(scratch) / "data.pt")
        arguments = [scratch, "--lr", str(lr), "--epochs", str(epochs)]
        with contextlib.closing(Peer(environment, "avalanche_packnet.py", arguments)) as peer:
            found = peer.ask("1")
    figures = [percent(found["first"]), percent(found["last"]), f"{found['drift']:.3g}", percent(found["mean"])]
    return ["Avalanche, PackNet", f"{lr:g}", *figures, f"{found['wall']:.0f}"]


def arguments() -> argparse.Namespace:
    parser = with_data(options(__doc__))
    parser.add_argument("--epochs", type=int, default=1, help="of every phase")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="which of them")
    parser.add_argument("--peers", type=Path, help="a folder that holds the environment avalanche/")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    count, examples = (3, 2_000) if args.quick else (10, None)
    print(machine())
    tasks = list(permuted_mnist(args.data_root, count, examples))
    how = f"SGD, momentum 0.9, weight decay 5e-4, {args.epochs} epoch(s) a phase"
    print(f"{origin(args.data_root)}, {count} tasks, {how}")
    rows = [["method", "lr", "task 1, right after it", "at the end", "largest drift", "mean at the end", "wall s"]]
    with threads(1):
        rows += [row(name, tasks, args.epochs, args.quick) for name in args.methods]
        if "packnet" in args.methods and args.peers is not None and (args.peers / "avalanche").is_dir():
            lr = float(next(line[1] for line in rows if line[0] == "packnet"))
            rows.append(avalanche(args.peers / "avalanche", tasks, lr, args.epochs))
    show("accuracy on the first task, and the largest change of a finished task's logit", rows)
    show("the same test of other libraries, as measured elsewhere with their own data and settings", ELSEWHERE)


if __name__ == "__main__":
    main()
