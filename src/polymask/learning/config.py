"""What a run writes down of itself: the arguments that start it again, and a description beside its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from polymask.builder import Builder
from polymask.learning.objective import Objective
from polymask.learning.options import options_of
from polymask.learning.training import Training
from polymask.method.contract import Method
from polymask.methods import METHODS
from polymask.streams.stream import Stream, Task
from polymask.version import __version__

NEUTRAL = ("polymask", "data_root", "workers", "save_every", "measure", "logger", "log_every", "quiet", "scenario")
"""What may differ between two parts of one run: where, how fast and what is looked at, not what is learned."""

BEFORE: dict[str, dict[str, Any]] = {"packnet": {"start": "zero", "last": 1}, "hat": {"sites": "feeding"}}
"""Method -> what its options did before there were any: what an older run means that does not name them."""

LEFT_OPEN: dict[str, tuple[str, ...]] = {"piggyback": ("options.norms", "options.start")}
"""Method -> options which mean, where they are left open, what they meant when the run began."""


def complete_options(kind: type[Method], options: Mapping[str, Any], count: int) -> dict[str, Any]:
    """All of a method's options: those given, else its defaults, and the stream's length where that is one.

    Raises:
        ValueError: for an option that the method does not have.
    """
    known = options_of(kind)
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"expected options of {kind.name} ({', '.join(known) or 'it has none'}), found {unknown[0]!r}")
    full = {**known, **options}
    if "tasks" in known and full["tasks"] is None:
        full["tasks"] = count
    return full


def arguments(
    kind: type[Method],
    tasks: Sequence[Task],
    seed: int,
    options: Mapping[str, Any],
    training: Training,
    head: str | None,
    builder: Builder | None,
) -> dict[str, Any]:
    """What ``config.yaml`` says of a run that was started from Python; a given network or stream is only named."""
    return {
        "polymask": __version__,
        "method": _address(kind),
        "stream": tasks.name if isinstance(tasks, Stream) else "given",
        "model": "given" if builder is None else builder.name,
        "head": head,
        "seed": seed,
        **asdict(training),
        "options": dict(options),
        "task_names": [task.name for task in tasks],
    }


def description(
    method: str, tasks: Sequence[Task], seed: int, options: Mapping[str, Any], objective: Objective, model: str
) -> dict[str, Any]:
    """What ``results.json`` says of a run besides its figures."""
    stream = None
    if isinstance(tasks, Stream):
        turned = {} if tasks.order == tuple(range(len(tasks))) else {"order": list(tasks.order)}
        stream = {"name": tasks.name, "protocol": dict(tasks.protocol), **turned}
    return {
        "method": method,
        "seed": seed,
        "options": dict(options),
        "metric": objective.metric_name,
        "model": model,
        "stream": stream,
    }


def said_of_identities(spare: int, scenario: str | None = None) -> dict[str, Any]:
    """What both say of spare outputs and the scenario: nothing where there are none, as runs did before."""
    return ({"spare": spare} if spare else {}) | ({"scenario": scenario} if scenario else {})


def _address(kind: type[Method]) -> str:
    """A method's name; of the user's own its address, so that a command line finds it again, if it can be imported."""
    own = METHODS.get(kind.name) is not kind and kind.__module__ != "__main__" and "<locals>" not in kind.__qualname__
    return f"{kind.__module__}:{kind.__qualname__}" if own else kind.name
