"""What an exact top-k mask costs in a training step of ResNet-18 on 3 x 32 x 32: ours, torch.kthvalue, a full sort."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from _measure import THREADS, compare, machine, options, show, take_turns, threads
from polymask import METHODS, WSN, Method, SupSup
from polymask.parts.binarize import kept_count, straight_through
from step import PLAIN, masked_step, network, opened, plain_step

ON_GPU, STEPS = 128, 10  # the batch there, and the steps of a turn
MOST_ON_GPU = dict.fromkeys(("SupSup", "WSN, first task", "WSN, second task", "ExSSNeT, masks"), 1.10)
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
    method = opened(SupSup(network(width).to(x.device), x[:2], density=0.5))
    for site in method.sites.weights.values() if choose is not None else ():
        site.source.read = lambda w, s: straight_through(w, s, choose(s, 0.5), signed=False)
    return method


def wsn(x: Tensor, y: Tensor, width: int, tasks: int) -> Method:
    """WSN in its first task, or in a later one, where a gate protects what is used."""
    method = WSN(network(width).to(x.device), x[:2], density=0.5)
    for task in range(tasks - 1):
        method.begin(str(task))
        masked_step(method, x[:4], y[:4])()
        method.end(str(task))
    method.begin("last")
    return method


def arms(batch: int, width: int, device: str = "cpu") -> dict[str, Callable[[], None]]:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(batch, 3, 32, 32, generator=draw), torch.randint(10, (batch,), generator=draw)
    x, y = x.to(device), y.to(device)
    methods = {
        "SupSup": supsup(x, width),
        "SupSup, torch.kthvalue": supsup(x, width, by_kthvalue),
        "SupSup, full sort": supsup(x, width, by_sort),
        "WSN, first task": wsn(x, y, width, 1),
        "WSN, second task": wsn(x, y, width, 2),
    }
    if "exssnet" in METHODS:
        methods["ExSSNeT, masks"] = opened(METHODS["exssnet"](network(width).to(x.device), x[:2]))
    again = {name: plain_step(x, y, width, frozen_norms=False) for name in (PLAIN, "plain, again")}
    return {**again, **{name: masked_step(method, x, y) for name, method in methods.items()}}


def several(step: Callable[[], None]) -> Callable[[], None]:
    """Several steps a turn, then a wait until the GPU has done them."""

    def run() -> None:
        for _ in range(STEPS):
            step()
        torch.cuda.synchronize()

    return run


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """The step as a CUDA graph: what it costs where launching its kernels costs nothing."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def on_gpu(width: int, rounds: int) -> None:
    """Step by step as PyTorch runs it, and as CUDA graphs."""
    print(torch.cuda.get_device_name())
    for how, launch in (("eager", lambda step: step), ("CUDA graphs", captured)):
        found = arms(ON_GPU, width, "cuda")
        if launch is captured:  # the other selections wait for the host, which a graph cannot
            found = {name: step for name, step in found.items() if not name.startswith("SupSup, ")}
        steps = {name: several(launch(step)) for name, step in found.items()}
        title = f"step, batch {ON_GPU}, width {width}, on a GPU, {how}, {rounds} rounds of {STEPS}"
        show(title, compare(take_turns(steps, rounds, warmup=3), PLAIN, MOST_ON_GPU, unit=1e3 / STEPS))


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("expected a GPU for --device cuda, found none: leave it out")
    width, rounds = (16, 3) if args.quick else (64, 9)
    print(machine())
    if args.device == "cuda":
        on_gpu(width, rounds)
        return
    for batch, targets in MOST.items():
        steps = arms(batch, width)
        for count in THREADS:
            with threads(count):
                times = take_turns(steps, rounds)
            title = f"step, batch {batch}, width {width}, {count} thread(s), {rounds} rounds"
            show(title, compare(times, PLAIN, targets))


if __name__ == "__main__":
    main()
