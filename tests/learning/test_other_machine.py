"""A run that goes on where numbers round otherwise: on another processor, with other threads, on another device."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from polymask import probe
from polymask.bank.bank import Bank
from polymask.learning.extend import extend
from polymask.learning.learn import learn
from polymask.learning.results import Forgot
from polymask.learning.training import Training
from polymask.nets import MLP
from polymask.streams.images import digits

STREAM, SHORT = digits(5), Training(epochs=1, quiet=True)


def go_on(out: Path, monkeypatch: pytest.MonkeyPatch, by: float, processor: str | None, way: str) -> float:
    """Learn, and go on where the stored logits differ by so much; the drift that is reported."""
    tasks = STREAM[: 1 if way == "extend" else 2]
    learn(MLP(64, (16,), 2), tasks, "piggyback", out=out, training=SHORT)
    was = Bank.probe_logits

    def moved(bank: Bank) -> dict[str, Tensor]:
        return {task: logits + by for task, logits in was(bank).items()}

    monkeypatch.setattr(Bank, "probe_logits", moved)
    if processor is not None:
        monkeypatch.setattr(probe, "_processor", lambda: processor)
    if way == "extend":
        return float(extend(out, STREAM[1], MLP(64, (16,), 2), training=SHORT).report["max_logit_drift"])
    run = learn(MLP(64, (16,), 2), tasks, "piggyback", out=out, training=SHORT)
    return float(run.report["max_logit_drift"])


@pytest.mark.parametrize("way", ["extend", "learn"])
def test_what_another_processor_rounds_otherwise_was_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    assert go_on(tmp_path / "run", monkeypatch, 1e-6, "another processor", way) == 0.0


@pytest.mark.parametrize(("by", "processor"), [(1e-6, None), (1e-2, "another processor")], ids=["same", "too far"])
def test_what_no_rounding_explains_is_still_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: float, processor: str | None
) -> None:
    with pytest.raises(Forgot, match="digits/0-1 by"):
        go_on(tmp_path / "run", monkeypatch, by, processor, "extend")
