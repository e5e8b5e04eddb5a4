"""Pages: one file that asks for nothing, a table behind each picture, and a sentence where a folder lacks something."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from tests import banks
from tests.folders import results_of, write_results, write_run

import polymask
from polymask.bank.bank import Bank
from polymask.bank.head import read_head
from polymask.bank.reader import Reader as BankReader
from polymask.bank.sizes import sizes_of
from polymask.cli.main import main
from polymask.learning.by_name import run_named
from polymask.learning.compare import compare
from polymask.learning.learn import learn
from polymask.learning.training import Training
from polymask.loaded import load
from polymask.nets import MLP
from polymask.pages.of_bytes import parts_in_words, parts_of
from polymask.pages.records import read_masks
from polymask.pages.run import read_run
from polymask.pages.write import write_report
from polymask.parts.pack import pack
from polymask.report.labels import number
from polymask.streams.images import digits

ALONE = {"meta", "br", "link", "img", "input", "hr"}
TASKS = ["made/one", "made/two", "made/three"]


class Reader(HTMLParser):
    """What a page holds: open elements, ids, what it refers to, its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: Counter[str] = Counter()
        self.ids: list[str] = []
        self.refers: list[str] = []
        self.words: list[str] = []
        self.alts: list[str] = []
        self.bare: list[str] = []
        self.section, self.wants = "", False
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in ALONE:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] += 1
        found = {name: value or "" for name, value in attrs}
        self.ids += [found["id"]] if "id" in found else []
        self.refers += [found[name] for name in ("src", "href", "srcset", "action", "data", "poster") if name in found]
        for value in found.values():
            self.refers += [part.partition(")")[0].strip("'\"") for part in value.split("url(")[1:]]
        assert not [name for name in found if name.startswith("on")], "a script in an attribute"
        if tag == "svg":
            self.alts.append(found.get("aria-label", ""))
            assert found["role"] == "img"
            self.wants = True
        self.bare += [self.section] if tag == "section" and self.wants else []
        if tag == "section":
            self.section, self.wants = found["id"], False
        if tag == "table":
            self.wants = False

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def outside(self) -> list[str]:
        """What the page refers to that is not in it."""
        return [one for one in self.refers if not one.startswith("data:image/png;base64,") and one[1:] not in self.ids]


def checked(path: Path) -> Reader:
    """A page that keeps to what is promised of every page."""
    text = path.read_text()
    page = Reader(text)
    assert page.outside() == []
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert not [word for word in ("url(", "@import", "http", "expression(") if word in style]
    assert not page.seen.keys() & {"script", "link", "iframe", "object", "embed", "base", "form", "style"} - {"style"}
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []
    assert page.seen["svg"] == len([alt for alt in page.alts if len(alt) > 10])
    assert page.bare == [], "a picture without a table"
    assert "default-src 'none'" in text
    assert f"polymask {polymask.__version__}" in text
    return page


