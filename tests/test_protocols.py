"""The papers' protocols: every file is read as the command line reads it, and makes the tasks that its paper has."""

from __future__ import annotations

import os
import runpy
import socket
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from PIL import Image

from polymask.cli.commands.run import arguments
from polymask.cli.main import main
from polymask.cli.parsers import parser_of
from polymask.methods import METHODS
from polymask.streams import Stream, make_stream

FOLDER = Path(__file__).parent.parent / "protocols"
DATA_ROOT = os.environ.get("POLYMASK_DATA_ROOT")
TASKS: dict[str, list[int]] = {
    "packnet": [200, 196, 102],
    "piggyback": [200, 196, 102, 129, 250],
    "ksm": [200, 196, 102, 129, 250],
    "supsup-cifar100": 20 * [5],
    "supsup-imagenet": 100 * [10],
    "wsn-pmnist": 10 * [10],
    "wsn-five-datasets": 5 * [10],
    "wsn-omniglot": 100 * [12],
    "wsn-cifar100": 10 * [10],
    "wsn-cifar100-superclass": 20 * [5],
    "wsn-tinyimagenet": 40 * [5],
    "apd-cifar100": 10 * [10],
    "apd-cifar100-superclass": 20 * [5],
    "hat-cifar": [*5 * [2], *5 * [20]],
    "hat-eight-datasets": [10, 100, 100, 10, 10, 10, 10, 43],
}
"""File -> the classes of each of its tasks."""

