"""Options that are left open follow the kind of network, are said, and stay what they were when a run began."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from polymask import Bank, Piggyback, Training, learn
from polymask.learning.options import options_of
from polymask.method.kind import kind_of
from polymask.methods.piggyback import OPEN
from polymask.nets import build_net
from polymask.streams.images import digits

STREAM, QUICK = digits(5)[:2], Training(epochs=1, device="cpu")


def conv() -> nn.Module:
    """A small convolutional network."""
    return build_net("convnet", (1, 8, 8), 2, widths=(4, 4))


def mlp() -> nn.Module:
    """A small network of linear layers."""
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (nn.Linear(2, 2), "linear"),
        (conv(), "convolutional"),
        (build_net("resnet18", (3, 8, 8), 2, width=4), "convolutional"),
        (build_net("lenet", (1, 28, 28), 2), "convolutional"),
        (build_net("alexnet", (3, 32, 32), 2), "convolutional"),
        (build_net("vgg", (3, 32, 32), 2), "convolutional"),
        (nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.TransformerEncoderLayer(8, 2, 16)), "linear"),
        (nn.ReLU(), "linear"),
    ],
)
def test_a_network_is_of_the_kind_that_its_layers_are(net: nn.Module, expected: str) -> None:
    assert kind_of(net) == expected


def test_what_is_left_open_follows_the_kind_and_what_is_given_does_not() -> None:
    x = torch.rand(2, 1, 8, 8)
    norms, start = OPEN["convolutional"]
    left = Piggyback(conv(), x)
    assert (left.took, left.policy.norms, left.start) == ({"norms": norms, "start": start}, norms, start)
    given = Piggyback(conv(), x, norms="frozen", start="constant")
    assert (given.took, given.policy.norms, given.start) == ({}, "frozen", "constant")
    norms, start = OPEN["linear"]
    plain = Piggyback(mlp(), torch.rand(2, 4))
    assert (plain.took, plain.policy.norms, plain.start) == ({"norms": norms, "start": start}, norms, start)


def test_a_method_that_hands_options_on_has_those_of_its_base() -> None:
    class Denser(Piggyback):
        def __init__(self, model: nn.Module, example: Any, *, density: float = 0.9, **more: Any) -> None:
            self.density = density
            super().__init__(model, example, **more)

    assert options_of(Denser) == {"density": 0.9, **options_of(Piggyback)}
    run = learn(conv(), STREAM[:1], Denser, training=QUICK, options={"norms": "frozen", "density": 0.5})
    assert (run.method.policy.norms, run.method.density) == ("frozen", 0.5)  # type: ignore[attr-defined]


def test_a_first_task_s_norms_are_its_own_or_all_tasks() -> None:
    x = torch.rand(2, 4)
    assert Piggyback(mlp(), x, backbone="first-task").policy.norms == "first"


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one task, as an earlier version began it: with norms frozen and scores that start alike."""
    out = tmp_path_factory.mktemp("left-open") / "run"
    learn(conv(), STREAM[:1], "piggyback", out=out, training=QUICK, options={"norms": "frozen", "start": "constant"})
    return out


def test_a_bank_says_what_was_taken(tmp_path: Path) -> None:
    run = learn(conv(), STREAM[:1], "piggyback", out=tmp_path / "run", training=QUICK)
    norms, start = OPEN["convolutional"]
    assert {"norms": norms, "start": start}.items() <= Bank.open(tmp_path / "run" / "bank").outline["options"].items()
    assert run.report["options"]["norms"] == norms


def test_a_run_goes_on_as_it_began(begun: Path, tmp_path: Path) -> None:
    shutil.copytree(begun, tmp_path / "run")
    _name_the_stream(tmp_path / "run" / "config.yaml")
    run = learn(conv(), STREAM, "piggyback", out=tmp_path / "run", training=QUICK)
    assert (run.method.policy.norms, run.report["options"]["norms"]) == ("frozen", "frozen")
    assert len(run.tasks) == 2
    assert Bank.open(tmp_path / "run" / "bank").verify(conv()).ok


def test_another_choice_is_still_refused(begun: Path, tmp_path: Path) -> None:
    shutil.copytree(begun, tmp_path / "run")
    with pytest.raises(ValueError, match=r"options\.norms: frozen there, private now"):
        learn(conv(), STREAM[:1], "piggyback", out=tmp_path / "run", training=QUICK, options={"norms": "private"})


def _name_the_stream(path: Path) -> None:
    """Let a run's configuration name both tasks: it is the same stream, stopped after the first."""
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    config["task_names"] = [task.name for task in STREAM]
    path.write_text(yaml.safe_dump(config))
