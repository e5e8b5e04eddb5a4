"""What a task costs on disk: packed masks of ResNet-18 and ResNet-50 in a bank; heads and norms counted beside."""

from __future__ import annotations

import importlib
import math
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from _measure import machine, options, show, with_torchvision
from polymask import WSN, Bank, ExSSNeT, Method, PackNet, Piggyback, SupSup
from polymask.nets import build_net

MOST = 1.0  # per cent above one bit a weight, or above the bits of an owner's code
METHODS: dict[str, tuple[Callable[[nn.Module, torch.Tensor], Method], int]] = {
    "Piggyback": (partial(Piggyback, norms="frozen"), 2),
    "Piggyback, ternary": (partial(Piggyback, norms="frozen", values="ternary"), 2),
    "SupSup": (SupSup, 2),
    "WSN": (WSN, 2),
    "ExSSNeT": (ExSSNeT, 2),
    "PackNet": (partial(PackNet, tasks=10), 10),
    "PackNet, no reuse": (partial(PackNet, tasks=10, reuse=False), 4),
}
HEADER = ["method", "tasks", "bits a weight, all tasks", "expected", "above it"]
HEADER += ["masks a task", "private a task", "json", "base"]


def resnet50() -> nn.Module | None:
    """timm's, if it is installed."""
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError:
        return None
    except RuntimeError:
        with_torchvision()
        timm = importlib.import_module("timm")
    model: nn.Module = timm.create_model("resnet50", num_classes=10)
    return model


def step(method: Method) -> None:
    """One step: how well a task is learned does not change what it weighs."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 32, 32, generator=draw), torch.randint(10, (2,), generator=draw)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    method.on_step(0.0)
    method.model.train()
    F.cross_entropy(method.model(x), y).backward()
    optimizer.step()


def banks(method: Method, folder: str, tasks: int) -> Iterator[tuple[int, Bank]]:
    """Task after task, committed to a bank on disk."""
    bank = Bank.create(Path(folder) / "bank", method.sites, method=method.name, head=method.head, drawn=method.drawn)
    for count in range(1, tasks + 1):
        for phase in method.phases:
            method.begin(f"task {count}", phase)
            step(method)
        bank.commit(method.end(f"task {count}"), method.sites)
        yield count, bank


def row(name: str, method: Method, count: int, bank: Bank) -> list[str]:
    """A bank's figures after so many tasks; files with their headers, not payloads alone."""
    sizes, weights = bank.sizes(), sum(method.sites.tensor(name).numel() for name in method.sites.weights)
    private = sum(tensor.nbytes for record in method.records.values() for tensor in record.private.values())
    masks = sum(sizes["per_task"].values()) - private
    bits = 8 * masks / weights
    expected = math.ceil(math.log2(count + 1)) if "PackNet" in name else (1 + ("ternary" in name)) * count
    above = 100 * (bits / expected - 1)
    return [
        name,
        f"{count}",
        f"{bits:.4f}",
        f"{expected}",
        f"{above:+.2f} % {'met' if above < MOST else 'MISSED'}",
        f"{masks // count:,}",
        f"{private // count:,}",
        f"{sizes['json'] // count:,}",
        f"{sizes['backbone']:,}",
    ]


def main() -> None:
    args = options(__doc__).parse_args()
    print(machine())
    networks: dict[str, tuple[Callable[[], nn.Module | None], int]] = {
        "ResNet-18": (lambda: build_net("resnet18", (3, 32, 32), 10, width=16 if args.quick else 64), 10)
    }
    if not args.quick:
        networks["ResNet-50 (timm)"] = (resnet50, 4)
    for title, (make, most) in networks.items():
        rows = [HEADER]
        for name, (kind, tasks) in METHODS.items():
            model = make()
            if model is None:
                print(f"\n{title}: timm is not installed")
                break
            method = kind(model, torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
            with tempfile.TemporaryDirectory() as folder:
                rows += [row(name, method, count, bank) for count, bank in banks(method, folder, min(tasks, most))]
        weights = sum(method.sites.tensor(name).numel() for name in method.sites.weights)
        show(f"{title}: {weights:,} masked weights (at SupSup the head's too); bytes; a target of + {MOST:g} %", rows)


if __name__ == "__main__":
    main()
