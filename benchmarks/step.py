"""What a mask costs in a training step: ResNet-18 on 3 x 32 x 32, batch 64, against the plain network's step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _measure import THREADS, compare, machine, options, show, take_turns, threads
from polymask import APD, KSM, Method, PackNet, Piggyback, SupSup
from polymask.nets import build_net

TARGETS = {"PackNet, train": 1.08, "PackNet, retrain": 1.08, "Piggyback": 1.08, "KSM": 1.10, "APD, 10th task": 1.35}
PLAIN, FROZEN = "plain", "plain, norms frozen"


def network(width: int) -> nn.Module:
    return build_net("resnet18", (3, 32, 32), 10, width=width)


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)


def plain_step(x: Tensor, y: Tensor, width: int, frozen_norms: bool) -> Callable[[], None]:
    """The plain network's step; with frozen norms it does what PackNet and Piggyback do besides masking."""
    model = network(width).to(x.device).train()
    if frozen_norms:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False).eval()
    optimizer = sgd([parameter for parameter in model.parameters() if parameter.requires_grad])

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def masked_step(method: Method, x: Tensor, y: Tensor) -> Callable[[], None]:
    """The step of the phase that a method has open."""
    method.model.train()
    optimizer = sgd(method.parameters())

    def step() -> None:
        method.on_step(0.5)
        optimizer.zero_grad()
        (F.cross_entropy(method.model(x), y) + method.penalty()).backward()
        optimizer.step()

    return step


def tenth(method: Method, x: Tensor, y: Tensor) -> Method:
    """A method in its tenth task, after nine of two steps."""
    for task in range(9):
        method.begin(str(task))
        step = masked_step(method, x[:4], y[:4])
        step()
        step()
        method.end(str(task))
    method.begin("tenth")
    return method


def packnet(x: Tensor, y: Tensor, width: int, phase: str) -> Method:
    """PackNet in a phase of its second task, where a gate protects the first."""
    method = PackNet(network(width), x[:2], ratio=0.5)
    for task in ("first", "second"):
        for opened in method.phases:
            method.begin(task, opened)
            if (task, opened) == ("second", phase):
                return method
            masked_step(method, x[:4], y[:4])()
        method.end(task)
    raise ValueError(f"expected a phase of PackNet, found {phase!r}")


def opened(method: Method) -> Method:
    method.begin("first")
    return method


def arms(batch: int, width: int) -> dict[str, Callable[[], None]]:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(batch, 3, 32, 32, generator=draw), torch.randint(10, (batch,), generator=draw)
    methods = {
        "PackNet, train": packnet(x, y, width, "train"),
        "PackNet, retrain": packnet(x, y, width, "retrain"),
        "Piggyback": opened(Piggyback(network(width), x[:2], norms="frozen")),
        "SupSup, exact top-k": opened(SupSup(network(width), x[:2], select="top-k", density=0.5)),
        "SupSup, threshold": opened(SupSup(network(width), x[:2], select="threshold")),
        "KSM": opened(KSM(network(width), x[:2])),
        "APD, 10th task": tenth(APD(network(width), x[:2]), x, y),
    }
    return {
        PLAIN: plain_step(x, y, width, frozen_norms=False),
        "plain, again": plain_step(x, y, width, frozen_norms=False),
        FROZEN: plain_step(x, y, width, frozen_norms=True),
        **{name: masked_step(method, x, y) for name, method in methods.items()},
    }


def main() -> None:
    args = options(__doc__).parse_args()
    batch, width, rounds = (8, 16, 3) if args.quick else (64, 64, 9)
    print(machine())
    steps = arms(batch, width)
    for count in THREADS:
        with threads(count):
            times = take_turns(steps, rounds)
        show(f"step, batch {batch}, width {width}, {count} thread(s), {rounds} rounds", compare(times, PLAIN, TARGETS))
        masked = [arm for arm in steps if arm.startswith(("PackNet", "Piggyback"))]
        against = {arm: compare(times, FROZEN)[1 + list(steps).index(arm)][3] for arm in masked}
        print("  against the plain step with frozen norms: " + "; ".join(f"{a} {r}" for a, r in against.items()))


if __name__ == "__main__":
    main()
