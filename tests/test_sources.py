"""Where data by name come from, what of them works as it is, and what an error says that they do not."""

from __future__ import annotations

import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from polymask.learning.by_name import run_named
from polymask.learning.learn import learn
from polymask.learning.training import Training
from polymask.nets import MLP
from polymask.parts.seeds import generator
from polymask.streams import Task, make_stream, prepare, split
from polymask.streams.data_sets import hub as hub_file
from polymask.streams.folder import ImageFolder
from polymask.streams.sources import open_data

SHORT = Training(epochs=1, quiet=True)


def picture(number: int, mode: str = "L", size: tuple[int, int] = (6, 6)) -> Image.Image:
    """An image of bytes that depend on a number."""
    noise = torch.randint(0, 256, (size[1], size[0]), dtype=torch.uint8, generator=generator("picture", number))
    return Image.fromarray(noise.numpy()).convert(mode)


def draw(root: Path, classes: dict[str, int], mode: str = "L", size: tuple[int, int] = (6, 6)) -> Path:
    """A folder with a folder of images for each class."""
    for label, count in classes.items():
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(number, mode, size).save(root / label / f"{mode}{number}.png")
    return root


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with one data set of parquet files, whose labels are words."""
    import datasets

    monkeypatch.setenv("POLYMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    monkeypatch.delenv("POLYMASK_DATA_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    rows = {
        "photo": [picture(number) for number in range(8)],
        "label": ["dog", "cat", "emu", "yak"] * 2,
        "farm": [3, 7] * 4,
        "note": [None, "x"] * 4,
    }
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "label": datasets.Value("string"),
            "farm": datasets.Value("int32"),
            "note": datasets.Value("string"),
        }
    )
    folder = tmp_path / "root" / "owner" / "pets"
    folder.mkdir(parents=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "train-00000-of-00001.parquet")
    return tmp_path / "root"


def test_a_folder_of_parquet_files_is_read_with_labels_in_words(tables: Path) -> None:
    task = open_data("./root/owner/pets")
    assert (task.name, task.labels) == ("pets", ["cat", "dog", "emu", "yak"])
    x, y = task.train  # type: ignore[misc]
    assert (tuple(x.shape), y.tolist()) == ((8, 1, 6, 6), [1, 0, 2, 3] * 2)
    assert open_data("./root/owner/pets", label="farm").labels == ["3", "7"]
    with pytest.raises(ValueError, match="has examples without a label in 'note'"):
        open_data("./root/owner/pets", label="note")
    with pytest.raises(
        ValueError, match=r"class labels called 'kind', found .*: name the column of labels, --label label"
    ):
        open_data("./root/owner/pets", label="kind")
    stream = make_stream("split", ["./root/owner/pets"], groups="yak,cat/dog")
    assert [list(task.labels or ()) for task in stream] == [["yak", "cat"], ["dog"]]


def test_the_data_root_of_the_environment(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymask.streams.data_sets.splits.hub_answers", lambda: False)
    monkeypatch.setenv("POLYMASK_DATA_ROOT", str(tables))
    assert open_data("owner/pets").labels == ["cat", "dog", "emu", "yak"]
    out = str(tables.parent / "run")
    report = run_named("linear_probe", "split", data=["owner/pets"], tasks=2, weights="random", out=out, training=SHORT)
    assert report["tasks"] == ["pets/cat-dog", "pets/emu-yak"]
    with pytest.raises(
        ConnectionError, match=r"POLYMASK_DATA_ROOT is .*holds \['owner/pets'\]: did you mean owner/pets\?"
    ):
        open_data("owner/pest")
    monkeypatch.delenv("POLYMASK_DATA_ROOT")
    with pytest.raises(FileNotFoundError, match=r"did you mean owner/pets\?"):
        open_data("owner/pest", tables)


def test_without_a_connection_it_is_said_at_once(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a name that leads nowhere, and to an address that never answers."""
    import datasets
    from huggingface_hub import constants

    for proxy in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    (tables.parent / "owner").mkdir()
    (tables.parent / "owner" / "cats").touch()
    before, start = (datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE), time.monotonic()
    message = (
        r"owner/cats' from http://hub\.invalid, found no way to reach it.*--data-root, or POLYMASK_DATA_ROOT; for the"
    )
    with pytest.raises(ConnectionError, match=message):
        open_data("owner/cats")
    assert time.monotonic() < start + 2
    assert before == (datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE)
    end = threading.Event()

    def never_answers(*_: object) -> None:
        end.wait()
        raise OSError

    monkeypatch.setattr(hub_file.socket, "create_connection", never_answers)
    start = time.monotonic()
    assert not hub_file.hub_answers(0.2)
    assert time.monotonic() < start + 1
    end.set()


