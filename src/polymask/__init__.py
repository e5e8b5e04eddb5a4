"""One network, many tasks, a mask per task, nothing forgotten."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from polymask.bank.bank import Bank
from polymask.bank.base import Builder
from polymask.sites.table import Role, Sites, attach, bake, detach
from polymask.task import Meta, TaskRecord, activate, switch
from polymask.version import __version__ as __version__

if TYPE_CHECKING:
    from polymask.learning.extend import extend
    from polymask.learning.learn import learn
    from polymask.learning.objective import Objective
    from polymask.learning.training import Training
    from polymask.loaded import load
    from polymask.method.card import Card, Recipe
    from polymask.method.contract import Method
    from polymask.methods import (
        HAT,
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
    from polymask.streams.stream import Stream, Task

__all__ = [
    "HAT",
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
    "activate",
    "attach",
    "bake",
    "detach",
    "extend",
    "learn",
    "load",
    "switch",
]

# Loaded at first use: who serves a bank needs neither methods nor the loop.
_LATER = {
    "Card": "method.card",
    "Recipe": "method.card",
    "Method": "method.contract",
    **dict.fromkeys(("METHODS", "Finetune", "Independent", "LinearProbe"), "methods"),
    **dict.fromkeys(("AdaHAT", "ExSSNeT", "HAT", "PackNet", "Piggyback", "SupSup", "TFM", "WSN"), "methods"),
    "Mixed": "mixed",
    "Stream": "streams.stream",
    "Task": "streams.stream",
    "Objective": "learning.objective",
    "Training": "learning.training",
    "extend": "learning.extend",
    "learn": "learning.learn",
    "load": "loaded",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'polymask' has no attribute {name!r}")
    globals()[name] = found = getattr(importlib.import_module(f"polymask.{_LATER[name]}"), name)
    return found
