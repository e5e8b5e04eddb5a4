"""A run's folder remembers which tasks were removed: they are learned again only if asked, and the rest goes on."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.learning import small
from tests.learning.test_resume import At, interrupt
from torch import nn
from torch.nn import functional as F

from polymask.bank.bank import Bank
from polymask.cli.main import main
from polymask.learning.extend import extend
from polymask.learning.learn import Learned, learn
from polymask.learning.objective import Objective
from polymask.learning.options import Refused
from polymask.learning.training import Training
from polymask.methods import METHODS
from polymask.nets import build_net
from polymask.sites.marks import is_marked
from polymask.streams.images import digits

SAYS = r"two of the stream will not be learned again, removed from .* before"
KINDS = {**small.METHODS, "hat": {}, "wsn": {}, "exssnet": {}}
PROMISED = [name for name in KINDS if name != "finetune"]


def some(names: Iterable[str], *default: str) -> pytest.MarkDecorator:
    """Methods, of which the default suite takes some."""
    full = pytest.mark.full
    return pytest.mark.parametrize("method", [pytest.param(n, marks=() if n in default else full) for n in names])


@pytest.fixture(autouse=True)
def _full_networks() -> Iterator[None]:
    """PackNet, told the number of its tasks, shares out all its weights."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no free weight is left")
        yield


def without(method: str, out: Path, *names: str) -> None:
    """A finished run of which some tasks were removed since."""
    small.run(method, out, options=KINDS[method])
    for name in names:
        Bank.open(out / "bank").remove(name)


def learned(out: Path) -> list[str]:
    """The tasks of the rows in epochs.csv, in order."""
    with (out / "epochs.csv").open(newline="") as file:
        return list(dict.fromkeys(row["task"] for row in csv.DictReader(file)))


def square(found: dict[str, Any]) -> bool:
    return all(len(row) == len(found["tasks"]) for row in (found["accuracy"], *found["accuracy"]))


@some(KINDS, "packnet", "hat")
def test_a_removed_task_is_learned_again_only_if_asked(method: str, tmp_path: Path) -> None:
    without(method, tmp_path, "two")
    before, proof = small.results(tmp_path), Bank.open(tmp_path / "bank").probe_logits()
    with pytest.warns(UserWarning, match=SAYS) as said:
        run = small.run(method, tmp_path, options=KINDS[method])
    assert len(said) == 1
    found = small.results(tmp_path)
    assert (found["tasks"], found["finished"], found["removed"]) == (["one", "three"], ["one", "three"], ["two"])
    assert found["accuracy"] == [[row[0], row[2]] for row in (before["accuracy"][0], before["accuracy"][2])]
    assert found["average_accuracy"] == pytest.approx(sum(found["accuracy"][1]) / 2)
    assert len(found["bytes"]["per_task"]) == 2
    assert run.tasks == learned(tmp_path) == ["one", "three"]

    small.run(method, tmp_path, options=KINDS[method], relearn=("two",))
    found = small.results(tmp_path)
    assert found["tasks"] == found["finished"] == learned(tmp_path) == ["one", "three", "two"]
    assert "removed" not in found
    assert None not in found["accuracy"][2]
    assert found["accuracy"][0][2] is found["accuracy"][1][2] is None  # not the figures of the first "two"
    assert method not in PROMISED or found["max_logit_drift"] == 0
    assert method not in PROMISED or Bank.open(tmp_path / "bank").verify(small.net()).ok
    now = Bank.open(tmp_path / "bank").probe_logits()
    assert all((now[name] == proof[name]).all() for name in ("one", "three"))
    small.run(method, tmp_path, options=KINDS[method], relearn=("two",))  # the same command goes on
    assert small.results(tmp_path) == found


@some(["packnet", "tfm"], "tfm")
def test_more_tasks_and_one_of_the_removed_name_are_learned_on_top(method: str, tmp_path: Path) -> None:
    without(method, tmp_path, "one", "three")
    for name in ("four", "three"):
        run = extend(tmp_path, small.task(name, 2), small.net())
        assert run.report["max_logit_drift"] == 0
    found = small.results(tmp_path)
    assert found["tasks"] == found["finished"] == ["two", "four", "three"]
    assert found["removed"] == ["one"]
    assert square(found)
    assert learned(tmp_path) == ["two", "four", "three"]
    assert Bank.open(tmp_path / "bank").verify(small.net()).ok


