"""A run that the version before the rooms were named left open opens, answers, and is finished by this one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from polymask import Training, extend
from polymask.bank.bank import Bank
from polymask.cli.main import main
from polymask.learning.folder import read_results
from polymask.loaded import load
from polymask.streams import make_stream

GOLDEN = Path(__file__).parents[1] / "golden" / "run"
NAMES = ["digits/0-1", "digits/2-3", "digits/4-5", "digits/6-7", "digits/8-9"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(GOLDEN, tmp_path / "run")


def test_its_bank_names_a_builder_by_where_it_once_stood_and_is_built(folder: Path) -> None:
    about = json.loads((folder / "bank" / "bank.json").read_text())["bank"]
    assert about["builder"]["name"] == "polymask.run.build:build_model"
    assert Bank.open(folder / "bank").verify().ok
    assert load(folder).logits("digits/0-1", torch.rand(4, 1, 8, 8)).shape == (4, 2)


def test_the_same_command_goes_on_in_the_middle_of_its_third_task(folder: Path, capsys: pytest.CaptureFixture) -> None:
    before = read_results(folder)
    assert before["finished"] == NAMES[:2]
    again = ["run", "--config", str(folder / "config.yaml"), "--out", str(folder)]
    assert main(again) == 1
    assert "options.start: zero there, fresh now" in capsys.readouterr().err
    assert main([*again, "--start", "zero", "--last", "1"]) == 0
    after = read_results(folder)
    assert (after["finished"], after["max_logit_drift"]) == (NAMES, 0.0)
    assert [row[:2] for row in after["accuracy"][:2]] == [row[:2] for row in before["accuracy"][:2]]
    assert not (folder / "checkpoint.pt").exists()
    assert Bank.open(folder / "bank").verify().ok
    with pytest.warns(UserWarning, match="no free weight is left for task 'one more'"):
        more = extend(
            folder,
            replace(make_stream("digits", size=(4, 4))[0], name="one more"),
            training=Training(epochs=1, quiet=True),
        )
    assert (more.method.start, more.method.last) == ("zero", 1)
    # The first epoch of the third task was done before the stop, and is not done again.
    epochs = [line for line in (folder / "epochs.csv").read_text().splitlines() if line.startswith("digits/4-5,train")]
    assert len(epochs) == yaml.safe_load((folder / "config.yaml").read_text())["epochs"]
    assert (
        epochs[:2]
        == [line for line in (GOLDEN / "epochs.csv").read_text().splitlines() if line.startswith("digits/4-5,train")][
            :2
        ]
    )
