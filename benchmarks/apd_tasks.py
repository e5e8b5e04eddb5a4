"""What APD's steps and task ends cost as tasks are added: the closed form beside the paper's joint one, on an MLP."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch.nn import functional as F

from _measure import machine, options, spread, take_turns, threads
from polymask.methods import APD
from polymask.nets import build_net

BATCH, WIDTHS = 64, (256, 256)


def learned(form: str, tasks: int) -> tuple[APD, list[float]]:
    """A learner with so many finished tasks of a step each, the next one open; and the seconds of each task's end."""
    torch.manual_seed(0)
    method = APD(build_net("mlp", (1, 16, 16), 10, hidden=WIDTHS), torch.zeros(2, 1, 16, 16), form=form)
    ends = []
    for task in range(tasks):
        method.begin(str(task))
        step = stepper(method, torch.optim.Adam(method.parameters(), lr=1e-3))
        step()
        step()
        start = time.perf_counter()
        method.end(str(task))
        ends.append(time.perf_counter() - start)
    method.begin("open")
    return method, ends


def stepper(method: APD, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(BATCH, 1, 16, 16, generator=draw), torch.randint(10, (BATCH,), generator=draw)
    method.model.train()

    def step() -> None:
        method.on_step(0.5)
        optimizer.zero_grad()
        (F.cross_entropy(method.model(x), y) + method.penalty()).backward()
        optimizer.step()

    return step


def main() -> None:
    args = options(__doc__).parse_args()
    counts, rounds = ((1, 3), 3) if args.quick else ((1, 10, 50), 15)
    print(machine())
    arms, ends = {}, {}
    for form in ("closed", "joint"):
        for count in counts:
            method, seconds = learned(form, count)
            arms[f"{form}, {count} finished"] = stepper(method, torch.optim.Adam(method.parameters(), lr=1e-3))
            ends[form, count] = seconds
    with threads(1):
        times = take_turns(arms, rounds)
    print(f"a step, batch {BATCH}, MLP 256-{'-'.join(map(str, WIDTHS))}, against the closed form after one task")
    for arm in arms:
        ratio = spread(times.ratios(arm, f"closed, {counts[0]} finished"))
        print(f"  {arm}: {median(times.wall[arm]) * 1e3:.2f} ms, {ratio}")
    print("the end of a task, ms, after so many finished ones")
    for form in ("closed", "joint"):
        seconds = ends[form, counts[-1]]
        places = [place for place in (1, 2, 5, 10, 20, 49) if place < len(seconds)]
        print(f"  {form}: " + ", ".join(f"{place}: {seconds[place] * 1e3:.0f}" for place in places))


if __name__ == "__main__":
    main()
