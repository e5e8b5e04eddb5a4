"""What is left of a mask at inference: baked against plain ResNet-18, and the time to switch tasks in place."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median, quantiles

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _measure import THREADS, machine, middle, options, show, spread, take_turns, threads, verdict
from polymask import Method, PackNet, Piggyback, SupSup, bake, switch
from polymask.nets import build_net

PLAIN, AGAIN, MOST = "plain", "plain, again", 15.0
METHODS: dict[str, Callable[[nn.Module, Tensor], Method]] = {
    "PackNet": lambda model, x: PackNet(model, x, tasks=5),
    "Piggyback": Piggyback,
    "SupSup": SupSup,
}


def network(width: int) -> nn.Module:
    return build_net("resnet18", (3, 32, 32), 10, width=width)


def learned(name: str, width: int, tasks: int) -> Method:
    """A method with so many tasks, each of one step: what is measured does not depend on how well they are learned."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 3, 32, 32, generator=draw), torch.randint(10, (4,), generator=draw)
    method = METHODS[name](network(width), x)
    for task in range(tasks):
        for phase in method.phases:
            method.begin(f"task {task}", phase)
            optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
            method.on_step(0.0)
            method.model.train()
            F.cross_entropy(method.model(x), y).backward()
            optimizer.step()
        method.end(f"task {task}")
    return method


@torch.no_grad()
def passes(models: dict[str, nn.Module], batch: int, rounds: int, repeat: int) -> list[list[str]]:
    """A row an arm: the ratio to the plain network's time, and whether it lies where plain against plain does."""
    x = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def run(model: nn.Module) -> Callable[[], object]:
        return lambda: [model(x) for _ in range(repeat)]

    times = take_turns({arm: run(model) for arm, model in models.items()}, rounds)
    rows = [["arm", "wall ms", "CPU ms", "wall / plain (quartiles)", "CPU / plain", "within plain against plain"]]
    high = quantiles(times.ratios(AGAIN, PLAIN), n=20, method="inclusive")[-1]
    for arm in models:
        ratio = times.ratios(arm, PLAIN)
        within = f"{'yes' if median(ratio) <= high else 'NO'}, 95 % of it below {high:.3f}"
        rows.append(
            [
                arm,
                f"{median(times.wall[arm]) / repeat * 1e3:.3g}",
                f"{median(times.cpu[arm]) / repeat * 1e3:.3g}",
                "1" if arm == PLAIN else spread(ratio),
                "1" if arm == PLAIN else f"{median(times.ratios(arm, PLAIN, 'cpu')):.3f}",
                "" if arm in (PLAIN, AGAIN) else within,
            ]
        )
    return rows


def switching(methods: dict[str, Method], rounds: int) -> list[list[str]]:
    """A row a method: milliseconds from one task to another in a plain network, over all its tasks in turn."""
    rows = [["method", "tasks", "median ms", "quartiles", "mask bytes a task", "target"]]
    for name, method in methods.items():
        plain, seconds = bake(method.model), []
        for turn in range(-1, rounds):
            for record in method.records.values():
                start = time.perf_counter()
                switch(plain, method.sites, record)
                seconds += [time.perf_counter() - start] if turn >= 0 else []
        low, high = (1e3 * value for value in middle(seconds))
        size = sum(mask.nbytes for mask in record.masks.values())
        found = 1e3 * median(seconds)
        rows.append(
            [name, f"{len(method.records)}", f"{found:.2f}", f"{low:.2f}-{high:.2f}", f"{size:,}", verdict(found, MOST)]
        )
    return rows


def main() -> None:
    args = options(__doc__).parse_args()
    width, rounds, batches = (16, 3, (1, 4)) if args.quick else (64, 21, (1, 64))
    print(machine())
    methods = {name: learned(name, width, 5) for name in METHODS}
    models = {PLAIN: network(width).eval(), AGAIN: network(width).eval()}
    models |= {f"{name}, baked": bake(method.model) for name, method in methods.items()}
    for count in THREADS:
        with threads(count):
            for batch in batches:
                rows = passes(models, batch, rounds, 10 if batch == 1 else 1)
                show(f"a forward pass, batch {batch}, {count} thread(s), {rounds} rounds", rows)
            title = f"switching tasks in place, {count} thread(s), a target of {MOST:g} ms"
            show(title, switching(methods, rounds))


if __name__ == "__main__":
    main()