CLASSES = {
    "Donghyun99/CUB-200-2011": 200,
    "Donghyun99/Stanford-Cars": 196,
    "dpdl-benchmark/oxford_flowers102": 102,
    "huggan/wikiart": 129,
    "sdiaeyu6n/tu-berlin": 250,
    "uoft-cs/cifar100": 100,
    "ILSVRC/imagenet-1k": 1000,
    "ylecun/mnist": 10,
    "uoft-cs/cifar10": 10,
    "ufldl-stanford/svhn": 10,
    "zalando-datasets/fashion_mnist": 10,
    "anubhavmaity/notMNIST": 10,
    "zh-plus/tiny-imagenet": 200,
    "tanganke/gtsrb": 43,
}
GREY = ("ylecun/mnist", "zalando-datasets/fashion_mnist", "anubhavmaity/notMNIST", "sdiaeyu6n/tu-berlin")
TEST_SPLIT = {"huggan/wikiart": None, "ILSVRC/imagenet-1k": "validation", "zh-plus/tiny-imagenet": "valid"}


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches a network, and every test has a cache and a working folder of its own."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a test of the protocols asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("POLYMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets with the names and the numbers of classes of the real ones, three grey or coloured images a class."""
    folder = tmp_path_factory.mktemp("data")
    for name, classes in CLASSES.items():
        mode = "L" if name in GREY else "RGB"
        labels = sorted(3 * list(range(classes)))
        images = [Image.new(mode, (32, 32), (37 * label % 256,) * len(mode)) for label in labels]
        columns: dict[str, Any] = {"image": images, "label": labels}
        kinds: dict[str, Any] = {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=classes)}
        if name == "huggan/wikiart":  # the artist is meant, the label with most classes
            columns["style"], kinds["style"] = [label % 27 for label in labels], datasets.ClassLabel(num_classes=27)
        data = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
        for split in ("train", TEST_SPLIT.get(name, "test")):
            if split is not None:
                (folder / name).mkdir(parents=True, exist_ok=True)
                data.to_parquet(folder / name / f"{split}-00000-of-00001.parquet")
    return folder


def read(name: str, *more: str) -> dict[str, Any]:
    """What ``polymask run --config FILE`` would run."""
    argv = ["--config", str(FOLDER / f"{name}.yaml"), *more]
    return arguments(parser_of("run", argv).read(argv))


def streamed(values: dict[str, Any], data_root: Path | str, **other: Any) -> Stream:
    """The stream of a file, or a similar one."""
    keys = ("data", "tasks", "size", "channels", "mean", "std", "crop", "flip", "area")
    how = {**{key: values[key] for key in keys}, **values["how"], **other}
    return make_stream(values["stream"], how.pop("data"), data_root=data_root, **how)


def test_every_file_is_among_these() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(TASKS)


USUAL = ("packnet", "supsup-cifar100", "wsn-pmnist", "wsn-five-datasets", "hat-cifar")
"""A file of each form; the others, with hundreds of classes or the same form again, are of the full suite."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in USUAL else pytest.mark.full) for n in TASKS])
class TestFile:
    def test_is_read_as_the_command_line_reads_it(self, name: str) -> None:
        values = read(name)
        written = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
        assert values["method"] in METHODS
        for key in ("data", "model", "tasks"):
            assert values[key] == written.get(key)
        assert values["training"].epochs == written["epochs"]
        assert values["options"].items() >= written["options"].items()
        assert values["training"].phases == written.get("phases")
        values["training"].check_phases(name, METHODS[values["method"]].phases)

    def test_is_learned_jointly_by_the_same_file(self, name: str) -> None:
        values = read(name, "--method", "joint")
        assert values["options"] == {"prefixes": "all"}
        assert values["training"].epochs == read(name)["training"].epochs

    def test_says_what_it_should_reach_and_what_differs(self, name: str) -> None:
        head = [line for line in (FOLDER / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
        assert len(head) > 3
        for said in ("Should reach", "What differs from", "hub"):
            assert any(said in line for line in head)
        assert f"polymask run --config protocols/{name}.yaml" in (FOLDER.parent / "docs" / "protocols.md").read_text()

    def test_makes_the_tasks_of_its_paper(self, name: str, root: Path, tmp_path: Path) -> None:
        values = read(name)
        folders = {"wsn-omniglot": ("omniglot-rotation", 1200), "hat-eight-datasets": ("facescrub", 100)}
        if name in folders:
            folder, count = folders[name]
            for label in range(count):
                for part in ("train", "test"):
                    path = tmp_path / "data" / folder / part / f"{label:04d}" / "0.png"
                    path.parent.mkdir(parents=True)
                    Image.new("L", (4, 4), label % 256).save(path)
        # the made data sets have one configuration each, and the real size takes much memory for nothing
        size, data = (8, 8) if values["size"] else None, [one.partition(":")[0] for one in values["data"]]
        stream = streamed(values, root, size=size, data=data)
        assert [len(task.labels) for task in stream] == TASKS[name]
        assert all(task.test is not None for task in stream if task.name != "wikiart")
        assert all(task.inputs.augments == (values["flip"] or values["crop"] > 0) for task in stream)
        if values["mean"] is not None:
            assert all(task.inputs.mean == tuple(values["mean"]) for task in stream)
        if isinstance(values["tasks"], list):
            classes = [label for group in values["tasks"] for label in group]
            assert sorted(classes) == list(range(len(classes)))

    def test_says_in_one_line_that_data_are_missing(
        self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["run", "--config", str(FOLDER / f"{name}.yaml"), "--data-root", str(tmp_path)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        first = read(name)["data"][0].partition(":")[0]
        expected = (
            f"no data set {first!r} under the data root" if first[0] != "." else "no folder data/omniglot-rotation"
        )
        assert expected in line

    @pytest.mark.full
    @pytest.mark.skipif(DATA_ROOT is None, reason="needs POLYMASK_DATA_ROOT, a folder that holds the data sets")
    def test_makes_them_of_real_data(self, name: str) -> None:
        values, there = read(name), Path(DATA_ROOT or "")
        if missing := [data for data in values["data"] if not (there / data.partition(":")[0]).is_dir()]:
            pytest.skip(f"needs {missing[0]} below POLYMASK_DATA_ROOT")
        stream = streamed(values, there)
        assert [len(task.labels) for task in stream] == TASKS[name]


def test_without_the_hub_one_line_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("couldn't reach 'uoft-cs/cifar100' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    assert main(["run", "--config", str(FOLDER / "wsn-cifar100.yaml")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected the data set 'uoft-cs/cifar100' from https://huggingface.co, found no way to reach it" in line
    assert "give a folder that holds uoft-cs/cifar100 by --data-root" in line


FEW = ["--tasks", "[[0, 1, 2], [3, 4]]"]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("packnet", ["--model", "convnet", "--net", "{}", "--weights", "random", "--size", "16", "16"]),
        pytest.param(
            "ksm", ["--model", "convnet", "--weights", "random", "--size", "16", "16"], marks=pytest.mark.full
        ),
        pytest.param("supsup-cifar100", FEW, marks=pytest.mark.full),
        pytest.param("wsn-cifar100", [*FEW, "--net", '{"hidden": 64}'], marks=pytest.mark.full),
        pytest.param("wsn-cifar100-superclass", FEW, marks=pytest.mark.full),
        pytest.param("apd-cifar100", [*FEW, "--consolidate", "2"], marks=pytest.mark.full),
        pytest.param("apd-cifar100-superclass", FEW, marks=pytest.mark.full),
    ],
)
def test_learns_from_data_of_the_same_form(name: str, more: list[str], root: Path) -> None:
    """From beginning to end, with networks and epochs cut down."""
    if name == "packnet":
        more = [*more, "--phases", '{"retrain": {"epochs": 1}}']
    if name == "ksm":
        more = [*more, "--data", "ylecun/mnist", "uoft-cs/cifar10"]
    path = str(FOLDER / f"{name}.yaml")
    argv = ["run", "--config", path, "--data-root", str(root), "--epochs", "1", "--device", "cpu", "--out", "run"]
    assert main([*argv, *more]) == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    written = yaml.safe_load(Path(path).read_text())
    assert (config["lr"], config["schedule"], config["batch_size"]) == tuple(
        written[key] for key in ("lr", "schedule", "batch_size")
    )
    assert main(["verify", "run"]) == 0


def test_a_scrambled_image_is_its_planes_read_as_pixels() -> None:
    script = runpy.run_path(str(FOLDER / "cifar100_scrambled.py"))
    image = Image.new("RGB", (32, 32), (1, 2, 3))
    found = script["scrambled"](image).tobytes()
    assert found == 1024 * b"\1" + 1024 * b"\2" + 1024 * b"\3"
    script["write"](Path("scrambled/train"), [(image, 7), (image, 7), (image, 30)])
    assert [len(list(Path("scrambled/train", label).iterdir())) for label in ("07", "30")] == [2, 1]


def test_omniglot_is_written_as_a_folder_of_images() -> None:
    script = runpy.run_path(str(FOLDER / "omniglot_rotation.py"))
    image = Image.new("L", (4, 4))
    image.putpixel((0, 0), 255)
    script["write"](Path("rotated"), {3: 20 * [image], 7: 20 * [image]})
    count = {part: len(list(Path("rotated", part, "0003").iterdir())) for part in ("train", "test")}
    assert count == {"train": 60, "test": 20}
    seen = [Image.open(path).tobytes().index(255) for path in Path("rotated").glob("*/0007/*.png")]
    assert {place: seen.count(place) for place in seen} == {0: 20, 3: 20, 12: 20, 15: 20}
    task = make_stream("split", ["./rotated"], tasks=2, size=(32, 32), channels=1)
    assert [one.labels for one in task] == [["0003"], ["0007"]]
