"""Constants and rates of the rows about texts, chosen by validation on three tasks that no reported mean contains.

Every try is recorded in benchmarks/fidelity/results/text-choices.csv; ``ARMS`` of ``_texts.py`` holds what was chosen.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from _row import RESULTS, WORK, OutOfTimeError, limited
from _texts import ARMS, CHOICE, EPOCHS, run, stream_of

sys.path.insert(0, str(Path(__file__).parents[2]))
from polymask import Stream
from polymask.learning.folder import read_results
from polymask.report.measured import read_rows

TRIES: dict[str, list[dict[str, Any]]] = {
    "HAT in adapters": [{"c": 0.1, "mask_lr": 0.01}, {"c": 0.1, "mask_lr": 0.03}, {"c": 0.3, "mask_lr": 0.01}],
    "CTR": [
        {"c": 0.1, "mask_lr": 0.01, "routing": "private"},
        {"c": 0.1, "mask_lr": 0.01, "routing": "first"},
        {"c": 0.1, "mask_lr": 0.03, "routing": "private"},
    ],
    "adapter per task": [{"lr": 1e-3}, {"lr": 3e-4}, {"lr": 3e-3}],
    "Piggyback": [{}],
    "linear probe": [{"lr": 1e-2}, {"lr": 3e-3}, {"lr": 3e-2}],
}
"""Arm -> what is tried of it, three each, of Piggyback one: the rate, or the rate and the penalty of gates."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data-root", default=os.environ.get("POLYMASK_DATA_ROOT"), help="a folder of data sets")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--minutes", type=float, default=9.5, help="stop after so many; the same command goes on")
    parser.add_argument("--only", nargs="+", choices=sorted(TRIES), default=list(TRIES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    whole = stream_of("asc", args.data_root, 32)
    # No test part: scores are of validation.
    stream = Stream("asc", tuple(replace(task, test=None) for task in whole.tasks if task.name in CHOICE))
    rows = []
    try:
        with limited(args.minutes):
            for name in args.only:
                for number, values in enumerate(TRIES[name]):
                    rates = {k: values.get(k, getattr(ARMS[name], k)) for k in ("lr", "mask_lr")}
                    options = {k: v for k, v in values.items() if k not in rates}
                    arm = replace(ARMS[name], **rates, options={**ARMS[name].options, **options})
                    place = WORK / "text-choices" / f"{name}-{number}".replace(" ", "-")
                    report = read_results(place) or {}
                    if report.get("finished") != [task.name for task in stream]:
                        report = run(arm, stream, place, 0, args.epochs)
                    found = read_rows(place / "accuracy.csv")
                    scores = [found[task][task].value for task in report["tasks"]]
                    used = [mean(one["units"].values()) for one in report.get("capacity", {}).values()]
                    figures = [round(100 * mean(scores), 2), *(round(share, 3) for share in used[-1:])]
                    rows.append([name, *rates.values(), options, *figures])
                    print(*rows[-1], flush=True)
    except OutOfTimeError:
        print(f"Stopped after {args.minutes:g} minutes: run the same command again, it goes on.")
        sys.exit(3)
    file = RESULTS / "text-choices.csv"
    kept = list(csv.reader(file.open()))[1:] if file.exists() else []
    kept = [line for line in kept if line[0] not in args.only]
    with file.open("w", newline="") as opened:
        lines = csv.writer(opened, lineterminator="\n")
        lines.writerow(["arm", "lr", "mask lr", "options", "validation accuracy", "units in use"])
        lines.writerows([*kept, *rows])


if __name__ == "__main__":
    main()
