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


def cost(method: Method, x: Any, bits: int = 32) -> tuple[int, int, int, int]:
    """Of the last task: parameters that an optimizer gets in its first phase, those of its head, bytes; and the base's.

    A task's bytes are those of its record, and those by which the base grew.
    """
    trained = head = 0
    method.private_bits = bits
    with tempfile.TemporaryDirectory() as folder:
        bank = make_bank(Path(folder) / "bank", method, None, {})
        for task in map(str, range(TASKS)):
            before = bank.sizes()["backbone"]
            trained, head = learn_one(method, x, task)
            bank.commit(method.records, method.sites)
        sizes = bank.sizes()
    grown = sizes["backbone"] - before
    return trained, head, list(sizes["per_task"].values())[-1] + max(grown, 0), sizes["backbone"]


def learn_one(method: Method, x: Any, task: str) -> tuple[int, int]:
    """Learn a task in a step a phase; what trains in the first, and how much of that is its head."""
    counts: list[tuple[int, int]] = []
    for phase in method.phases:
        method.begin(task, phase, outputs=2, batches=[(x, torch.zeros(2, dtype=torch.long))])
        sizes = {name: parameter.numel() for name, parameter in method.named_parameters()}
        counts.append((sum(sizes.values()), sum(n for name, n in sizes.items() if name.startswith(method.head))))
        method.on_step(0.0)
        with torch.no_grad():
            for parameter in method.parameters():
                parameter.add_(1e-6)
    method.end(task)
    return counts[0]


def main() -> None:
    args = options(__doc__ or "").parse_args()
    print(machine())
    words = torch.randint(5, 1000, (2, 8), generator=torch.Generator().manual_seed(1))
    x = {"input_ids": words, "attention_mask": torch.ones_like(words)}
    rows = [["method", "trains", "of that its head", "bytes a task", "with its own in 16 bits", "bytes of the base"]]
    for name, make in makers(args.quick, x).items():
        (trained, head, whole, base), (_, _, half, _) = cost(make(), x), cost(make(), x, 16)
        rows.append([name, *(f"{number:,}" for number in (trained, head, whole, half, base))])
        print(*rows[-1], sep="; ", flush=True)
    show(f"a task on an encoder, the second of {TASKS}, adapters of {BOTTLENECK}", rows)


if __name__ == "__main__":
    main()
