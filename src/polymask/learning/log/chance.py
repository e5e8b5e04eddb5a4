"""A task that ended at chance: how it is told from one that has learned something, and the likely ways out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from polymask.method.card import Recipe
from polymask.method.contract import Method
from polymask.parts.pack import unpack
from polymask.report.measured import Measured
from polymask.task import TaskRecord


def at_chance(entry: Measured) -> bool:
    """Whether an accuracy lies within two standard errors of the best constant answer's; one class alone tells nothing.

    >>> at_chance(Measured(0.59, examples=100, chance=0.5)), at_chance(Measured(0.61, examples=100, chance=0.5))
    (True, False)
    """
    return entry.chance != 1.0 and entry.noise is not None and entry.value <= entry.noise


def about_chance(
    method: Method, task: str, entry: Measured, recipes: Mapping[str, Recipe], options: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``results.json`` says of a task that ended at chance; "text" is the warning.

    Args:
        method: what learned it; its record says how much of every layer it kept.
        task: its name.
        entry: its score.
        recipes: phase -> how this run trained it.
        options: the method's own arguments.
    """
    score = f"{entry.split} accuracy {entry.value:.4g} on {entry.examples} examples"
    if entry.noise is not None and entry.noise >= 1:
        text = (
            f"task {task!r} cannot be told from chance: {score}, where one constant answer gets {entry.chance:.4g}: "
            "these are too few for any score to tell. What may help: more examples to measure it on"
        )
    else:
        text = (
            f"task {task!r} ended at chance: {score}, where one constant answer gets {entry.chance:.4g} and noise "
            f"reaches {entry.noise:.4g}. What may help: "
            + "; ".join(ways_out(method, method.record(task), recipes, options))
        )
    figures = {"split": entry.split, "score": entry.value, "chance": entry.chance, "noise": entry.noise}
    return {"task": task, "kind": "chance", **figures, "examples": entry.examples, "text": text}


def ways_out(
    method: Method, record: TaskRecord, recipes: Mapping[str, Recipe], options: Mapping[str, Any]
) -> list[str]:
    """What may help, likeliest first; all of it follows from what the method declares, and from its masks."""
    found = []
    if thin := thin_layers(record):
        name, (kept, count, what) = min(thin.items(), key=lambda item: item[1][0] / item[1][1])
        now = defaultdict(lambda: "its default", options)
        more = f", and {len(thin) - 1} more layers as few" if len(thin) > 1 else ""
        found.append(f"{method.roomier.format_map(now)}: {name} keeps {kept} of {count} {what}{more}")
    slow = ", its gates are annealed and settle slowly" if method.anneals else ""
    few = {phase: recipe.epochs for phase, recipe in recipes.items() if recipe.epochs < method.recipes[phase].epochs}
    if few:
        own = ", ".join(str(method.recipes[phase].epochs) for phase in few)
        found.append(f"more epochs{slow} (--epochs, now {', '.join(map(str, few.values()))}; its recipe has {own})")
    elif method.anneals:
        found.append(f"more epochs{slow} (--epochs, now {_each(recipes, 'epochs')})")
    if options.get("backbone") == "given":
        found.append(
            "trained weights to start from, since its network stays as it was given (--weights first-task, pretrained "
            "or a file; from Python backbone='first-task')"
        )
    found.append(f"another learning rate (--lr, now {_each(recipes, 'lr')})")
    return found


def thin_layers(record: TaskRecord) -> dict[str, tuple[int, int, str]]:
    """The layers whose mask leaves fewer weights than they have rows, or no unit: name -> (kept, of how many, what)."""
    found = {}
    for name, packed in record.masks.items():
        if packed.codec != "block":
            mask = unpack(packed)
            kept, single = int((mask != 0).sum()), mask.ndim == 1
            if kept < (1 if single else mask.shape[0]):
                found[name] = (kept, mask.numel(), "units" if single else "weights")
    return found


def _each(recipes: Mapping[str, Recipe], name: str) -> str:
    return ", ".join(dict.fromkeys(f"{getattr(recipe, name):g}" for recipe in recipes.values()))
