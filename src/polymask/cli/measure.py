"""Write the catalogues from the classes themselves; the one part of them that has to be measured is bytes per task."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from polymask.bank.bank import Bank
from polymask.cli.catalog import METHODS_FILE, RUN_FILE
from polymask.cli.commands.add import add
from polymask.cli.commands.look import roles, verify
from polymask.cli.commands.methods import methods
from polymask.cli.commands.run import compare, run
from polymask.cli.demo import demo
from polymask.cli.describe import options_in
from polymask.learning.by_name import run_named
from polymask.learning.joint.prefixes import learn_joint
from polymask.learning.options import CONTRACT, JOINT, options_of
from polymask.learning.training import Training
from polymask.method.contract import Method
from polymask.methods import METHODS
from polymask.nets import build_net
from polymask.streams.by_name import NAMED

COMMANDS = (demo, run, compare, add, verify, methods, roles)
TASKS = 5

STREAM = ("data", "tasks", "order", "seed", "labels")
"""What ``run_named`` passes to every stream, or what no command line can say."""


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
    """A method's entry in the catalogue: its card, recipes and options, and the bytes that a task takes."""
    recipes = {phase: dict(vars(kind.recipes[phase])) for phase in kind.phases}
    own, size = options_in(kind, CONTRACT), bytes_per_task(kind)
    return {"card": dict(vars(kind.card)), "recipes": recipes, "options": own, "bytes": size}


def texts() -> dict[Path, str]:
    """What each of the files of catalogues should say."""
    commands = {
        call.__name__: {
            "what": (call.__doc__ or "").partition("\n")[0],
            "module": call.__module__,
            "options": options_in(call, ("say", "options")),
        }
        for call in COMMANDS
    }
    named = {
        "commands": commands,
        "run": options_in(run_named, ("how", "options", "training")),
        "training": options_in(Training),
        JOINT: {"prefixes": options_in(learn_joint)["prefixes"]},
        "streams": {name: options_in(make, STREAM) for name, make in NAMED.items()},
    }
    cards = {name: entry(kind) for name, kind in METHODS.items()}
    return {path: json.dumps(data, indent=1) + "\n" for path, data in ((METHODS_FILE, cards), (RUN_FILE, named))}