def test_the_check_sees_what_it_is_to_see() -> None:
    for bad in ("<img src='https://x/y'>", "<p style='fill: url(https://x)'></p>", "<a href='#nowhere'></a>"):
        assert Reader(bad).outside()
    with pytest.raises(AssertionError):
        Reader("<p onclick='x()'></p>")
    assert Reader("<section id='a'><svg role='img'></svg></section><section id='b'></section>").bare == ["a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of four methods and two seeds."""
    out = tmp_path_factory.mktemp("compare")
    same = {"tasks": 2, "training": Training(epochs=1), "net": {"hidden": [16]}}
    compare(["packnet", "finetune", "linear_probe", "joint"], [0, 1], out, **same)
    return out


@pytest.fixture(scope="module")
def drawn(folder: Path) -> Path:
    """The page of the comparison."""
    return write_report(folder, folder / "deep" / "page.html")


@pytest.fixture
def _unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are put together and not drawn, which takes most of the time and has been seen elsewhere."""
    empty = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>'
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, file, **how: file.write(empty))


def test_a_run_says_what_was_measured_what_is_proved_and_what_it_is_measured_against(folder: Path) -> None:
    path = polymask.write_report(folder / "packnet-1")
    page, first = checked(path), path.read_bytes()
    text = " ".join(page.words)
    found = json.loads((folder / "packnet-1" / "results.json").read_text())
    assert text.count("(proved)") == sum(row.count("proved") for row in found["source"]) == 1
    assert "Entries with a dot (1) are proved" in text
    assert "Nothing was forgotten: no logit of a finished task has changed by a bit." in text
    assert all(f"{name}: 0." in text for name in ("linear probe", "joint", "chance"))
    assert "independent:" not in text
    assert f"{found['average_accuracy']:.4f}" in text
    # Matrix, tasks, curves, change, drift, capacity, density, overlap, masks, bytes, two of training.
    assert page.seen["svg"] == 12
    assert all(f"{task} (proved)" not in text and task in text for task in found["tasks"])
    assert "body.1.weight" in text
    assert write_report(folder / "packnet-1").read_bytes() == first, "the same folder gives the same bytes"


def test_what_forgets_is_said_to(folder: Path) -> None:
    page = checked(write_report(folder / "finetune-0"))
    text = " ".join(page.words)
    assert "The largest change of a logit of a finished task is 0." in text
    assert "The tasks in the bank have no masks." in text
    assert "(proved)" not in text


def test_joint_training_has_no_bank_and_forgets_nothing(folder: Path) -> None:
    text = " ".join(checked(write_report(folder / "joint-0")).words)
    assert "Joint training on all 2 tasks at once: average accuracy" in text
    assert "There is no bank." in text
    assert "has not ended" not in text


def test_a_comparison_shows_every_method_and_seed(folder: Path, drawn: Path) -> None:
    page = checked(drawn)
    text = " ".join(page.words)
    assert text.count("±") > 10
    for method in ("packnet", "finetune", "linear_probe", "joint"):
        for seed in "01":
            found = json.loads((folder / f"{method}-{seed}" / "results.json").read_text())
            assert f"{found['average_accuracy']:.4g}" in text
    assert "Not a bit of a finished task's logits moved under packnet and linear_probe." in text
    assert "Logits moved under finetune." in text
    assert "rows through the plain network" in text
    assert "has not ended" not in text
    assert page.seen["svg"] == 8


@pytest.mark.usefixtures("_unseen")
def test_a_comparison_of_an_earlier_version_keeps_its_order(folder: Path, tmp_path: Path) -> None:
    old = shutil.copytree(folder, tmp_path / "old")
    order = ["joint", "finetune", "packnet", "linear_probe"]
    rows = [{"method": name, "average accuracy": "0.9 ± 0.1", "bwt": "-"} for name in order]
    (old / "table.json").write_text(json.dumps(rows))
    for place in [*old.glob("*/cost.json"), old / "runs.csv", old / "table.tex"]:
        place.unlink()
    (old / "packnet-1" / "results.json").unlink()
    path = write_report(old)
    text = " ".join(checked(path).words)
    assert "packnet-1 has not ended." in text
    heads = re.findall(r'<th scope="row">(.*?)</th>', path.read_text())
    assert heads[:4] == order


Damage = Callable[[Path], object]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "no results": (lambda f: (f / "results.json").unlink(), "The run has not ended, so that the drift"),
    "cut results": (lambda f: (f / "results.json").write_text('{"tasks": ['), "cut short or changed"),
    "results of a list": (lambda f: (f / "results.json").write_text("[]"), "it holds a list"),
    "results of other kinds": (
        lambda f: (f / "results.json").write_text(json.dumps(results_of(TASKS, tasks=3, bytes=[1], accuracy="x"))),
        "expected tasks as a run writes it, found a int",
    ),
    "a matrix of another shape": (
        lambda f: (f / "results.json").write_text(json.dumps(results_of(TASKS, accuracy=[[1.0]]))),
        "results.json could not be read",
    ),
    "no config": (lambda f: (f / "config.yaml").unlink(), "There is no config.yaml that can be read."),
    "a config that is no mapping": (lambda f: (f / "config.yaml").write_text("- 1"), "config.yaml could not be read"),
    "bytes as rows": (lambda f: (f / "accuracy.csv").write_bytes(b"after,on\n\xff\xfe"), "accuracy.csv"),
    "rows without a value": (lambda f: (f / "accuracy.csv").write_text("after,on\na,b\n"), "accuracy.csv"),
    "words as epochs": (lambda f: (f / "epochs.csv").write_text("a,b,0,x,y,z\n"), "epochs.csv could not be read"),
    "no epochs": (lambda f: (f / "epochs.csv").unlink(), "There is no epochs.csv"),
    "no bank": (lambda f: shutil.rmtree(f / "bank"), "There is no bank."),
    "a cut head": (lambda f: (f / "bank" / "bank.json").write_text("{"), "found it cut short or changed"),
    "lost tensors": (
        lambda f: [one.unlink() for one in (f / "bank").glob("*.safetensors")],
        "The tasks in the bank have no masks",
    ),
    "a damaged entry": (
        lambda f: next(one for one in (f / "bank").glob("*.json") if one.name != "bank.json").write_text("{}"),
        "found it changed",
    ),
}


OFTEN = ("no results", "cut results", "results of other kinds", "bytes as rows", "no bank", "lost tensors")
"""The damages that are looked at by default; the others take the same ways."""


@pytest.mark.usefixtures("_unseen")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in OFTEN else pytest.mark.full) for name in DAMAGES]
)
def test_what_is_missing_or_damaged_is_a_sentence(name: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", TASKS)
    damage, said = DAMAGES[name]
    damage(folder)
    text = " ".join(" ".join(checked(write_report(folder)).words).split())
    assert said in text
    assert "Traceback" not in text


@pytest.mark.usefixtures("_unseen")
def test_a_bank_alone_is_drawn_as_far_as_it_goes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", TASKS) / "bank"
    page = checked(write_report(folder))
    text = " ".join(page.words)
    assert "No accuracy was measured yet" in text
    assert "How masks look" in text
    assert "by hand learned 3 tasks one after the other." in text
    assert "there is no results.json that can be read" in text
    assert "the run has not ended" not in text
    assert page.seen["svg"] == 5
    assert Bank.open(folder).verify().ok


@pytest.mark.usefixtures("_unseen")
def test_a_removed_task_is_said_to_be_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", TASKS)
    bank = Bank.open(folder / "bank")
    bank.remove(TASKS[0])
    text = " ".join(checked(write_report(folder)).words)
    assert f"Removed since: {TASKS[0]}." in text
    for task in TASKS[1:]:
        bank.remove(task)
    text = " ".join(checked(write_report(folder)).words)
    assert "The bank holds no task." in text
    assert "There is no bank" not in text


@pytest.mark.usefixtures("_unseen")
def test_a_bank_without_tasks_is_drawn(tmp_path: Path) -> None:
    sites = banks.attached()
    Bank.create(tmp_path / "bank", sites, builder=banks.BUILDER, method="by hand")
    assert "0 tasks" in " ".join(checked(write_report(tmp_path)).words)


def test_a_folder_of_nothing_is_refused_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        assert main(["report", str(place)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "expected the folder of a run, of a comparison or of a bank, found none of results.json" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_unseen")
def test_the_command_says_where_the_page_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_results(tmp_path / "run", TASKS)
    assert main(["report", str(folder), "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'page.html'} (0.")
    assert checked(tmp_path / "page.html").seen["svg"] > 3
    assert main(["report", str(folder), "--out", str(tmp_path / "page.html" / "in" / "a-file.html")]) == 1
    assert "choose another out" in capsys.readouterr().err


NAMES = ["<script>alert(1)</script>", "\"quoted' & $x^2$", "half \ud800 of one", "a\nb\x00c", "a\nb\x01c"]
NAMES += ["数字/0-1", "x" * 300, "</style>"]


def test_names_of_tasks_are_words_and_nothing_else(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "run", NAMES, method="<b>bold</b>", stream={"name": "<i>", "protocol": {}})
    (folder / "config.yaml").write_text("method: <u>under\nnote: '</table><script>'\n")
    page = checked(write_report(folder))
    text = " ".join(page.words)
    assert not page.seen.keys() & {"b", "i", "u"}
    assert all(name in text for name in ("<script>alert(1)</script>", "\"quoted' & $x^2$", "数字/0-1", "x" * 300))


@pytest.mark.usefixtures("_unseen")
def test_one_task_and_none(tmp_path: Path) -> None:
    checked(write_report(write_run(tmp_path / "one", ["alone"])))
    text = " ".join(checked(write_report(write_results(tmp_path / "none", []))).words)
    assert "by hand learned 0 tasks" in text


def test_many_tasks_are_shown_in_bins(tmp_path: Path) -> None:
    tasks = [f"made/task-{place}" for place in range(120)]
    path = write_report(write_results(tmp_path / "run", tasks))
    page = checked(path)
    text = " ".join(page.words)
    assert "Of 120 tasks, 2 or more neighbours are shown as their mean." in text
    assert "made/task-0 … made/task-1" in text
    assert path.stat().st_size < 1_500_000
    # The table of the matrix has a row a bin.
    assert page.seen["tr"] < 8 * 60


def test_an_infinite_value_leaves_a_gap(tmp_path: Path) -> None:
    found = results_of(TASKS)
    found["accuracy"][2][0] = float("inf")
    folder = write_results(tmp_path / "run", TASKS, accuracy=found["accuracy"], max_logit_drift=float("nan"))
    checked(write_report(folder))


def test_a_picture_stands_alone(drawn: Path) -> None:
    alone = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "report_picture.py"))["alone"]
    text = alone(drawn.read_text())
    root = ElementTree.fromstring(text)
    assert len(root.findall("{http://www.w3.org/2000/svg}svg")) == 2
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 150_000
    with pytest.raises(ValueError, match="expected one of the pictures accuracy-picture, bytes-picture, "):
        alone(drawn.read_text(), ("nothing",))


@pytest.mark.full
def test_2500_tasks_take_at_most_5_mb(tmp_path: Path) -> None:
    tasks = [f"made/task-{place}" for place in range(2500)]
    path = write_report(write_run(tmp_path / "run", tasks))
    page = checked(path)
    assert path.stat().st_size < 5_000_000
    assert "Of 2,500 tasks, one of each of 50 bins is shown." in " ".join(page.words)
    assert page.seen["svg"] == 12


def test_masks_are_counted_as_they_are(tmp_path: Path) -> None:
    sites = banks.attached()
    one, two = torch.zeros(16, 12, dtype=torch.bool), torch.zeros(16, 12, dtype=torch.bool)
    one[:4], two[2:8] = True, True
    every = torch.ones(8, 16, dtype=torch.bool)
    masks = {"a": (one, every), "b": (two, every)}
    packed = {
        task: {name: pack(m) for name, m in zip(banks.WEIGHTS, pair, strict=True)} for task, pair in masks.items()
    }
    bank = Bank.create(tmp_path / "bank", sites, builder=banks.BUILDER, method="by hand")
    bank.commit({task: banks.record(sites, task, masks=packed[task]) for task in masks}, sites)
    reader = BankReader(bank.path, read_head(bank.path))
    found = read_masks(reader, reader.readable()[0])
    assert found is not None
    assert found.layers == list(banks.WEIGHTS)
    assert found.density.tolist() == [[0.25, 0.375], [1, 1]]
    assert found.alone.tolist() == [(48 + 128) / 320, (72 + 128) / 320]
    assert found.used.tolist() == [(48 + 128) / 320, (96 + 128) / 320]
    assert found.overlap.tolist() == [[1, (24 + 128) / (96 + 128)], [(24 + 128) / (96 + 128), 1]]
    assert found.layer == banks.WEIGHTS[0]
    assert found.images["a"].sum() == 48
    assert found.images["mean of tasks"].max() == 1


def test_a_mask_that_has_grown_is_a_leading_block(tmp_path: Path) -> None:
    stream = digits(5)[:2]
    learn(MLP(64, (6,), 2), stream, "tfm", out=tmp_path, training=Training(epochs=1), options={"growth": 6})
    reader = BankReader(tmp_path / "bank", read_head(tmp_path / "bank"))
    found = read_masks(reader, reader.readable()[0])
    assert found is not None
    assert found.used[0] < found.used[1] == 1
    assert (found.alone <= found.used).all()
    assert found.density[0, 0] < found.density[0, 1] == 1


@pytest.mark.parametrize(("finished", "shown"), [(1, "rows"), (3, "report")])
def test_the_newer_of_rows_and_report_is_shown(finished: int, shown: str, tmp_path: Path) -> None:
    folder, other = write_run(tmp_path / "run", TASKS), [[0.125, None, None]] * 3
    found = {**results_of(TASKS), "finished": TASKS[:finished], "accuracy": other, "source": [["measured"] * 3] * 3}
    (folder / "results.json").write_text(json.dumps(found))
    run = read_run(folder)
    assert (run.values[0, 0] == 0.125) == (shown == "report")
    assert run.proved.sum() == (3 if shown == "rows" else 0)


def test_a_task_that_was_removed_is_named_once_and_counts_no_more(tmp_path: Path) -> None:
    run_named(method="wsn", stream="digits", training=Training(epochs=1, quiet=True), out=str(tmp_path / "run"))
    held = load(tmp_path / "run")
    gone = held.tasks[1]
    held.remove(gone)
    page = write_report(tmp_path / "run").read_text()
    checked(tmp_path / "run" / "report.html")
    assert page.count(gone) == 1
    assert f"Removed since: {gone}." in page
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    ends = dict(zip(results["tasks"], results["accuracy_at_the_end"], strict=True))
    del ends[gone]
    assert f"average accuracy {number(sum(ends.values()) / len(ends))}" in page


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("piggyback", {"its head", "masks", "names"}),
        ("hat", {"its head", "norms", "masks", "names"}),
        ("packnet", {"its head", "masks", "names"}),
    ],
)
def test_what_a_task_weighs_is_told_part_by_part(method: str, parts: set[str], tmp_path: Path) -> None:
    model = MLP(64, (16,), 2, norm=True)
    learn(model, digits(5)[:2], method, out=tmp_path, training=Training(epochs=1, quiet=True))
    reader = BankReader(tmp_path / "bank", read_head(tmp_path / "bank"))
    entries, _ = reader.readable()
    sizes = sizes_of(reader)["per_task"]
    for task, entry in entries.items():
        found = parts_of(reader, entry)
        assert {part for part, size in found.items() if size} == parts
        assert abs(found.total() - sizes[task]) <= (200 if method == "packnet" else 0)  # the names of shared planes
    assert re.match(r" Of that are its head \d+%, .*names \d+%\.$", parts_in_words(reader, entries))
    assert parts_in_words(reader, {}) == ""
