"""What a batch of 64 samples costs whose samples belong to 32 tasks: masks on units of ResNet-18 and a small BERT."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _bert import Rows, bert, tokens
from _measure import THREADS, Times, compare, machine, options, show, spread, take_turns, threads, verdict
from _peers import Peer
from polymask import HAT, TFM, Method, Mixed, Piggyback
from polymask.calling import call, logits_of
from step import PLAIN, network

MOST, CLOSE = 1.15, 1e-4
TASKS, ROWS = 32, 64
ONE = "one task, plain"


def learned(method: Method, x: Any, outputs: int, tasks: int) -> Method:
    """So many tasks, a step each."""
    for task in range(tasks):
        method.begin(str(task))
        method.model.train()
        optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
        method.on_step(1.0)
        logits = logits_of(call(method.model, x))
        labels = torch.randint(outputs, logits.shape[:1], generator=torch.Generator().manual_seed(task))
        (F.cross_entropy(logits, labels) + method.penalty()).backward()
        optimizer.step()
        if method.anneals:
            scatter(method, task)
        method.end(str(task))
    return method


@torch.no_grad()
def scatter(method: Method, task: int) -> None:
    """A quarter of all units off, others for every task: one step would leave them as they start."""
    for scores in method.scores.values():
        scores.copy_(4 * torch.rand(scores.shape, generator=torch.Generator().manual_seed(task)) - 1)


def images(kind: Callable[[nn.Module, Tensor], Method], width: int, tasks: int) -> Method:
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return learned(kind(network(width), x), x, 10, tasks)


def text(tasks: int, quick: bool) -> Method:
    x = {"input_ids": tokens(4)}
    return learned(Piggyback(bert(quick), x, granularity="unit"), x, 2, tasks)


def arms(method: Method, x: Any, rows: int) -> dict[str, Callable[[], Tensor]]:
    """One task by the plain network, by the shared one, and many tasks by the shared one."""
    tasks, last = list(method.records), list(method.records)[-1]
    mixed, plain = Mixed(method.sites, method.records), method.plain(last)
    many = [tasks[row % len(tasks)] for row in range(rows)]
    check(method, mixed, x, many)
    return {
        ONE: partial(answer, plain, x),
        "one task, mixed": partial(mixed, x, [last] * rows),
        f"{len(tasks)} tasks, mixed": partial(mixed, x, many),
    }


@torch.no_grad()
def answer(model: nn.Module, x: Any) -> Tensor:
    return logits_of(call(model, x))


def check(method: Method, mixed: Mixed, x: Any, tasks: list[str]) -> None:
    """Every sample's answer is its own task's, up to rounding."""
    answers = mixed(x, tasks)
    worst = 0.0
    for task in dict.fromkeys(tasks):
        rows = [row for row, name in enumerate(tasks) if name == task]
        alone = answer(method.plain(task), x)[rows]
        worst = max(worst, float((answers[rows] - alone).abs().max() / alone.abs().max()))
    print(f"  largest difference to the tasks alone, relative to the largest logit: {worst:.1e} (<= {CLOSE:g})")
    assert worst <= CLOSE


def flattened(rows: int) -> int:
    """Of how many samples the answer is their own task's, in a network that flattens its rows."""
    x = torch.randn(rows, 8, 16, generator=torch.Generator().manual_seed(2))
    method = learned(HAT(Rows(), x[:2]), x, 2, 4)
    names = [str(row % 4) for row in range(rows)]
    answers = Mixed(method.sites, method.records)(x, names)
    alone = torch.stack([answer(method.plain(name), x)[row] for row, name in enumerate(names)])
    return int((answers - alone).abs().amax(1).lt(1e-4).sum())


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--peers", type=Path, help="a folder that holds the environment peft/, with polylora in it")
    args = parser.parse_args()
    tasks, rows, width, rounds = (4, 8, 16, 3) if args.quick else (TASKS, ROWS, 64, 9)
    print(machine())
    x = torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    ids = {"input_ids": tokens(rows)}
    kinds: dict[str, tuple[Callable[[], nn.Module], Callable[[], Method], Any]] = {
        "ResNet-18, HAT": (lambda: network(width), lambda: images(HAT, width, tasks), x),
        "ResNet-18, TFM": (lambda: network(width), lambda: images(partial(TFM, growth=1), width, tasks), x),
        "BERT, Piggyback on units": (lambda: bert(args.quick), lambda: text(tasks, args.quick), ids),
    }
    for name, (plain, learn, batch) in kinds.items():
        print(f"\n{name}, {rows} samples")
        steps = {PLAIN: partial(answer, plain().eval(), batch), "plain, again": partial(answer, plain().eval(), batch)}
        steps |= arms(learn(), batch, rows)
        for count in THREADS:
            with threads(count):
                times = take_turns(steps, rounds)
            shown(f"{name}, {count} thread(s), {rounds} rounds", times, f"{tasks} tasks, mixed")
    print(f"\nWhere rows are flattened, answered as their own task: {flattened(rows)} of {rows} samples")
    if args.peers is not None:
        peers(args.peers / "peft", tasks, rows, rounds)


def shown(title: str, times: Times, many: str) -> None:
    """All against the plain network, and many tasks against one task's batch."""
    show(title, compare(times, PLAIN))
    ratios = times.ratios(many, ONE)
    print(f"  {many} / {ONE}: {spread(ratios)} {verdict(median(ratios), MOST)}")


def peers(environment: Path, tasks: int, rows: int, rounds: int) -> None:
    """PEFT and PolyLoRA with as many adapters on the same BERT, in their own environment, against the plain one."""
    arguments = ["--tasks", str(tasks), "--batch", str(rows), "--rounds", str(rounds)]
    with contextlib.closing(Peer(environment, "lora_mixed.py", arguments)) as peer:
        for count in THREADS:
            found = peer.ask(str(count))
            table = [["BERT, LoRA r4", "times the plain network"], *([name, f"{r:.3f}"] for name, r in found.items())]
            show(f"{count} thread(s)", table)
        found = peer.ask("flattened")
        said = ", ".join(f"{name} {'raises' if n < 0 else f'{n:g} of {rows}'}" for name, n in found.items())
        print(f"\nWhere rows are flattened, answered as their own task: {said}")


if __name__ == "__main__":
    main()
