"""What the catalogue says of a method, from its class; the bytes that a task takes have to be measured."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from polymask.bank.bank import Bank
from polymask.cli.describe import options_in
from polymask.learning.options import CONTRACT, options_of
from polymask.method.contract import Method
from polymask.nets import build_net

TASKS = 5


def bytes_per_task(kind: type[Method]) -> int:
    """What a task adds to a bank's files, the head among it: mean of five tasks of two classes, MLP 64-100-100.

    No training is needed: sizes follow from shapes, and every parameter is moved by 0.
    """
    model, example = build_net("mlp", (1, 8, 8), 2), torch.zeros(2, 1, 8, 8)
    own = {"tasks": TASKS, "backbone": "first-task"}
    options: dict[str, Any] = {name: value for name, value in own.items() if name in options_of(kind)}
    method = kind(model, example, **options)
    for task in map(str, range(TASKS)):
        for phase in method.phases:
            method.begin(task, phase, outputs=2, batches=[(example, torch.zeros(2, dtype=torch.long))])
            method.on_step(0.0)
            with torch.no_grad():
                for parameter in method.parameters():
                    parameter.add_(0.0)
        method.end(task)
    with tempfile.TemporaryDirectory() as folder:
        bank = Bank.create(Path(folder) / "bank", method.sites, method=method.name, drawn=method.drawn)
        bank.commit(method.records, method.sites)
        sizes: dict[str, int] = bank.sizes()["per_task"]
    return round(sum(sizes.values()) / TASKS)


def entry(kind: type[Method]) -> dict[str, Any]:
    """A method's entry in the catalogue: its card, recipes and options, the bytes that a task takes where it fits."""
    recipes = {phase: dict(vars(kind.recipes[phase])) for phase in kind.phases}
    # An MLP has no place for what needs a transformer.
    own, size = options_in(kind, CONTRACT), None if kind.needs else bytes_per_task(kind)
    return {"card": {**vars(kind.card), "drifts": kind.drifts}, "recipes": recipes, "options": own, "bytes": size}
