"""How long it takes to ask a network for its wiring: ResNet-18 and ResNet-50, on small and on large images."""

from __future__ import annotations

import torch
from torch import nn

from _measure import Times, machine, options, show, threads, verdict
from polymask.nets import build_net
from polymask.wiring import ask, cache

MOST = {"resnet18": 10.0, "resnet50": 60.0}
"""Seconds on two cores."""


def timm_net(name: str) -> tuple[nn.Module, str]:
    """A network of timm's and its head; its import needs torchvision's operators, which are declared if need be."""
    try:
        import timm
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(library)
        import timm
    return timm.create_model(name, num_classes=10), "fc"


KEPT: list[torch.library.Library] = []


def measured(times: Times, arm: str, model: nn.Module, head: str, size: int) -> int:
    """Ask for the first time, and once more for a network of the same build; how many sites there are."""
    layers = (nn.Linear, nn.Conv2d)
    masked = [f"{name}.weight" for name, m in model.named_modules() if isinstance(m, layers) and name != head]
    example = torch.randn(1, 3, size, size)
    cache.FOUND.clear()
    times.time(arm, lambda: ask(model, example, head, masked))
    times.time(f"{arm}, again", lambda: ask(model, example, head, masked))
    return len(ask(model, example, head, masked).sites)


def main() -> None:
    args = options(__doc__).parse_args()
    print(machine())
    runs = [("ours", 32), ("resnet18", 32)] if args.quick else [
        ("ours", 32), ("resnet18", 32), ("resnet18", 224), ("resnet50", 32), ("resnet50", 224)
    ]  # fmt: skip
    rows, times = [["network", "sites", "wall s", "CPU s", "target"]], Times()
    with threads(2):
        for name, size in runs:
            model, head = (build_net("resnet18", (3, 32, 32), 10), "head") if name == "ours" else timm_net(name)
            arm = f"{name}, {size} x {size}"
            sites = measured(times, arm, model, head, size)
            for part in (arm, f"{arm}, again"):
                wall, cpu = times.wall[part][0], times.cpu[part][0]
                target = verdict(wall, MOST.get(name, MOST["resnet18"]), " s")
                rows.append([part, str(sites), f"{wall:.1f}", f"{cpu:.1f}", target])
    show("seconds to ask", rows)


if __name__ == "__main__":
    main()
