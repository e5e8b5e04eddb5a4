"""What the peers' scripts share: torchvision beside a CPU build of torch, and the waiting for requests."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from _measure import with_torchvision

with_torchvision()
warnings.simplefilter("ignore")

Figures = dict[str, float]


def serve(answer: Callable[[str], Figures]) -> None:
    """Answer every line of standard input with a line of JSON; whatever else is printed goes to standard error."""
    with os.fdopen(os.dup(1), "w", buffering=1) as out:
        os.dup2(2, 1)
        for line in sys.stdin:
            out.write(json.dumps(answer(line.strip())) + "\n")


def timed(run: Callable[[], object]) -> Figures:
    """Seconds by the wall's clock and of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
