"""Spare outputs of a shared head: the loss reaches them, and scores, answers and records never do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.learning import small
from torch import Tensor, nn
from torch.nn import functional as F

from polymask.cli.main import main
from polymask.learning import compare as module
from polymask.learning.by_name import run_named
from polymask.learning.compare import compare
from polymask.learning.extend import extend
from polymask.learning.learn import Learned
from polymask.learning.objective import Objective, accuracy
from polymask.learning.options import Refused
from polymask.learning.training import Training
from polymask.loaded import load
from polymask.streams.stream import Task

SPARE, WIDE = 5, 8
LONGER = Training(epochs=4, batch_size=16, lr=0.05)


class Seen:
    """A loss and a metric that note how wide the logits are that they are given."""

    def __init__(self) -> None:
        self.losses: list[int] = []
        self.metrics: set[int] = set()

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        self.losses.append(logits.shape[1])
        return F.cross_entropy(logits, y)

    def metric(self, logits: Tensor, y: Tensor) -> float:
        self.metrics.add(logits.shape[1])
        return accuracy(logits, y)

    @property
    def objective(self) -> Objective:
        return Objective(self.loss, self.metric, "share")


def pair() -> list[Task]:
    return [small.task("one"), small.task("two", 2)]


def learn(out: Path | None = None, **more: Any) -> Learned:
    given = {"model": small.net(WIDE), "stream": pair(), "spare": SPARE, "training": LONGER, **more}
    return small.run(given.pop("method", "supsup"), out, **given)


def mass_beyond(run: Learned) -> float:
    """How likely a task of three labels finds all other outputs together, on its own data."""
    run.method.activate("one")
    with torch.no_grad():
        return run.method.model.eval()(small.blobs("one", 3, 24, "test")[0]).softmax(-1)[:, 3:].sum(-1).mean().item()


def test_the_loss_pushes_spare_outputs_down_and_nothing_else_sees_them(tmp_path: Path) -> None:
    seen = Seen()
    run = learn(tmp_path, objective=seen.objective)
    assert {*seen.losses} == {WIDE}
    assert seen.metrics == {3, 2}
    assert mass_beyond(run) < 0.3 < mass_beyond(learn(spare=0))
    held, x = load(tmp_path, small.net(WIDE)), torch.randn(64, small.WIDTH)
    for task, labels in (("one", 3), ("two", 2)):
        assert run.method.records[task].meta.outputs == held.table()[held.places[task] - 1].outputs == labels
        assert (
            run.logits(task, x).shape == held.logits(task, x).shape == held.predict_proba(task, x).shape == (64, labels)
        )
        assert run.predict(task, x).max() < labels


def test_without_them_the_loss_is_of_a_tasks_own_labels() -> None:
    seen = Seen()
    learn(spare=0, objective=seen.objective)
    assert {*seen.losses} == {3, 2}


def test_a_plateau_watches_the_loss_of_a_tasks_own_labels() -> None:
    seen = Seen()
    learn(stream=pair()[:1], objective=seen.objective, training=Training(epochs=1, batch_size=64, schedule="plateau"))
    assert seen.losses == [WIDE, 3]


def test_a_stopped_run_goes_on_with_them_to_the_bit(tmp_path: Path) -> None:
    saved = Training(epochs=1, batch_size=16, lr=0.05, save_every=0)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "stopped", training=saved, objective=Objective(small.Once(7, small.stop)))
    for out in ("stopped", "whole"):
        learn(tmp_path / out, training=saved)
    small.assert_same(tmp_path / "stopped", tmp_path / "whole")
    with pytest.raises(ValueError, match=r"found another \(spare: 5 there, 4 now\)"):
        learn(tmp_path / "whole", training=saved, spare=4)


def test_a_task_that_is_added_has_those_of_the_run_whatever_it_is_trained_with(tmp_path: Path) -> None:
    learn(tmp_path, stream=pair()[:1])
    seen = Seen()
    later = extend(tmp_path, small.task("two", 2), small.net(WIDE), training=LONGER, objective=Objective(seen.loss))
    assert {*seen.losses} == {WIDE}
    assert later.method.records["two"].meta.outputs == 2
    assert json.loads((tmp_path / "results.json").read_text())["spare"] == SPARE
    with pytest.raises(Refused, match="9 or more"):
        extend(tmp_path, small.task("wide", 4), small.net(WIDE))


class Tied(nn.Module):
    """A head that is an embedding, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body, self.head = nn.Embedding(WIDE, 6), nn.Linear(6, 6), nn.Linear(6, WIDE, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.body(self.embedding(x)).mean(1))


WORDS = Task("words", (torch.arange(WIDE)[:, None].repeat(4, 3), torch.arange(WIDE).repeat(4)), outputs=WIDE)
FLOATS = Task("floats", (torch.randn(32, small.WIDTH), torch.rand(32, 3)))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"method": "packnet"},
            "expected tasks that share a head for spare=5, found packnet, where each has a head of",
        ),
        ({"options": {"heads": "private"}}, "found supsup, where each has a head of its own"),
        ({"model": Tied(), "stream": [WORDS], "head": "head", "options": {"masked": ["body.weight"]}}, "found supsup"),
        ({"spare": -1}, "expected spare of at least 0, found -1"),
        ({"stream": pair()[::-1], "model": small.net(7)}, r"8 or more\), for 3 labels and spare=5, found \(2, 7\)"),
        ({"stream": [FLOATS], "objective": Objective(F.mse_loss, metric=lambda *_: 0.0)}, "targets of torch.float32"),
    ],
)
def test_what_has_none_refuses_before_anything_is_written(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=said):
        learn(tmp_path, **more)
    assert [*small.files(tmp_path)] == [".lock"]


def test_by_name_the_head_is_built_wider_and_its_config_starts_the_same_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, short = str(tmp_path), Training(epochs=3, quiet=True)
    report = run_named("supsup", tasks=[[0, 1], [2, 3, 4]], net={"hidden": [16]}, spare=4, out=out, training=short)
    assert load(tmp_path).bank.outline["builder"]["args"]["outputs"] == 3 + 4
    assert report["spare"] == yaml.safe_load((tmp_path / "config.yaml").read_text())["spare"] == 4
    again = ["run", "--config", f"{out}/config.yaml", "--out", out]
    assert main(again) == 0
    assert main([*again, "--spare", "3"]) == 1
    assert "(spare: 4 there, 3 now)" in capsys.readouterr().err
    with pytest.raises(Refused, match="found joint, where each has a head of its own"):
        run_named("joint", spare=4, out=out)


def test_in_a_comparison_they_are_for_methods_whose_tasks_share_a_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, int] = {}
    report = {"metric": "accuracy", "average_accuracy": 0.25, "bwt_gem": 0.0, "max_logit_drift": 0.0, "seconds": 2.0}

    def noted(method: str, *, spare: int, **_: Any) -> dict[str, Any]:
        given[method] = spare
        return report

    monkeypatch.setattr(module, "run_named", noted)
    lines: list[str] = []
    compare(["supsup", "packnet", "joint"], [0], tmp_path, spare=7, say=lines.append)
    assert given == {"supsup": 7, "packnet": 0, "joint": 0}
    assert lines[0] == "Spare outputs are for heads='masked' alone, and not for packnet, joint."
    with pytest.raises(Refused, match="found supsup, joint, where each has a head of its own"):
        compare(["supsup", "joint"], [0], tmp_path, spare=7, options={"supsup": {"heads": "private"}})
