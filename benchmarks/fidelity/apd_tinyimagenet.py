"""APD's forms, KSM and others on ten tasks of Tiny ImageNet in three orders: one table, and its report page."""

from __future__ import annotations

import sys
from math import isfinite
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from _learn import EQUAL_FROM_ZERO
from _row import WORK, OutOfTimeError, Target, Values, _where, limited, options, write

sys.path.insert(0, str(Path(__file__).parent))
from polymask import Bank, Training, learn, write_report
from polymask.learning.compare import compare
from polymask.learning.options import run_folder
from polymask.learning.orders.run import compare_orders
from polymask.nets import build_net
from polymask.parts.sparse import count_active
from polymask.report.table import table
from polymask.streams import make_stream

TINY_IMAGENET = "zh-plus/tiny-imagenet"
OUT = WORK / "apd-tinyimagenet"
NET: dict[str, Any] = {"widths": (16, 32, 64), "pool": False}
GROUPS = [[*range(10 * k, 10 * k + 10)] for k in range(10)]
ORDERED = [
    "apd",
    "_forms:Exact",
    "_forms:Fixed",
    "_forms:Joint",
    "_forms:Consolidated",
    "wsn",
    "packnet",
    "_forms:PublishedHAT",
    "finetune",
]
NAMES = {"_forms:PublishedHAT": "hat"}
FREE = ["ksm", "piggyback", "independent"]
"""Arms that no order of tasks reaches: their backbone is given, or they share nothing."""
OPTIONS: dict[str, dict[str, Any]] = {
    "packnet": {"tasks": 10, **EQUAL_FROM_ZERO},
    "piggyback": {"norms": "private", "start": "constant"},
}


SETTING = (
    "10 tasks of 10 of the first 100 classes of Tiny ImageNet in 3 orders, convnet 16-32-64, Adam, HAT by SGD .05; "
    "PackNet's free weights from zero"
)
REDUCED = "images of 32 x 32, 5 epochs, one seed; KSM and Piggyback over the other 100 classes"


def below_finetune(values: Values) -> bool:
    return all(mean(values[f"apd, {key}"]) < mean(values[f"finetune, {key}"]) for key in ("AOPD", "MOPD"))


TARGETS = [
    Target("apd-tinyimagenet", "APD", SETTING, "AOPD and MOPD below fine-tuning; all else is reported", "specified",
           below_finetune, reduced=REDUCED)
]  # fmt: skip


def pretrained(data_root: str) -> str:
    """Weights of the network after the other hundred classes, the backbone of masks over a frozen network."""
    path = OUT / "pretrained.pt"
    if not path.exists():
        stream = make_stream("split", [TINY_IMAGENET], data_root=data_root, tasks=[[*range(100, 200)]], size=(32, 32))
        model = build_net("convnet", (3, 32, 32), 100, seed=0, **NET)
        made = learn(model, stream, "independent", out=OUT / "pretraining", training=training())
        body = made.method.plain(stream[0].name).state_dict()
        torch.save({key: value for key, value in body.items() if not key.startswith("head")}, path)
    return str(path)


def training() -> Training:
    return Training(epochs=5, batch_size=64, device="cpu", save_every=20, quiet=True)


def bytes_of(place: Path) -> tuple[int, float]:
    """What a run's bank takes for backbone and tasks, and the parameters in use by those of the masked weights."""
    bank = Bank.open(place / "bank")
    sizes = bank.sizes()
    masked = list(bank.record(bank.tasks[0]).masks)
    plain = sum(bank.tensors()[name].numel() for name in masked if name in bank.tensors())
    own = count_active(bank.record(task).deltas for task in bank.tasks)
    return sizes["backbone"] + sum(sizes["per_task"].values()), 1 + own / plain if plain else float("nan")


def main() -> None:
    args = options(__doc__ or "")
    if args.data_root is None:
        raise SystemExit(f"expected --data-root, a folder that holds {TINY_IMAGENET}, found none")
    torch.set_num_threads(args.threads)
    same: dict[str, Any] = {"stream": "split", "data": [TINY_IMAGENET], "data_root": args.data_root, "tasks": GROUPS,
                            "size": (32, 32), "model": "convnet", "net": NET, "training": training()}  # fmt: skip
    try:
        with limited(args.minutes):
            weights = pretrained(args.data_root)
            say = lambda line: print(line, flush=True)  # noqa: E731
            free = compare(FREE, [0], OUT / "free", weights=weights, options=OPTIONS, say=say, **same)
            ordered, robust = compare_orders(
                ORDERED, [0], OUT / "ordered", 3, options=OPTIONS, say=say, measure_floor=False, **same
            )
    except OutOfTimeError:
        print(f"Stopped after {args.minutes:g} minutes: run the same command again, it goes on.")
        sys.exit(3)
    rows = []
    for place, reports in (("ordered", ordered), ("free", free)):
        for name, (report, *_) in reports.items():
            size, active = bytes_of(OUT / place / run_folder(name, 0))
            figures = robust.get(name)
            method = NAMES.get(name, name.removeprefix("_forms:"))
            rows.append({"method": method, "accuracy": 100 * report["average_accuracy"],
                         "active parameters": active, "kB": size / 1000,
                         "AOPD": 0.0 if figures is None else 100 * figures.aopd,
                         "MOPD": 0.0 if figures is None else 100 * figures.mopd})  # fmt: skip
    print(f"Tiny ImageNet: {SETTING}; {REDUCED}")
    print(table(rows, floatfmt=".2f"))
    print(write_report(OUT / "ordered"))
    known = ((row["method"], key, float(str(row[key]))) for row in rows for key in row if key != "method")
    values = {f"{method}, {key}": [value] for method, key, value in known if isfinite(value)}
    write(TARGETS[0], values, [0], {_where("cpu")})


if __name__ == "__main__":
    main()
