"""One network, many tasks, a mask per task, nothing forgotten."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from polymask.version import __version__ as __version__

if TYPE_CHECKING:
    from polymask.bank.bank import Bank
    from polymask.builder import Builder
    from polymask.export.task import export_task
    from polymask.inference.infer import Inference
    from polymask.inference.inferred import Inferred
    from polymask.learning.extend import extend
    from polymask.learning.learn import learn
    from polymask.learning.objective import Objective
    from polymask.learning.training import Training
    from polymask.learning.unnamed.learn import Unnamed, learn_unnamed
    from polymask.loaded import load
    from polymask.method.card import Card, Recipe
    from polymask.method.contract import Method
    from polymask.methods import (
        APD,
        CTR,
        HAT,
        KSM,
        METHODS,
        TFM,
        WSN,
        AdaHAT,
        ExSSNeT,
        Finetune,
        Independent,
        LinearProbe,
        PackNet,
        Piggyback,
        SupSup,
    )
    from polymask.mixed import Mixed
    from polymask.pages.write import write_report
    from polymask.sites.table import Role, Sites, attach, bake, detach
    from polymask.streams.stream import Stream, Task
    from polymask.task import Meta, TaskRecord, activate, switch

__all__ = [
    "APD",
    "CTR",
    "HAT",
    "KSM",
    "METHODS",
    "TFM",
    "WSN",
    "AdaHAT",
    "Bank",
    "Builder",
    "Card",
    "ExSSNeT",
    "Finetune",
    "Independent",
    "Inference",
    "Inferred",
    "LinearProbe",
    "Meta",
    "Method",
    "Mixed",
    "Objective",
    "PackNet",
    "Piggyback",
    "Recipe",
    "Role",
    "Sites",
    "Stream",
    "SupSup",
    "Task",
    "TaskRecord",
    "Training",
    "Unnamed",
    "activate",
    "attach",
    "bake",
    "detach",
    "export_task",
    "extend",
    "learn",
    "learn_unnamed",
    "load",
    "switch",
    "write_report",
]

_ROOMS = {
    "bank.bank": ("Bank",),
    "builder": ("Builder",),
    "export.task": ("export_task",),
    "inference.infer": ("Inference",),
    "inference.inferred": ("Inferred",),
    "learning.extend": ("extend",),
    "learning.learn": ("learn",),
    "loaded": ("load",),
    "learning.objective": ("Objective",),
    "learning.training": ("Training",),
    "learning.unnamed.learn": ("Unnamed", "learn_unnamed"),
    "method.card": ("Card", "Recipe"),
    "method.contract": ("Method",),
    "methods": ("METHODS", "Finetune", "Independent", "LinearProbe"),
    "methods.adahat": ("AdaHAT",),
    "methods.apd": ("APD",),
    "methods.ctr": ("CTR",),
    "methods.exssnet": ("ExSSNeT",),
    "methods.hat": ("HAT",),
    "methods.ksm": ("KSM",),
    "methods.packnet": ("PackNet",),
    "methods.piggyback": ("Piggyback",),
    "methods.supsup": ("SupSup",),
    "methods.tfm": ("TFM",),
    "methods.wsn": ("WSN",),
    "mixed": ("Mixed",),
    "pages.write": ("write_report",),
    "sites.table": ("Role", "Sites", "attach", "bake", "detach"),
    "streams.stream": ("Stream", "Task"),
    "task": ("Meta", "TaskRecord", "activate", "switch"),
}
"""Module -> the names that the face shows of it, imported at first use: who lists methods needs no torch."""

_MODULES = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'polymask' has no attribute {name!r}")
    globals()[name] = found = getattr(importlib.import_module(f"polymask.{_MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return [*globals(), *__all__]
