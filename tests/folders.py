"""Folders of runs as a run would write them, made without training: of any number of tasks, with any names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tests import banks

from polymask.bank.bank import Bank
from polymask.learning.results import Results
from polymask.report.measured import Measured

SETTING = "accuracy by hand, 32-true, cpu"


def results_of(names: Sequence[str], **more: Any) -> dict[str, Any]:
    """What ``results.json`` would say of a method that is exact, each task measured once."""
    tasks, scores = list(names), np.random.default_rng(0).random(len(names)).tolist()
    rows = {task: {task: Measured(x, "test", SETTING)} for task, x in zip(tasks, scores, strict=True)}
    drift, seconds = dict.fromkeys(tasks, 0.0), dict.fromkeys(tasks, 0.5)
    results = Results(tasks, rows, proves=True, drift=drift, seconds=seconds)
    about = {"method": "by hand", "seed": 0, "metric": "accuracy", "stream": {"name": "made", "protocol": {}}}
    sizes = {"backbone": 1000, "per_task": {task: 100 + place for place, task in enumerate(tasks)}}
    return {**results.as_json(about, sizes), **more}


def write_results(folder: Path, tasks: Sequence[str], **more: Any) -> Path:
    """A folder with ``results.json`` alone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results_of(tasks, **more)))
    return folder


def write_run(folder: Path, tasks: Sequence[str]) -> Path:
    """A folder with everything: results, rows, epochs, and a bank with a record a task."""
    write_results(folder, tasks)
    found = results_of(tasks)
    values = found["accuracy_when_learned"]
    rows = [f'{task},{task},{value!r},test,"{SETTING}"' for task, value in zip(tasks, values, strict=True)]
    (folder / "accuracy.csv").write_text("\n".join(["after,on,value,split,setting", *rows, ""]))
    epochs = [f"{task},train,{epoch},{1 / (epoch + 1)},{epoch / 3},0.1" for task in tasks for epoch in range(3)]
    (folder / "epochs.csv").write_text("\n".join(["task,phase,epoch,loss,val,lr", *epochs, ""]))
    (folder / "config.yaml").write_text("method: by hand\nstream: made\nseed: 0\n")
    sites = banks.attached()
    bank = Bank.create(folder / "bank", sites, builder=banks.BUILDER, method="by hand")
    bank.commit({task: banks.record(sites, task) for task in tasks}, sites)
    return folder