def test_what_holds_no_images_says_what_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "sheet").mkdir()
    (tmp_path / "sheet" / "train.csv").write_text("image,label\na.png,cat\n")
    picture(0).save(tmp_path / "one.png")
    for name in ("sheet", "sheet/train.csv"):
        with pytest.raises(
            (ValueError, FileNotFoundError), match=r"found the table .*train\.csv: .*--label.* from Python"
        ):
            open_data(str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match=r"found the file .*one\.png: name the folder that holds it, --data "):
        open_data(str(tmp_path / "one.png"))
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        open_data(str(tmp_path / "nowhere"))
    draw(tmp_path / "photos", {"a": 2, "b": 2})
    with pytest.raises(ValueError, match="where a class is a folder: leave it out"):
        open_data(str(tmp_path / "photos"), label="kind")


def test_modes_of_all_kinds_are_read_and_sizes_name_the_option(tmp_path: Path) -> None:
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        draw(tmp_path, {"a": 1, "b": 1}, mode)
    clear = picture(9, "P")
    clear.info["transparency"] = b"\x00\xff"
    clear.save(tmp_path / "a" / "clear.png", transparency=b"\x00\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = ImageFolder(tmp_path)
        assert {tuple(folder[i][0].shape) for i in range(len(folder))} == {(3, 6, 6)}
    draw(tmp_path, {"a": 1}, "L", (8, 6))
    with pytest.raises(ValueError, match=r"2 sizes.*bring them to one, --size 6 6 \(from Python inputs=Inputs\(size="):
        ImageFolder(tmp_path)
    Image.new("I;16", (6, 6)).save(tmp_path / "b" / "deep.png")
    with pytest.raises(ValueError, match=r"found mode 'I;16' in .*deep\.png: convert them first"):
        ImageFolder(tmp_path)


def words(count: int, classes: tuple[str, ...], part: str) -> tuple[torch.Tensor, list[str]]:
    return torch.randn(count, 6, generator=generator("words", part)), [classes[i % len(classes)] for i in range(count)]


def test_labels_in_words_are_numbered_as_the_classes_are() -> None:
    task = Task("pets", words(24, ("dog", "cat", "emu"), "train"), test=words(6, ("emu", "cat"), "test"))
    feeds = prepare(task, seed=0)
    assert (feeds.outputs, feeds.labels) == (3, ("cat", "dog", "emu"))
    assert feeds.test is not None
    assert next(feeds.test.ordered(6))[1].tolist() == [2, 0] * 3
    four = Task("pets", words(24, ("dog", "cat", "emu", "yak"), "train"))
    run = learn(MLP(6, (8,), 2), split(four, groups="yak,cat/dog,emu"), "linear_probe", training=SHORT)
    assert run.method.record("pets/yak-cat").meta.labels == ("yak", "cat")
    named = Task("pets", words(24, ("dog", "cat"), "train"), labels=["dog", "cat"])
    assert prepare(named, seed=0).labels == ("dog", "cat")
    with pytest.raises(ValueError, match=r"train of task 'pets' has labels \['dog'\] that are not among its classes"):
        prepare(Task("pets", words(24, ("dog", "cat"), "train"), labels=["cat", "emu"]), seed=0)


class Words(Dataset[Any]):
    """A data set whose labels are words."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        return torch.zeros(3), "cat"


def test_a_data_set_that_gives_words_is_told_to_number_them() -> None:
    with pytest.raises(
        ValueError, match=r"labels of train of task 'pets' are words, such as 'cat': .* give the words as"
    ):
        prepare(Task("pets", Words()), seed=0)


def labelled(y: list[int], **more: Any) -> Task:
    return Task("t", (torch.randn(len(y), 3), torch.tensor(y)), **more)


def test_one_class_alone_is_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"task 't' has examples of one class alone \('cat'\): always answering it"):
        prepare(labelled([0] * 8, labels=["cat", "dog"]), seed=0)
    with pytest.warns(UserWarning, match=r"one class alone \(0\)"):
        prepare(labelled([0] * 8), seed=0)


def test_labels_that_skip_numbers_are_a_warning_unless_it_is_meant() -> None:
    with pytest.warns(
        UserWarning, match=r"skip numbers: no example has 0, 1, 2, 3, 4, and still its head has 8 outputs"
    ):
        prepare(labelled([5, 6, 7] * 4), seed=0)
    with pytest.warns(UserWarning, match=r"no example has 1, and .* Number the classes 0\.\.1, or say .*: outputs=3"):
        prepare(labelled([0, 2] * 4), seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prepare(labelled([5, 6, 7] * 4, outputs=8), seed=0).outputs == 8
        prepare(Task("t", (torch.randn(8, 3), torch.randn(8))), seed=0)


def test_one_example_a_class_cannot_be_held_out() -> None:
    with pytest.raises(ValueError, match="expected two examples or more of a class of task 't', found one of each"):
        prepare(labelled([0, 1, 2]), seed=0)
    with pytest.warns(
        UserWarning, match="task 't' has one example of 2: it is trained on, and the validation part holds"
    ):
        prepare(labelled([0] * 20 + [1] * 20 + [2]), seed=0)
    given = labelled([0, 1, 2], val=(torch.randn(3, 3), torch.tensor([0, 1, 2])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prepare(given, seed=0).train.size == 3


def test_groups_of_classes_for_each_data_set(tmp_path: Path) -> None:
    pets, cars = (draw(tmp_path / name, dict.fromkeys(classes, 4)) for name, classes in SETS.items())
    data = [str(pets), str(cars)]
    stream = make_stream("split", data, groups="cat,emu/dog; van/bus,car")
    assert [task.name for task in stream] == ["pets/cat-emu", "pets/dog", "cars/van", "cars/bus-car"]
    again = make_stream("split", data, groups='[["0"], ["2", "1"]]')
    assert [task.name for task in again] == ["pets/cat", "pets/emu-dog", "cars/bus", "cars/van-car"]
    sizes = make_stream("split", data, classes_per_task=[1, 2])
    assert [task.name for task in sizes] == ["pets/cat", "pets/dog-emu", "cars/bus", "cars/car-van"]
    assert sizes.protocol["of"][0]["groups"] == [[0], [1, 2]]


SETS = {"pets": ("cat", "dog", "emu"), "cars": ("bus", "car", "van")}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"groups": "cat,dgo"}, r"in --groups, found 'dgo': did you mean dog\?"),
        ({"groups": "cat,7"}, r"expected classes of 'pets' \(cat, dog, emu\) in --groups, found '7'"),
        ({"groups": "cat/dog,cat"}, "found 'cat' twice; where tasks are meant to share classes, number them: --tasks"),
        ({"groups": "cat//dog"}, "expected a class or more in every group"),
        ({"groups": ""}, "expected a class or more in every group"),
        ({"groups": "[[cat]]"}, "expected JSON such as"),
        (
            {"groups": "cat;dog;emu"},
            "expected groups for each of 1 data sets, parted by ';', or for all of them, found 3",
        ),
        ({"classes_per_task": [2, 2]}, r"add up to the 3 of 'pets', found 2 \+ 2 = 4"),
        ({"classes_per_task": [3, 0]}, "of at least 1"),
        ({"classes_per_task": []}, "found none"),
        (
            {"classes_per_task": [3], "tasks": 1},
            "expected one of --tasks, --groups and --classes-per-task, found 1 and",
        ),
        ({"tasks": 2}, r"make no 2 equal groups; give their sizes \(--classes-per-task 2 1\)"),
        ({"tasks": 0}, "make no 0 equal groups"),
        ({"tasks": 7}, r"make no 7 equal groups; give their sizes \(--classes-per-task 1 1 1\)"),
    ],
)
def test_groups_that_cannot_be_meant(how: dict[str, Any], message: str, tmp_path: Path) -> None:
    draw(tmp_path / "pets", dict.fromkeys(SETS["pets"], 2))
    with pytest.raises(ValueError, match=message):
        make_stream("split", [str(tmp_path / "pets")], **how)
