"""What answering costs: the parameters of the plain network of a task, and the time of a batch through it."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymask.bank.bank import Bank
from polymask.bank.probe import batch_of
from polymask.calling import as_read, call, leaves_of, tensors_of
from polymask.disk import write_file

FILE = "cost.json"
ROWS, TIMES, SECONDS = 32, 20, 2.0
"""Rows of a batch; how often it is run; after how many seconds no more, if it was run three times."""


def cost_of_run(folder: Path) -> dict[str, Any]:
    """The cost of a finished run's last task, measured once and kept in ``cost.json``; empty without a bank.

    "parameters" counts the entries of the plain network's parameters, those that a mask sets to 0 included;
    "latency_ms" is the median over forward passes of a batch like the bank's probe, and "how" says under what.

    Args:
        folder: the run's folder.
    """
    place = folder / "bank"
    if not (place / "bank.json").is_file():
        return {}
    bank = Bank.open(place)
    task = bank.tasks[-1] if bank.tasks else None
    known = read_cost(folder)
    if task is None or known.get("task") == task:
        return known
    batch = batch_of(place, bank.outline["probe"])
    if batch is None:
        return {}
    plain = bank.plain(task)
    found = {"task": task, "parameters": sum(one.numel() for one in plain.parameters()), **latency(plain, batch)}
    write_file(folder / FILE, (json.dumps(found, indent=2) + "\n").encode())
    return found


def read_cost(folder: Path) -> dict[str, Any]:
    """What ``cost.json`` says; empty if there is none or it is damaged."""
    try:
        found = json.loads((folder / FILE).read_text())
        return {
            "task": str(found["task"]),
            "parameters": int(found["parameters"]),
            "how": str(found["how"]),
            "latency_ms": float(found["latency_ms"]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


@torch.no_grad()
def latency(plain: nn.Module, batch: Any) -> dict[str, Any]:
    """The median time of a batch through a network as it is, in milliseconds, and how it was measured.

    The rows of the batch are repeated until there are ``ROWS``; where the network takes no other number, they stay.

    >>> found = latency(nn.Linear(3, 2), torch.zeros(8, 3))
    >>> found["latency_ms"] > 0, found["how"][:46]
    (True, 'median of 20 forward passes of 32 rows through')
    """
    was = plain.training
    plain.eval()
    many = tensors_of(batch, _repeated)
    try:
        rows = _run(plain, many)
    except (RuntimeError, ValueError, LookupError, TypeError, AssertionError):
        many, rows = batch, _run(plain, batch)
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < TIMES and (len(times) < 3 or time.perf_counter() - start < SECONDS):
        before = time.perf_counter()
        _run(plain, many)
        times.append(1000 * (time.perf_counter() - before))
    plain.train(was)
    how = (
        f"median of {len(times)} forward passes of {rows} rows through the plain network of the last task, in "
        f"evaluation mode, on this machine's CPU with threads: {torch.get_num_threads()}, torch {torch.__version__}"
    )
    return {"latency_ms": statistics.median(times), "how": how}


def _repeated(one: Tensor) -> Tensor:
    return one[torch.arange(ROWS) % len(one)] if one.ndim and len(one) else one


def _run(plain: nn.Module, batch: Any) -> int:
    call(plain, as_read(plain, batch))
    return next((len(one) for one in leaves_of(batch) if one.ndim), 1)
