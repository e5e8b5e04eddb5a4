"""What the board compares: one frozen encoder, its streams, its arms and the rates that each may choose from."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS, WORK = HERE / "board", HERE.parent / "build" / "board"
EPOCHS, BATCH, LENGTH, EXAMPLES = 4, 16, 48, 400

STREAMS: Mapping[str, tuple[int, ...]] = {"A": (0,), "B": (2, 3, 4)}
"""Phase -> which of the five tasks that the 20 Newsgroups are, four neighbours each. Rates are chosen on A by
validation; B is reported, once. Of a task's training posts 400 train and 400 others validate, without their headers."""


@dataclass(frozen=True)
class Arm:
    """One way to adapt the encoder to a task.

    Args:
        by: "polymask", whose method ``how`` names; or "peft", whose configuration it is, or "by hand".
        how: the method's or the configuration's name.
        options: its arguments.
        rates: four values of its most sensitive knob.
        knob: which one that is: "lr" of all that learns, or "mask_lr" or "adapter_lr" beside another of all else.
        bits: of an entry of what a task has of its own, as stored.
        like: the arm whose rate it takes, which differs from it in how it is stored alone.
        beside: the rate of all else, where the knob is not "lr"; None: what the linear probe's head chose.
    """

    by: str
    how: str
    options: Mapping[str, Any] = field(default_factory=dict)
    rates: Sequence[float] = (3e-4, 1e-3, 3e-3, 1e-2)
    knob: str = "lr"
    bits: int = 32
    like: str | None = None
    beside: float | None = None

    def rate_beside(self) -> float | None:
        """The rate of what the knob is not of, or None where it is of all."""
        return None if self.knob == "lr" else self.beside or chosen("linear probe")


UNITS: dict[str, Any] = {"backbone": "given", "granularity": "unit", "masked": ["bert.encoder.*.weight"]}
WEIGHTS: dict[str, Any] = {"backbone": "given", "init": 0.0125, "masked": ["bert.encoder.*.weight"]}
ATTENTION = ["query", "key", "value"]
INSIDE = r".*encoder.*\.(query|key|value|dense)"
"""The linear layers of the encoder, and not the pooler's."""

LORA_1: dict[str, Any] = {"r": 1, "lora_alpha": 2, "target_modules": INSIDE}
LN: dict[str, Any] = {"target_modules": ["LayerNorm"]}
BEFT: dict[str, Any] = {"target_modules": ["value"]}
LORA_4: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": INSIDE}

FASTER = (1e-3, 3e-3, 1e-2, 3e-2)
"""Of what has few parameters; at first IA3 and VeRA had the usual rates, and were best at the highest."""

GATES, SCORES = (0.01, 0.03, 0.05, 0.1), (1e-4, 2e-4, 4e-4, 8e-4)

