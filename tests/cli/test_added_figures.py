"""What later commands make of a run: its seed, its figures, its settings; and files of it that were damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from polymask.cli.main import main
from polymask.learning import folder as files
from polymask.learning.extend import extend, training_of
from polymask.learning.figures.table import bytes_added
from polymask.learning.training import Training
from polymask.pages.run import read_run, references
from polymask.streams import make_stream

QUICK = "--epochs 1 --quiet true"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def polymask(line: str) -> int:
    return main(line.split())


def told(folder: str) -> dict[str, Any]:
    """What a run reports."""
    found: dict[str, Any] = json.loads(Path(folder, "results.json").read_text())
    return found


def test_a_task_that_is_added_has_the_data_of_the_run_s_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not polymask(f"run --stream digits-permuted --tasks 1 --seed 3 --method linear-probe --out a {QUICK}")
    seeds = []

    def noted(*args: Any, **how: Any) -> Any:
        seeds.append(how["seed"])
        return make_stream(*args, **how)

    monkeypatch.setattr("polymask.cli.commands.add.make_stream", noted)
    assert not polymask("add a --stream digits-permuted --tasks 2 --epochs 1")
    assert seeds == [3]


def test_a_second_metric_is_known_at_the_end_where_the_first_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert not polymask(f"run --method finetune --tasks 2 --metrics accuracy macro-F1 --out a {QUICK}")
    assert told("a")["also"]["macro-F1"]["average"] is not None
    assert not polymask("add a --stream digits-rotated --tasks 1 --epochs 1")
    beside = told("a")["also"]["macro-F1"]
    assert [value is None for value in beside["at_the_end"]] == [True, True, False]
    assert beside["average"] is None
    assert "not measured, macro-F1 -," in capsys.readouterr().out


def test_joint_training_says_of_each_task_what_is_its_own() -> None:
    line = f"run --method joint --prefixes last --tasks [[0,1],[2,3,4]] --metrics accuracy macro-F1 --out j {QUICK}"
    assert not polymask(line)
    first = told("j")
    assert bytes_added(first) == {"digits/0-1": 808, "digits/2-3-4": 1212}
    assert not polymask(line)
    again = told("j")
    assert again["also"] == first["also"]
    assert None not in again["also"]["macro-F1"]["at_the_end"]


def test_a_comparison_goes_without_what_joint_training_would_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert not polymask(
        f"compare --methods linear-probe joint --tasks 2 --mask-lr 0.1 --private-bits 16 --out c {QUICK}"
    )
    assert "Joint training has no use for private_bits, mask_lr" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--methods finetune finetune", "methods that differ, found finetune more than once"),
        ("--methods finetune --seeds 0 1 0", "seeds that differ, found 0 more than once"),
        ("--methods finetune --seeds -1", "seeds of at least 0, found -1"),
    ],
)
def test_nothing_is_compared_with_itself(given: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert polymask(f"compare {given} --out c {QUICK}") == 1
    assert said in capsys.readouterr().err
    assert not Path("c").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-12])


def not_text(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20] + b"\xff" + path.read_bytes()[21:])


def not_yaml(path: Path) -> None:
    path.write_text("method: [linear_probe")


def empty(path: Path) -> None:
    path.write_text("")


@pytest.mark.parametrize(
    ("name", "damage", "fails"),
    [
        ("accuracy.csv", cut, False),
        ("epochs.csv", cut, False),
        ("epochs.csv", not_text, False),
        ("config.yaml", not_yaml, True),
        ("config.yaml", not_text, True),
        ("config.yaml", empty, True),
        ("accuracy.csv", not_text, True),
    ],
)
def test_a_damaged_file_is_read_round_or_said_in_a_line(
    name: str, damage: Callable[[Path], None], fails: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    line = f"run --method linear-probe --tasks 2 --metrics accuracy macro-F1 --out a {QUICK}"
    assert not polymask(line)
    damage(Path("a", name))
    assert polymask(line) == fails
    said = capsys.readouterr().err
    assert (f"{name} to say how the run is configured, found it damaged" in said) == (fails and name == "config.yaml")
    assert ("expected the columns after, on, value" in said) == (fails and name == "accuracy.csv")


def test_a_file_of_options_in_another_encoding_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("o.yaml").write_text("method: supsup\n", encoding="utf-16")
    assert polymask("run --config o.yaml") == 2
    assert "expected YAML in o.yaml" in capsys.readouterr().err


def test_seconds_go_on_over_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "run --method linear-probe --tasks 1 --epochs 3 --save-every 0 --quiet true --out a"
    save = files.save_checkpoint

    def late(place: Path, state: dict[str, Any]) -> None:
        save(place, {**state, "seconds": state["seconds"] + 100})
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("polymask.learning.folder.save_checkpoint", late)
        assert polymask(line) == 130
    assert not polymask(line)
    (seconds,) = told("a")["seconds_per_task"].values()
    assert 100 < seconds < 200


def test_what_is_added_takes_the_settings_that_are_said_and_else_the_run_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not polymask(f"run --method linear-probe --tasks 1 --val-fraction 0.3 --measure all --out a {QUICK}")
    seen = []

    def extended(*given: Any, training: Training, **how: Any) -> Any:
        seen.append(training)
        return extend(*given, training=training, **how)

    monkeypatch.setattr("polymask.cli.commands.add.extend", extended)
    assert not polymask("add a --stream digits-rotated --tasks 1 --val-fraction 0.1")
    assert (seen[0].val_fraction, seen[0].measure, seen[0].epochs) == (0.1, "all", training_of(Path("a")).epochs)
    assert polymask("add a --stream digits-rotated --tasks 1 --adapters 8") == 2


def test_a_page_knows_whose_chance_and_which_runs_stand_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = "[[0,1],[2,3,4]]"
    assert not polymask(f"compare --methods finetune joint --tasks {groups} --order 1 0 --out c {QUICK}")
    run = read_run(Path("c/joint-0"))
    assert dict(zip(run.tasks, run.chance.round(3).tolist(), strict=True)) == {"digits/2-3-4": 0.333, "digits/0-1": 0.5}
    monkeypatch.chdir("c/finetune-0")
    assert "joint" in references(read_run(Path()))


def test_after_a_removal_a_page_s_transfer_is_that_of_the_tasks_left() -> None:
    assert not polymask(f"run --method finetune --tasks 5 --out a {QUICK}")
    before = told("a")
    assert not polymask("remove a digits/0-1 --yes true")
    matrix = [row[1:] for row in before["accuracy"][1:]]
    changes = [end - row[place] for place, (row, end) in enumerate(zip(matrix[:-1], matrix[-1][:-1], strict=True))]
    assert read_run(Path("a")).results["bwt_gem"] == pytest.approx(mean(changes))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run --stream digits-permuted --tasks [[0,1]]", "expected a number of permutations for tasks"),
        ("run --stream digits-rotated --tasks [[0,1]]", "expected a number of angles for tasks"),
    ],
)
def test_groups_where_a_number_is_meant_are_refused(
    line: str, said: str, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("untyped"):
        pytest.skip("annotations are checked, and refuse it first")
    assert polymask(line) == 1
    assert said in capsys.readouterr().err
