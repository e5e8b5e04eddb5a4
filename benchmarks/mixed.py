"""What a batch of 64 samples costs whose samples belong to 32 tasks: ResNet-18 on 3 x 32 x 32, masks on units."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _measure import THREADS, Times, compare, machine, options, show, take_turns, threads
from _peers import Peer
from polymask import HAT, TFM, Method, Mixed
from step import PLAIN, network, sgd

MOST, CLOSE = 1.15, 1e-4
TASKS, BATCH = 32, 64


def learned(make: Callable[[nn.Module, Tensor], Method], width: int, tasks: int) -> Method:
    """So many tasks, a step each."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 3, 32, 32, generator=draw), torch.randint(10, (4,), generator=draw)
    method = make(network(width), x)
    for task in range(tasks):
        method.begin(str(task))
        method.model.train()
        optimizer = sgd(method.parameters())
        method.on_step(1.0)
        (F.cross_entropy(method.model(x), y) + method.penalty()).backward()
        optimizer.step()
        method.end(str(task))
    return method


def arms(name: str, method: Method, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """One task by the plain network, by the shared one, and many tasks by the shared one."""
    tasks, last = list(method.records), list(method.records)[-1]
    mixed, plain = Mixed(method.sites, method.records), method.plain(last)
    many = [tasks[row % len(tasks)] for row in range(len(x))]
    check(method, mixed, x, many)
    return {
        f"{name}, one task, plain": partial(answer, plain, x),
        f"{name}, one task, mixed": partial(mixed, x, [last] * len(x)),
        f"{name}, {len(tasks)} tasks, mixed": partial(mixed, x, many),
    }


@torch.no_grad()
def answer(model: nn.Module, x: Tensor) -> Tensor:
    found: Tensor = model(x)
    return found


def check(method: Method, mixed: Mixed, x: Tensor, tasks: list[str]) -> None:
    """Every sample's answer is its own task's, up to rounding."""
    answers = mixed(x, tasks)
    worst = 0.0
    for task in dict.fromkeys(tasks):
        rows = [row for row, name in enumerate(tasks) if name == task]
        alone = answer(method.plain(task), x)[rows]
        worst = max(worst, float((answers[rows] - alone).abs().max() / alone.abs().max()))
    print(f"  largest difference to the tasks alone, relative to the largest logit: {worst:.1e} (<= {CLOSE:g})")
    assert worst <= CLOSE


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--peers", type=Path, help="a folder that holds the environment peft/")
    args = parser.parse_args()
    tasks, batch, width, rounds = (4, 8, 16, 3) if args.quick else (TASKS, BATCH, 64, 9)
    print(machine())
    x = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    steps: dict[str, Callable[[], Tensor]] = {
        PLAIN: partial(answer, network(width).eval(), x),
        "plain, again": partial(answer, network(width).eval(), x),
    }
    kinds: dict[str, Callable[[nn.Module, Tensor], Method]] = {"HAT": HAT, "TFM": partial(TFM, growth=1)}
    for name, kind in kinds.items():
        steps |= arms(name, learned(kind, width, tasks), x)
    for count in THREADS:
        with threads(count):
            times = take_turns(steps, rounds)
        show(f"{batch} samples, width {width}, {count} thread(s), {rounds} rounds", compare(times, PLAIN))
        for name in kinds:
            ours, one = (f"{name}, {how}" for how in (f"{tasks} tasks, mixed", "one task, plain"))
            show(f"  {name}, against one task's batch", compare(pair(times, one, ours), one, {ours: MOST}))
    if args.peers is not None:
        peers(args.peers / "peft", tasks, batch, rounds)


def pair(times: Times, *arms: str) -> Times:
    """The times of some arms."""
    return Times({arm: times.wall[arm] for arm in arms}, {arm: times.cpu[arm] for arm in arms})


def peers(environment: Path, tasks: int, batch: int, rounds: int) -> None:
    """PEFT and PolyLoRA with as many adapters, in their own environment, against the plain network there."""
    arguments = ["--tasks", str(tasks), "--batch", str(batch), "--rounds", str(rounds)]
    with contextlib.closing(Peer(environment, "lora_mixed.py", arguments)) as peer:
        for count in THREADS:
            found = peer.ask(str(count))
            rows = [["LoRA r4 on a transformer", "times the plain network"]]
            show(f"{count} thread(s)", rows + [[name, f"{ratio:.3f}"] for name, ratio in found.items()])


if __name__ == "__main__":
    main()
