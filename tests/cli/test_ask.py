"""tasks, predict and remove: what they print and write, and what they say to whom nothing can be answered."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.asking import small
from tests.learning import small as blobs

from polymask.cli.main import COMMANDS, main
from polymask.cli.parsers import parser_of
from polymask.loaded import load


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    small.pictures(root / "photos", 6)
    (root / "more").mkdir()
    shutil.copytree(root / "photos", root / "more" / "scans")
    data = f"{root / 'photos'} {root / 'more' / 'scans'}"
    options = "--size 8 8 --channels 3 --model mlp --net.hidden [8] --epochs 5 --lr 0.02 --device cpu"
    assert main(shlex.split(f"run --stream datasets --data {data} {options} --out {root / 'run'}")) == 0
    return root


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def said(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> tuple[list[str], list[str]]:
    """What stands on stdout and on stderr."""
    capsys.readouterr()
    assert main(argv) == code
    out, err = capsys.readouterr()
    return out.splitlines(), err.splitlines()


def test_every_command_has_an_example_that_its_parser_takes(capsys: pytest.CaptureFixture[str]) -> None:
    for command, about in COMMANDS.items():
        assert main([command, "--help"]) == 0
        assert f"examples:\n  polymask {command}" in capsys.readouterr().out
        for line in about["examples"]:
            program, name, *argv = shlex.split(line)
            assert (program, name) == ("polymask", command)
            assert parser_of(name, argv).read(argv)


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    program = [sys.executable, "-m", "polymask.cli.main", "methods"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ran:
        assert ran.stdout is not None
        assert ran.stderr is not None
        ran.stdout.close()
        assert ran.stderr.read() == b""
    assert ran.returncode == 1


def test_tasks_lists_what_was_learned(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, "tasks", "run")
    assert out[0].split() == ["#", "task", "labels", "accuracy", "on", "bytes", "density", "overlap", "revision"]
    assert out[2].split()[:4] == ["1", "photos", "day,", "night"]
    assert out[3].split()[1] == "scans"
    assert out[4].startswith("Measured: accuracy by ")
    assert "--masks true" in said(capsys, "tasks", "run", "--masks", "false")[0][-1]
    (run / "accuracy.csv").unlink()
    again, _ = said(capsys, "tasks", "run")
    assert again[2].split()[4] == out[2].split()[4]  # from the report
    (run / "results.json").write_text("{")
    assert said(capsys, "tasks", "run")[0][2].split()[4] == "-"
    assert said(capsys, "tasks", "run/bank")[0][2].split()[4] == "-"


@pytest.mark.filterwarnings("ignore:inputs without an answer. 1")
def test_predict_prints_a_line_for_each_file_or_writes_them(
    run: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = made / "photos" / "day"
    out, _ = said(capsys, "predict", "run", str(photos), "--task", "photos", "--batch-size", "4")
    assert [line.split()[:2] for line in out] == [[str(photos / f"{i}.png"), "day"] for i in range(6)]
    share = load(run).predict_proba("photos", photos / "0.png").max().item()
    assert float(out[0].split()[2]) == pytest.approx(share, abs=1e-4)
    Path("broken, one.png").write_text("nothing")
    argv = ["predict", "run", str(photos / "1.png"), "broken, one.png", "--task", "#2", "--out"]
    for file in ("a.csv", "a.jsonl"):
        with pytest.warns(UserWarning, match=r"broken, one\.png cannot be read"):
            assert main([*argv, file]) == 1
    with Path("a.csv").open(newline="") as file:
        good, bad = csv.DictReader(file)
    assert (good["file"], good["task"], good["label"], good["problem"]) == (str(photos / "1.png"), "scans", "day", "")
    assert (bad["file"], bad["label"], bad["probability"]) == ("broken, one.png", "", "")
    one, two = map(json.loads, Path("a.jsonl").read_text().splitlines())
    assert (one["label"], one["probability"]) == ("day", float(good["probability"]))
    assert "cannot be read as an image" in two["problem"]


def test_predict_finds_out_which_task_an_input_is_of(run: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, held = made / "photos" / "day", load(run)
    x = torch.stack(
        [torch.from_numpy(np.asarray(Image.open(photos / f"{i}.png").resize((8, 8))).copy()) for i in range(3)]
    )
    found = held.infer(x.movedim(-1, 1))
    assert found.tasks == ("photos", "scans")
    assert found.scores.shape == (3, 2)
    files = sorted(map(str, photos.iterdir()))
    out, _ = said(capsys, "predict", "run", *files[:3], "--batch-size", "2")
    assert all(re.fullmatch(r".*png +(photos|scans) \(margin [\d.e-]+\) +(day|night) +[\d.]+", line) for line in out)
    said(capsys, "predict", "run", *files, "--out", "a.csv")
    with Path("a.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            assert held.predict_labels(line["task"], line["file"]) == [line["label"]]
            assert float(line["margin"]) >= 0
            assert [*line] == ["file", "task", "margin", "label", "probability", "problem"]


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        ("predict run a.png", 1, "expected files and folders that are there, found no a.png"),
        ("export run", 2, "expected --task NAME, or --task '#3' in quotes, found none; there are #1 photos, #2"),
        ("predict run a.png --task", 2, "expected one argument: in a shell '#' begins a comment, so write '#3'"),
        ("predict run a.png --task photo", 2, "found 'photo': did you mean photos?"),
        ("predict run a.png --task '#7'", 2, "#7, a place that no task has had"),
        ("predict run a.png --task '#1' --out a.txt", 2, "expected a file .csv or .jsonl for --out, found a.txt"),
        ("predict run a.png --task '#1' --out no/a.csv", 2, "expected a file in a folder that is there"),
        ("predict run a.png --task '#1' --batch-size 0", 2, "expected 1 or more for --batch-size"),
        ("predict run a.png b.png --task '#1'", 1, "expected files and folders that are there, found no a.png, b.png"),
        ("predict nothing a.png --task '#1'", 1, "expected the folder of a run or a bank"),
        ("predict run", 2, "required: files"),
        ("remove run", 2, "required: task: in a shell '#' begins a comment"),
        ("remove run '#0'", 2, "found '#0'"),
        ("tasks nothing", 1, "expected the folder of a run or a bank"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(
    argv: str, code: int, says: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = said(capsys, *shlex.split(argv), code=code)
    assert out == []
    assert len(err) == 1
    assert says in err[0]
    assert load(run).tasks == ["photos", "scans"]


def test_a_task_without_names_and_a_network_of_another_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blobs.run("piggyback", tmp_path, blobs.tasks()[:1])
    np.save(tmp_path / "x.npy", torch.randn(3, blobs.WIDTH).numpy())
    argv = ["predict", str(tmp_path), str(tmp_path / "x.npy")]
    with pytest.warns(UserWarning, match="task 'one' has no names of labels: its answers are the numbers"):
        _, err = said(capsys, *argv, code=1)
    assert "open it there, polymask.load(" in err[0]


@pytest.mark.filterwarnings("ignore:no free weight is left")
def test_a_removed_task_is_gone_and_the_run_goes_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = load(run).logits("scans", torch.ones(1, 3, 8, 8))
    out, _ = said(capsys, "remove", "run", "#1")
    assert out[0].startswith("task 'photos' (#1) is removed, ")
    assert "entries of the network may learn again; reserved stay" in out[1]
    assert "weights that later tasks read" in out[1]
    assert "--relearn 'photos'" in out[2]
    assert torch.equal(load(run).logits("scans", torch.ones(1, 3, 8, 8)), before)
    assert "Removed: photos" in said(capsys, "tasks", "run")[0][-1]
    with pytest.warns(UserWarning, match="photos of the stream will not be learned again"):
        assert main(["run", "--config", "run/config.yaml", "--out", "run"]) == 0
    assert main(["run", "--config", "run/config.yaml", "--out", "run", "--relearn", "photos"]) == 0
    assert load(run).places == {"scans": 2, "photos": 3}
    said(capsys, "remove", "run", "scans")
    for command in (["remove", "run", "scans"], ["export", "run", "--task", "scans"]):
        assert "found 'scans', which is removed" in said(capsys, *command, code=2)[1][0]
    said(capsys, "remove", "run", "photos")
    assert said(capsys, "tasks", "run")[0] == ["no task is finished in run; removed: scans, photos"]
    assert said(capsys, "verify", "run")[0] == ["every file is whole; there is no finished task to verify"]
    assert "found none in run/bank: removed are scans, photos" in said(capsys, "predict", "run", "run", code=2)[1][0]


def test_a_bank_alone_says_what_a_removal_frees(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run / "bank", "elsewhere")
    found = [said(capsys, "remove", where, "#1")[0][1] for where in ("elsewhere", "run")]
    assert found[0] == found[1]
    assert "entries of the network may learn again" in found[0]


def test_a_folder_of_runs_says_which_are_in_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"such as {run}" in said(capsys, "tasks", str(run.parent), code=1)[1][0]


def test_a_folder_that_cannot_be_written_to_is_said_without_a_number(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    (said_so,) = said(capsys, "report", "run", code=1)[1]
    assert said_so.startswith("polymask: error: expected to write ")


def test_python_finds_the_program() -> None:
    done = subprocess.run([sys.executable, "-m", "polymask", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_at_a_terminal_it_is_asked_first(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "no")
    assert said(capsys, "remove", "run", "#1", code=1)[0] == ["nothing is removed"]
    assert load(run).tasks == ["photos", "scans"]
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert main(["remove", "run", "#1"]) == 0
    monkeypatch.setattr("builtins.input", lambda question: pytest.fail("asked"))
    assert main(["remove", "run", "#2", "--yes", "true"]) == 0
    assert load(run).tasks == []
