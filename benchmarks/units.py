"""What HAT and TFM cost in a training step of ResNet-18 on 3 x 32 x 32: at every temperature; beside a net as wide."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _measure import THREADS, compare, machine, options, show, spread, take_turns, threads, verdict
from polymask import HAT, TFM, Method, bake
from step import PLAIN, network, plain_step, sgd

MOST = 1.15
PROGRESS = (0.0, 0.25, 0.5, 0.75, 1.0)


def hat(x: Tensor, y: Tensor, width: int, tasks: int) -> Method:
    """HAT in its first task, or in its second, where gates protect what the first one used."""
    method = HAT(network(width), x[:2])
    for task in range(tasks - 1):
        method.begin(str(task))
        step(method, x[:4], y[:4], 1.0)()
        method.end(str(task))
    method.begin("last")
    return method


def tfm(x: Tensor, y: Tensor, width: int) -> Method:
    """TFM in its second task, for which every layer has grown."""
    method = TFM(network(width), x[:2])
    method.begin("first")
    step(method, x[:4], y[:4], 1.0)()
    method.end("first")
    method.begin("second")
    return method


def step(method: Method, x: Tensor, y: Tensor, progress: float) -> Callable[[], None]:
    method.model.train()
    optimizer = sgd(method.parameters())

    def run() -> None:
        method.on_step(progress)
        optimizer.zero_grad()
        (F.cross_entropy(method.model(x), y) + method.penalty()).backward()
        optimizer.step()

    return run


def plain(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """The step of a plain network."""
    optimizer = sgd(list(model.train().parameters()))

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return run


def main() -> None:
    args = options(__doc__).parse_args()
    batch, width, rounds = (8, 16, 3) if args.quick else (64, 64, 9)
    print(machine())
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(batch, 3, 32, 32, generator=draw), torch.randint(10, (batch,), generator=draw)
    steps = {name: plain_step(x, y, width, frozen_norms=False) for name in (PLAIN, "plain, again")}
    for tasks, name in ((1, "first task"), (2, "second task")):
        for progress in PROGRESS:
            steps[f"HAT, {name}, {progress:g} of an epoch"] = step(hat(x, y, width, tasks), x, y, progress)
    wide = tfm(x, y, width)
    steps |= {"plain, as wide": plain(bake(wide.model), x, y), "TFM, second task": step(wide, x, y, 0.5)}
    targets = {name: MOST for name in steps if name.startswith("HAT")}
    for count in THREADS:
        with threads(count):
            times = take_turns(steps, rounds)
        title = f"step, batch {batch}, width {width}, {count} thread(s), {rounds} rounds"
        show(title, compare(times, PLAIN, targets))
        ratios = times.ratios("TFM, second task", "plain, as wide")
        print(f"  TFM / plain, as wide: {spread(ratios)} {verdict(median(ratios), MOST)}")


if __name__ == "__main__":
    main()