ARMS: Mapping[str, Arm] = {
    "linear probe": Arm("polymask", "linear_probe", {}, (3e-3, 1e-2, 3e-2, 1e-1)),
    "units": Arm("polymask", "piggyback", UNITS, GATES, "mask_lr"),
    "units, a scale a tensor": Arm("polymask", "piggyback", {**UNITS, "scale": "tensor"}, GATES, "mask_lr"),
    "units, a scale a row": Arm("polymask", "piggyback", {**UNITS, "scale": "unit"}, GATES, "mask_lr"),
    "units, a scale a tensor, 8 bits": Arm(
        "polymask", "piggyback", {**UNITS, "scale": "tensor"}, GATES, "mask_lr", 8, "units, a scale a tensor"
    ),
    "units, a scale a row, 8 bits": Arm(
        "polymask", "piggyback", {**UNITS, "scale": "unit"}, GATES, "mask_lr", 8, "units, a scale a row"
    ),
    "weights": Arm("polymask", "piggyback", WEIGHTS, SCORES, "mask_lr"),
    "weights, a scale a tensor": Arm("polymask", "piggyback", {**WEIGHTS, "scale": "tensor"}, SCORES, "mask_lr"),
    "HAT in adapters": Arm(
        "polymask", "hat", {"sites": "all", "c": 0.1}, (0.003, 0.01, 0.03, 0.05), "mask_lr", beside=1e-3
    ),
    "full fine-tuning": Arm("polymask", "independent", {}, (1e-5, 3e-5, 1e-4, 3e-4)),
    "LoRA r1": Arm("peft", "LoraConfig", LORA_1),
    "LoRA r1, 16 bits": Arm("peft", "LoraConfig", LORA_1, bits=16, like="LoRA r1"),
    "LoRA r1, head's rate": Arm("peft", "LoraConfig", LORA_1, knob="adapter_lr"),
    "LoRA r4": Arm("peft", "LoraConfig", LORA_4),
    "LoRA r4, head's rate": Arm("peft", "LoraConfig", LORA_4, knob="adapter_lr"),
    "IA3": Arm(
        "peft",
        "IA3Config",
        {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]},
        FASTER,
    ),
    "VeRA": Arm(
        "peft", "VeraConfig", {"r": 256, "target_modules": ["query", "value"], "save_projection": False}, FASTER
    ),
    "LN tuning": Arm("peft", "LNTuningConfig", LN),
    "LN tuning, head's rate": Arm("peft", "LNTuningConfig", LN, knob="adapter_lr"),
    "BEFT": Arm("peft", "BeftConfig", BEFT),
    "BEFT, head's rate": Arm("peft", "BeftConfig", BEFT, knob="adapter_lr"),
    "TinyLoRA": Arm("peft", "TinyLoraConfig", {"target_modules": ATTENTION, "save_projection": False}, FASTER),
    "UniLoRA": Arm("peft", "UniLoraConfig", {"target_modules": ATTENTION}, (*FASTER, 1e-1)),
    "BitFit": Arm("by hand", "biases", {}),
    "BitFit, head's rate": Arm("by hand", "biases", {}, knob="adapter_lr"),
}


def place(phase: str, arm: str, rate: float, seed: int) -> Path:
    """The file of what was measured of an arm; phase: "A" or "B"."""
    name = f"{arm}--{ARMS[arm].knob}_{rate:g}--seed_{seed}".replace(",", "").replace("'", "").replace(" ", "-")
    return RESULTS / phase / f"{name}.json"


def chosen(arm: str) -> float:
    """The rate that validates best on A, the smallest of equals; exit with a sentence while a try is missing."""
    found, arm = {}, ARMS[arm].like or arm
    for rate in ARMS[arm].rates:
        if not (file := place("A", arm, rate, 0)).exists():
            sys.exit(f"expected all tries of {arm!r} on A, found none at {rate:g}: board.py --phase A first")
        found[rate] = json.loads(file.read_text())["valid accuracy"]
    return max(found, key=lambda rate: (found[rate], -rate))


def result(arm: str, rate: float, seed: int, took: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What is written down of a run, in the shape of PEFT's method comparison, and what that has no place for.

    Args:
        arm: its name.
        rate: the knob's value.
        seed: the seed.
        took: "seconds", "bytes" a task, "memory" of the process at most, "trains": parameters, "latency": ms.
        more: "valid accuracy", means over tasks; "parts" of the bytes, of ours; of B also "hits".
    """
    about = ARMS[arm]
    beside = {} if (other := about.rate_beside()) is None else {"lr": other}
    config = {"batch_size": BATCH, "epochs": EPOCHS, "seed": seed, "optimizer_type": "AdamW"}
    return {
        "run_info": {
            "experiment_name": f"{about.how}/{arm}",
            "train_config": {**config, "optimizer_kwargs": {about.knob: rate, **beside}},
            "peft_config": {"peft_type": about.how, **about.options},
            "total_time": took["seconds"],
        },
        "train_info": {
            "train_time": took["seconds"],
            "file_size": took["bytes"],
            "num_trainable_params": took["trains"],
            "memory_max": took["memory"],
            "status": "success",
            "metrics": [{"valid accuracy": more["valid accuracy"], "test accuracy": more.get("test accuracy")}],
        },
        "latency_ms": took["latency"],
        "bits": about.bits,
        **more,
    }