@some(["packnet", "piggyback", "tfm"], "piggyback")
def test_where_every_task_was_removed_others_are_learned(method: str, tmp_path: Path) -> None:
    without(method, tmp_path, "one", "two", "three")
    with pytest.warns(UserWarning, match="one, two, three of the stream will not"):
        assert small.run(method, tmp_path, options=KINDS[method]).tasks == []
    found = small.results(tmp_path)
    assert (found["tasks"], found["accuracy"], found["removed"]) == ([], [], ["one", "two", "three"])
    assert extend(tmp_path, small.task("four"), small.net()).tasks == ["four"]
    assert Bank.open(tmp_path / "bank").verify(small.net()).ok


def test_a_task_that_was_open_begins_anew_where_one_below_it_was_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        small.run_saved("packnet", tmp_path, objective=Objective(loss=At(44, interrupt, F.cross_entropy)))
    assert Bank.open(tmp_path / "bank").tasks == ("one", "two")
    assert (tmp_path / "checkpoint.pt").exists()
    Bank.open(tmp_path / "bank").remove("two")
    with (
        pytest.warns(UserWarning, match=SAYS),
        pytest.warns(UserWarning, match="task 'three' begins anew: two, on top of which it was learned"),
    ):
        run = small.run("packnet", tmp_path)
    assert run.tasks == ["one", "three"]
    rows = (tmp_path / "epochs.csv").read_text().splitlines()
    assert len(rows) == len(set(rows)) == 1 + 2 * 2 * 2
    assert Bank.open(tmp_path / "bank").verify(small.net()).ok


def test_what_is_asked_again_must_be_a_task(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected relearn to name tasks .*\(one, two, three\), found 'to'"):
        small.run("packnet", tmp_path / "run", relearn=("to",))
    assert not (tmp_path / "run").exists()


@some([name for name, kind in METHODS.items() if not kind.needs], "wsn")
def test_digits_are_learned_on_after_a_removal(method: str, tmp_path: Path) -> None:
    out, stream, training = tmp_path / "run", digits(5)[:3], Training(epochs=1, device="cpu")

    def network() -> nn.Module:
        return build_net("mlp", (1, 8, 8), 2, hidden=(24, 24), seed=0)  # of 12, three tasks of HAT leave nothing free

    def again(**more: Any) -> Learned:
        return learn(network(), stream, method, out=out, training=training, **more)

    again()
    gone = stream[0].name
    Bank.open(out / "bank").remove(gone)
    run = again(relearn=(gone,))
    assert run.tasks == run.report["tasks"] == [stream[1].name, stream[2].name, gone]
    if run.method.exact is True:
        assert run.report["max_logit_drift"] == 0
        assert Bank.open(out / "bank").verify(network()).ok


def test_the_command_line_says_what_it_leaves_out_and_how_to_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["run", "--method", "piggyback", "--tasks", "2", "--epochs", "1", "--out", "run"]
    assert main(argv) == 0
    first, second = json.loads(Path("run/results.json").read_text())["tasks"]
    Bank.open("run/bank").remove(first)
    with pytest.warns(UserWarning, match=f"{first} of the stream will not be learned again.*--relearn"):
        assert main(argv) == 0
    capsys.readouterr()
    assert main(["add", "run", "--tasks", "2", "--epochs", "1"]) == 2
    assert f"to learn {first} again, which was removed, name it with --task" in capsys.readouterr().err
    assert main([*argv, "--relearn", first]) == 0
    found = json.loads(Path("run/results.json").read_text())
    assert found["tasks"] == [second, first]
    Bank.open("run/bank").remove(second)
    assert main(["add", "run", "--tasks", "2", "--epochs", "1", "--task", second]) == 0
    assert json.loads(Path("run/results.json").read_text())["finished"] == [first, second]
    for name in (first, second):
        Bank.open("run/bank").remove(name)
    with pytest.warns(UserWarning, match="will not be learned again"):
        assert main(argv) == 0
    assert "average accuracy not measured" in capsys.readouterr().out


def test_a_shared_norm_is_refused_before_anything_is_written_or_attached(tmp_path: Path) -> None:
    net = small.net()
    with pytest.raises(Refused, match=r"found norms='shared', with which body\.1\.weight"):
        small.run("packnet", tmp_path / "run", model=net, options={"norms": "shared"})
    assert not (tmp_path / "run" / "config.yaml").exists()
    assert not any(is_marked(module) for module in net.modules())
    small.run("packnet", tmp_path / "run")
