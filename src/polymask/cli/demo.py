"""The demonstration: a small stream learned by every kind of method, and what each of them has forgotten after it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from polymask.learning.compare import compare
from polymask.learning.figures.table import Reports, as_table
from polymask.learning.training import Training
from polymask.methods import METHODS
from polymask.pages.write import write_report

SHOWN = ("packnet", "piggyback", "supsup", "wsn", "linear_probe", "finetune", "independent")


def demo(say: Callable[[str], None], out: str | None = None, epochs: int | None = None) -> int:
    """Learn five small tasks by seven methods and see which of them forget, about a minute.

    Examples:
        polymask demo

    Args:
        say: called with every line.
        out: where the runs go; without it a new temporary folder.
        epochs: of every phase; without it each method's recipe.

    Example:
        polymask demo --out runs/demo
    """
    place = Path(tempfile.mkdtemp(prefix="polymask-demo-") if out is None else out)
    threads = torch.get_num_threads()
    # So small a network gains nothing from a second thread, and waits for it wherever a core is busy.
    torch.set_num_threads(1)
    say("Five tasks (two digits each), learned one after the other by one network, MLP 64-100-100:")
    try:
        reports = compare(SHOWN, [0], place, say=say, stream="digits", tasks=5, training=Training(epochs=epochs))
    finally:
        torch.set_num_threads(threads)
    say("")
    say(as_table(reports))
    say("")
    say(conclusion(reports))
    say(f"Files: {place}")
    say(f"Check them: polymask verify {place / 'packnet-0'}")
    say(f"See them, in a browser: {write_report(place).resolve()}")
    return 0


def conclusion(reports: Reports) -> str:
    """What the table says about forgetting, in a sentence."""
    drift = {name: runs[0].get("max_logit_drift") for name, runs in reports.items()}
    exact = [name for name, value in drift.items() if METHODS[name].card.exact is True and value == 0]
    moved = [f"{value:.3g} for {name}" for name, value in drift.items() if value]
    return f"Largest change of a logit of a finished task: 0 for {', '.join(exact)}; {', '.join(moved)}."
