"""What a run that read texts answers: strings, pairs, files of lines and tables, and its way on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from tests.texts.toys import reviews, save_bert, write_csv, write_reviews

from polymask.cli.main import main
from polymask.learning.evaluate import score
from polymask.learning.learn import learn
from polymask.learning.objective import Objective, accuracy, macro_f1
from polymask.learning.training import Training
from polymask.loaded import load
from polymask.nets import MLP
from polymask.report.measured import read_rows
from polymask.streams import digits

SHORT = ["--epochs", "10", "--lr", "0.003", "--batch-size", "16", "--quiet"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, four tables and a run over the first three, made on the command line."""
    root = tmp_path_factory.mktemp("road")
    save_bert(root / "bert")
    for noun in ("phone", "book", "film", "soup"):
        write_reviews(root / f"{noun}.csv", noun)
    files = [str(root / f"{noun}.csv") for noun in ("phone", "book", "film")]
    words = ["run", "--method", "piggyback", "--data", *files, "--stream", "datasets", "--text", "review"]
    words += ["--label", "verdict", "--model", str(root / "bert"), "--metrics", "accuracy", "macro-F1"]
    assert main([*words, "--out", str(root / "out"), *SHORT]) == 0
    return root


def say(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = main(words)
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_a_new_users_road(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(place / "out")
    report = json.loads((place / "out" / "results.json").read_text())
    assert report["also"]["macro-F1"]["average"] > 0.8
    assert report["average_accuracy"] > 0.8
    assert report["max_logit_drift"] == 0
    status, found, _ = say(["predict", out, "the phone is very good", "a phone was awful", "--task", "phone"], capsys)
    lines = found.splitlines()
    assert status == 0
    assert "the phone is very good" in lines[0]
    assert "  up  " in lines[0]
    assert "  down  " in lines[1]
    before = load(out).logits("phone", "the phone is good")
    status, found, _ = say(["add", out, "--data", str(place / "soup.csv"), "--quiet"], capsys)
    assert status == 0
    assert "soup" in found
    assert "macro-F1" in found
    assert torch.equal(load(out).logits("phone", "the phone is good"), before)
    assert load(out).labels("soup") == ["down", "up"]
    status, found, _ = say(["tasks", out], capsys)
    assert status == 0
    assert all(noun in found for noun in ("phone", "book", "film", "soup"))
    assert say(["report", out], capsys)[0] == 0
    assert (place / "out" / "report.html").exists()
    exported = tmp_path / "phone.safetensors"
    assert say(["export", out, "--task", "phone", "--to", "safetensors", "--out", str(exported)], capsys)[0] == 0
    said = json.loads(exported.with_suffix(".safetensors.json").read_text())
    assert said["preparation"]["tokenizer"] == str(place / "bert")
    assert said["preparation"]["length"] == 64
    status, found, _ = say(["verify", out], capsys)
    assert status == 0


def test_files_of_lines_and_tables_are_asked_text_by_text(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, lines = str(place / "out"), tmp_path / "lines.txt"
    lines.write_text("the film is good\n\na film was bad\n")
    status, _, _ = say(
        [
            "predict",
            out,
            str(lines),
            str(place / "film.csv"),
            "it lasts",
            "--task",
            "film",
            "--out",
            str(tmp_path / "a.csv"),
        ],
        capsys,
    )
    rows = (tmp_path / "a.csv").read_text().splitlines()
    assert status == 0
    assert len(rows) == 1 + 3 + 60 + 1
    assert rows[1].startswith("the film is good,film,")
    held = load(out)
    answers = list(held.answers("film", [str(place / "film.csv")], batch_size=7))
    assert [one.file for one in answers] == reviews("film")[0]
    assert [one.label for one in answers] == held.predict_labels("film", reviews("film")[0])
    found = list(held.answers(None, ["the film is good", "a book was bad"]))
    assert all(one.task in held.tasks and one.label in ("up", "down") for one in found)
    assert held.infer(["the film is good"]).scores.shape[0] == 1


def test_what_is_no_text_is_refused_and_the_rest_answered(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(place / "out")
    status, _, said = say(["predict", out, "none.txt", "--task", "film"], capsys)
    assert status != 0
    assert "found no none.txt" in said
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe")
    wrong = write_csv(tmp_path / "wrong.csv", [("good", "up")], ["text", "verdict"])
    words = ["predict", out, str(tmp_path / "odd.txt"), str(wrong), "a film", "--task", "film"]
    with pytest.warns(UserWarning, match="odd.txt|texts called|inputs without") as problems:
        status, found, _ = say(words, capsys)
    said = " ".join(str(one.message) for one in problems)
    assert status == 1
    assert "found something else" in said
    assert "texts called 'review'" in said
    assert "a film" in found
    with pytest.raises(ValueError, match="texts, for the tokenizer"):
        load(out).logits("film", torch.zeros(1, 3))


def test_a_line_is_what_its_writer_ended_and_a_text_may_look_like_a_path(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held, lines = load(place / "out"), tmp_path / "lines.txt"
    lines.write_bytes("good\x0cstill the first\r\ngood\u2028two\n\nbad\n".encode())
    assert len(list(held.answers("film", [str(lines)]))) == 4
    odd = ["~200 pages", "~ hm", "very good " * 60 + "readme.txt", "the film is good.csv"]
    assert [one.file for one in held.answers("film", odd)] == odd
    table = tmp_path / "odd.jsonl"
    table.write_text('{"review": "good"}\n{"review": null}\n')
    broken = "caf\udce9 good"
    with pytest.warns(UserWarning, match="expected a text at place|inputs without") as problems:
        status, found, _ = say(["predict", str(place / "out"), str(table), broken, "a film", "--task", "film"], capsys)
    assert status == 1
    assert "a film" in found
    assert "expected a text at place 1, found None" in " ".join(str(one.message) for one in problems)
    with pytest.raises(ValueError, match="expected single texts, as the task has learned, found a pair"):
        held.logits("film", [("film", "it is good")])
    monkeypatch.chdir(tmp_path)
    assert load(place / "out").bank.about["builder"]["args"]["name"] == str((place / "bert").resolve())


def test_a_run_of_images_is_asked_no_texts(tmp_path: Path) -> None:
    learn(MLP(64, (8,), 2), digits(5)[:1], "piggyback", out=tmp_path / "out", training=Training(epochs=1, quiet=True))
    held = load(tmp_path / "out", MLP(64, (8,), 2))
    with pytest.raises(FileNotFoundError):
        held.logits("#1", "a text")


def test_pairs_are_written_with_a_tab(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(text.split()[1], text, label) for text, label in zip(*reviews("phone"), strict=True)]
    table = write_csv(tmp_path / "pairs.csv", rows, ["term", "sentence", "label"])
    words = ["run", "--method", "piggyback", "--stream", "datasets", "--data", str(table)]
    words += [
        "--text",
        "term",
        "sentence",
        "--model",
        str(place / "bert"),
        "--out",
        str(tmp_path / "out"),
        "--length",
        "20",
    ]
    assert main([*words, *SHORT, "--epochs", "1"]) == 0
    held, pair = load(tmp_path / "out"), ("phone", "the phone is good")
    assert held.bank.record("pairs").meta.inputs["columns"] == ["term", "sentence"]
    one = held.logits("pairs", pair)
    assert one.shape == (1, 2)
    assert torch.equal(held.logits("pairs", "phone\tthe phone is good"), one)
    torch.testing.assert_close(held.logits("pairs", [pair, pair])[0], one[0])
    assert len(list(held.answers("pairs", [str(table)]))) == 60
    with pytest.warns(UserWarning, match="inputs without an answer|a pair of texts, term and sentence, with a tab"):
        status, _, _ = say(["predict", str(tmp_path / "out"), "the phone is good"], capsys)
    assert status == 1


def test_the_run_is_told_again_by_its_config(place: Path) -> None:
    said = yaml.safe_load((place / "out" / "config.yaml").read_text())
    assert said["text"] == ["review"]
    assert said["tokenizer"] == str(place / "bert")
    assert said["metrics"][1] == "macro-F1"


def test_metrics_stand_side_by_side_and_the_first_chooses(tmp_path: Path) -> None:
    objective = Objective.of(["macro-F1", "accuracy"])
    training = Training(epochs=2, quiet=True)
    stream = digits(5)[:2]
    learn(MLP(64, (8,), 2), stream, "piggyback", out=tmp_path / "out", training=training, objective=objective)
    again = learn(MLP(64, (8,), 2), stream, "piggyback", out=tmp_path / "out", training=training, objective=objective)
    rows = read_rows(tmp_path / "out" / "accuracy.csv")
    assert again.report["metric"] == "macro-F1"
    assert again.report["also"]["accuracy"]["at_the_end"] == [rows[task][task].also["accuracy"] for task in again.tasks]
    from polymask.streams import prepare

    feeds = prepare(stream[0], seed=0)
    model = again.method.plain(again.tasks[0])
    found = score(model, feeds, objective)
    assert found.value == rows[again.tasks[0]][again.tasks[0]].value
    assert score(model, feeds, Objective()).value == found.also["accuracy"]
    for wrong in ([], ["f1"], ["accuracy", "accuracy"]):
        with pytest.raises(ValueError, match="expected metrics of accuracy, macro-F1, each once"):
            Objective.of(wrong)


def test_macro_f1_counts_every_class_alike() -> None:
    logits, y = torch.eye(3)[[0, 0, 0, 1]], torch.tensor([0, 0, 0, 2])
    assert accuracy(logits, y) == 0.75
    assert macro_f1(logits, y) == pytest.approx(1 / 3)
