"""What a task takes on an encoder of MiniLM's size, by method: what trains, and the bytes that it adds on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from _measure import machine, options, show
from ctr_step import BOTTLENECK, host
from polymask import CTR, HAT, WSN, Independent, LinearProbe, Method, PackNet, Piggyback, SupSup
from polymask.learning.learner import make_bank
from polymask.surgery import add_adapters

ENCODER = ("bert.encoder.*.weight",)
TASKS = 2


def adapted(quick: bool, example: Any) -> nn.Module:
    return add_adapters(host(quick), example, 8 if quick else BOTTLENECK)


def makers(quick: bool, x: Any) -> dict[str, Callable[[], Method]]:
    """Arm -> a method on a fresh host; in adapters all else is frozen."""
    given: dict[str, Any] = {"backbone": "given", "masked": ENCODER}
    return {
        "CTR": lambda: CTR(host(quick), x, bottleneck=8 if quick else BOTTLENECK),
        "HAT in adapters": lambda: HAT(adapted(quick, x), x, sites="all"),
        "an adapter per task": lambda: Independent(adapted(quick, x), x),
        "Piggyback on weights": lambda: Piggyback(host(quick), x, **given),
        "Piggyback on units": lambda: Piggyback(host(quick), x, granularity="unit", **given),
        "SupSup": lambda: SupSup(host(quick), x, masked=ENCODER, heads="private"),
        "WSN": lambda: WSN(host(quick), x, masked=ENCODER),
        "PackNet": lambda: PackNet(host(quick), x, masked=ENCODER),
        "HAT": lambda: HAT(host(quick), x, masked=ENCODER),
        "linear probe": lambda: LinearProbe(host(quick), x),
    }


def cost(method: Method, x: Any) -> tuple[int, int, dict[str, Any]]:
    """Parameters that an optimizer gets in the last task's first phase, those of its head, and the bank's sizes."""
    trained = head = 0
    for task in map(str, range(TASKS)):
        for phase in method.phases:
            method.begin(task, phase, outputs=2, batches=[(x, torch.zeros(2, dtype=torch.long))])
            if phase == method.phases[0]:
                named = dict(method.named_parameters())
                trained = sum(parameter.numel() for parameter in named.values())
                head = sum(parameter.numel() for name, parameter in named.items() if name.startswith(method.head))
            method.on_step(0.0)
            with torch.no_grad():
                for parameter in method.parameters():
                    parameter.add_(1e-6)
        method.end(task)
    with tempfile.TemporaryDirectory() as folder:
        bank = make_bank(Path(folder) / "bank", method, None, {})
        bank.commit(method.records, method.sites)
        return trained, head, bank.sizes()


def main() -> None:
    args = options(__doc__ or "").parse_args()
    print(machine())
    words = torch.randint(5, 1000, (2, 8), generator=torch.Generator().manual_seed(1))
    x = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    rows = [["method", "trains", "of that its head", "bytes a task", "bytes of the base"]]
    for name, make in makers(args.quick, x).items():
        trained, head, sizes = cost(make(), x)
        rows.append(
            [name, f"{trained:,}", f"{head:,}", f"{list(sizes['per_task'].values())[-1]:,}", f"{sizes['backbone']:,}"]
        )
        print(*rows[-1], sep="; ", flush=True)
    show(f"a task on an encoder, the second of {TASKS}, adapters of {BOTTLENECK}", rows)


if __name__ == "__main__":
    main()
