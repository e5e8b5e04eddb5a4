"""What finding out a single input's task costs among many: our counts, the formula on stacked masks, and every mask.

SupSup on LeNet-300-100 with 500 outputs, masks drawn at random: what is measured does not depend on what they know.
"""

from __future__ import annotations

import resource
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from _measure import machine, options, show, take_turns, threads
from polymask import Inference, SupSup, TaskRecord
from polymask.nets import build_net
from polymask.parts.pack import pack, unpack
from polymask.parts.seeds import generator
from polymask.parts.uncertainty import entropy
from polymask.sites.table import replica

COUNTS, OUTPUTS = (250, 1000, 2500), 500
LIVE = 150
"""Pixels of a digit that are not 0."""
STACKED = 300
"""Tasks whose masks the formula stacks at once, as numbers of 32 bits: 2,500 of them would take 3.2 GB."""


def method() -> SupSup:
    """A learner with one finished task."""
    made = SupSup(
        build_net("mlp", (1, 28, 28), OUTPUTS, hidden=(300, 100)), torch.zeros(2, 1, 28, 28), select="threshold"
    )
    made.begin("0")
    made.model(torch.rand(2, 1, 28, 28)).sum().backward()
    torch.optim.SGD(made.parameters(), lr=1e-3).step()
    made.end("0")
    return made


def drawn(record: TaskRecord, task: int) -> TaskRecord:
    """The record of a task whose masks are drawn."""
    masks = {
        name: pack(torch.rand(packed.shape, generator=generator(task, name)) < 0.5)
        for name, packed in record.masks.items()
    }
    return replace(record, masks=masks, meta=replace(record.meta, task=str(task)))


def formula(made: SupSup, records: dict[str, TaskRecord], x: Tensor) -> Tensor:
    """``dH/dalpha_i`` as it is written down: all masks as numbers, their mean, an inner product with each."""
    sites = replica(made.sites)
    sites.clear()
    total = {name: torch.zeros(sites.tensor(name).shape) for name in sites.weights}
    for record in records.values():
        for name in total:
            total[name] += unpack(record.masks[name])
    for name, site in sites.weights.items():
        site.mask = (total[name] / len(records)).requires_grad_(True)
    entropy(sites.model.eval()(x)).backward()
    every, slopes = list(records.values()), []
    for k in range(0, len(every), STACKED):
        part = torch.zeros(len(every[k : k + STACKED]))
        for name, site in sites.weights.items():
            stacked = torch.stack([unpack(record.masks[name]).float() for record in every[k : k + STACKED]])
            assert site.mask is not None
            assert site.mask.grad is not None
            part += stacked.flatten(1) @ site.mask.grad.flatten()
        slopes.append(part)
    return torch.cat(slopes)


def peak() -> float:
    """The largest size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """A row a number of tasks."""
    args = options(__doc__ or "").parse_args()
    print(machine())
    made, draw = method(), generator("input")
    x = torch.zeros(1, 784)
    x[0, torch.randperm(784, generator=draw)[:LIVE]] = torch.rand(LIVE, generator=draw)
    x = x.view(1, 1, 28, 28)
    rows = [["tasks", "one-shot ms", "us a task", "counted anew ms", "every mask ms", "packed MB", "more MB"]]
    records: dict[str, TaskRecord] = {}
    first = made.records["0"]
    for count in (20, 40) if args.quick else COUNTS:
        records |= {str(task): drawn(first, task) for task in range(len(records), count)}
        made.records = dict(records)
        once, each = Inference(made, "one-shot"), Inference(made, "every-mask")
        once(x)
        packed, before = sum(m.nbytes for r in records.values() for m in r.masks.values()) / 1e6, peak()
        arms = {"one-shot": partial(once, x), "every mask": partial(each, x)}
        with threads(1):
            times = take_turns(arms, 3 if args.quick else 7)
            more = peak() - before
            slopes = take_turns({"formula": partial(formula, made, records, x)}, 1, warmup=0)
        assert torch.allclose(-once(x).scores[0], formula(made, records, x), atol=1e-5)
        ms = {arm: 1e3 * sorted(t)[len(t) // 2] for arm, t in {**times.wall, **slopes.wall}.items()}
        us = 1e3 * ms["one-shot"] / count
        rows.append(
            [f"{count:,}", f"{ms['one-shot']:.1f}", f"{us:.0f}", f"{ms['formula']:.0f}", f"{ms['every mask']:.0f}",
             f"{packed:.1f}", f"{more:.0f}"]
        )  # fmt: skip
    show(
        "one input, one thread; counted anew: every mask unpacked to numbers for one question",
        rows,
    )


if __name__ == "__main__":
    main()
