"""What an exact top-k mask costs in a training step of ResNet-18 on 3 x 32 x 32: ours, torch.kthvalue, a full sort."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from _measure import THREADS, compare, machine, options, show, take_turns, threads
from polymask import METHODS, WSN, Method, SupSup
from polymask.parts.binarize import kept_count, straight_through
from step import PLAIN, masked_step, network, opened, plain_step

MOST = {
    64: {"SupSup": 1.15, "WSN, first task": 1.20, "WSN, second task": 1.20, "ExSSNeT, masks": 1.15},
    16: {"SupSup": 1.6, "WSN, first task": 1.6, "WSN, second task": 1.6, "ExSSNeT, masks": 1.6},
}


def by_kthvalue(scores: Tensor, density: float) -> Tensor:
    """The mask by one selection over all scores; ties are kept whole."""
    sizes, keep = scores.detach().abs(), kept_count(scores.numel(), density)
    return sizes >= sizes.flatten().kthvalue(sizes.numel() - keep + 1).values


def by_sort(scores: Tensor, density: float) -> Tensor:
    """The mask as released code makes it: every score sorted, at every step."""
    flat, keep = scores.detach().abs().flatten(), kept_count(scores.numel(), density)
    order = flat.sort().indices
    mask = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    mask[order[len(flat) - keep :]] = True
    return mask.view(scores.shape)


def supsup(x: Tensor, width: int, choose: Callable[[Tensor, float], Tensor] | None = None) -> Method:
    """SupSup with a task open; its masks chosen another way if one is given."""
    method = opened(SupSup(network(width), x[:2], density=0.5))
    for site in method.sites.weights.values() if choose is not None else ():
        site.source.read = lambda w, s: straight_through(w, s, choose(s, 0.5), signed=False)
    return method


def wsn(x: Tensor, y: Tensor, width: int, tasks: int) -> Method:
    """WSN in its first task, or in a later one, where a gate protects what is used."""
    method = WSN(network(width), x[:2], density=0.5)
    for task in range(tasks - 1):
        method.begin(str(task))
        masked_step(method, x[:4], y[:4])()
        method.end(str(task))
    method.begin("last")
    return method


def arms(batch: int, width: int) -> dict[str, Callable[[], None]]:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(batch, 3, 32, 32, generator=draw), torch.randint(10, (batch,), generator=draw)
    methods = {
        "SupSup": supsup(x, width),
        "SupSup, torch.kthvalue": supsup(x, width, by_kthvalue),
        "SupSup, full sort": supsup(x, width, by_sort),
        "WSN, first task": wsn(x, y, width, 1),
        "WSN, second task": wsn(x, y, width, 2),
    }
    if "exssnet" in METHODS:
        methods["ExSSNeT, masks"] = opened(METHODS["exssnet"](network(width), x[:2]))
    again = {name: plain_step(x, y, width, frozen_norms=False) for name in (PLAIN, "plain, again")}
    return {**again, **{name: masked_step(method, x, y) for name, method in methods.items()}}


def main() -> None:
    args = options(__doc__).parse_args()
    width, rounds = (16, 3) if args.quick else (64, 9)
    print(machine())
    for batch, targets in MOST.items():
        steps = arms(batch, width)
        for count in THREADS:
            with threads(count):
                times = take_turns(steps, rounds)
            title = f"step, batch {batch}, width {width}, {count} thread(s), {rounds} rounds"
            show(title, compare(times, PLAIN, targets))


if __name__ == "__main__":
    main()
