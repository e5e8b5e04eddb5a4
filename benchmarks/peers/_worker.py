"""What the peers' scripts share: torchvision beside a CPU build of torch, and the waiting for requests."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable

import torch

# torchvision's compiled operators cannot load beside another build of torch; its import asks for two by name.
OPS = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    OPS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
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
