"""One network, many tasks, a mask per task, nothing forgotten."""

from __future__ import annotations

from polymask.card import Card, Recipe
from polymask.method import Method
from polymask.methods import METHODS, Finetune, Independent, LinearProbe, PackNet, Piggyback, SupSup
from polymask.sites import Role, Sites, attach, bake, detach
from polymask.task import Meta, TaskRecord, activate

__version__ = "0.1.0.dev0"

__all__ = [
    "METHODS",
    "Card",
    "Finetune",
    "Independent",
    "LinearProbe",
    "Meta",
    "Method",
    "PackNet",
    "Piggyback",
    "Recipe",
    "Role",
    "Sites",
    "SupSup",
    "TaskRecord",
    "activate",
    "attach",
    "bake",
    "detach",
]
