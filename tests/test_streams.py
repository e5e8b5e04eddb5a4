"""Streams: how data sets become tasks, and where their images come from."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from polymask.parts.seeds import generator
from polymask.streams import (
    NAMED,
    ImageFolder,
    Inputs,
    Stream,
    Task,
    View,
    digits,
    digits_data,
    folder_task,
    load_images,
    make_stream,
    one_per_dataset,
    permute,
    prepare,
    rotate,
    split,
)
from polymask.streams.by_name import one_task
from polymask.streams.classic import views
from polymask.streams.texts.sets import KNOWN
from polymask.streams.view import Rotation

DATA_ROOT = os.environ.get("POLYMASK_DATA_ROOT")


def toy(n: int = 24, classes: int = 6, name: str = "toy", channels: int = 1) -> Task:
    x = torch.randint(0, 256, (n, channels, 4, 4), dtype=torch.uint8, generator=generator(name))
    y = torch.arange(n) % classes
    return Task(name, (x, y), test=(x[: n // 2], y[: n // 2]))


class Pairs(Dataset[Any]):
    """Eight examples of four classes."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((3,), float(index)), index % 4


def part(task: Task, name: str = "train") -> tuple[torch.Tensor, torch.Tensor]:
    view = views(task)[1][name]
    x = view.read(slice(None))
    assert isinstance(x, torch.Tensor)
    return x, view.y


class TestStream:
    def test_is_a_sequence_in_its_order(self) -> None:
        stream = Stream("s", (toy(name="a"), toy(name="b"), toy(name="c")), (2, 0, 1))
        assert [task.name for task in stream] == ["c", "a", "b"] == [stream[i].name for i in range(len(stream))]
        assert [task.name for task in stream[1:]] == ["a", "b"]
        assert [task.name for task in stream.reorder((0, 1, 2))] == ["a", "b", "c"]

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Stream("s", ()), "no tasks"),
            (lambda: Stream("s", (toy(), toy())), r"found twice: \['toy'\]"),
            (lambda: Stream("s", (toy(name="a"), toy(0, name="void"))), "task 'void' is empty"),
            (lambda: Stream("s", (toy(name="a"), toy(name="b")), (0, 0)), r"permutation of 0\.\.1"),
            (lambda: Task("", toy().train), "needs a name"),
            (lambda: replace(toy(), labels=["a"], outputs=2), "1 labels but outputs=2"),
            (lambda: replace(toy(), outputs=0), "an output or more"),
        ],
    )
    def test_refuses(self, make, message) -> None:
        with pytest.raises(ValueError, match=message):
            make()


class TestSplit:
    def test_labels_are_local_and_data_shared(self) -> None:
        data = toy()
        stream = split(data, [[4, 1], [0, 2, 3]], labels=list("abcdef"))
        assert [task.name for task in stream] == ["toy/e-b", "toy/a-c-d"]
        assert [list(task.labels) for task in stream] == [["e", "b"], ["a", "c", "d"]]
        (x, y), (whole, labels) = part(stream[0]), data.train
        assert torch.equal(x, whole[(labels == 4) | (labels == 1)])
        assert torch.equal(y, (labels[(labels == 4) | (labels == 1)] == 1).long())
        assert stream[0].train.x.data_ptr() == whole.data_ptr() == stream[1].train.x.data_ptr()
        assert torch.equal(part(stream[1], "test")[1].unique(), torch.arange(3))

    @pytest.mark.parametrize(
        ("tasks", "message"),
        [(4, "6 classes of 'toy' make no 4 equal"), ([[0, 6]], r"0\.\.5, found \[0, 6\]"), ([[1, 1]], "different")],
    )
    def test_refuses_groups(self, tasks, message) -> None:
        with pytest.raises(ValueError, match=message):
            split(toy(), tasks)

    def test_reads_a_data_set_into_memory(self) -> None:
        stream = split(Task("pairs", Pairs()), 2)
        assert torch.equal(part(stream[1])[0][:, 0], torch.tensor([2.0, 3.0, 6.0, 7.0]))


class TestPermute:
    def test_is_one_fixed_permutation_a_task(self) -> None:
        data = toy()
        stream = permute(data, 3, seed=5)
        whole = data.train[0]
        order = torch.randperm(16, generator=generator(5, "toy", 1, "permutation"))
        assert torch.equal(part(stream[1])[0].flatten(1), whole.flatten(1)[:, order])
        assert torch.equal(part(stream[1], "test")[0], part(stream[1])[0][:12])
        assert not torch.equal(part(stream[0])[0], whole)
        assert torch.equal(part(permute(data, 2, first_identity=True)[0])[0], whole)

    def test_seeds_share_no_permutation(self) -> None:
        first, second = ([part(task)[0] for task in permute(toy(), 4, seed=seed)] for seed in (0, 1))
        assert not any(torch.equal(a, b) for a in first for b in second)

    def test_stores_the_data_once(self) -> None:
        data = toy()
        assert {task.train.x.data_ptr() for task in permute(data, 5)} == {data.train[0].data_ptr()}

    def test_an_example_is_a_row_of_the_batch(self) -> None:
        task = permute(toy(), 1)[0]
        assert torch.equal(torch.stack([task.train[i][0] for i in range(len(task.train))]), part(task)[0])


class TestRotate:
    @pytest.mark.parametrize("turns", [0, 1, 2, 3])
    def test_right_angles_are_exact(self, turns: int) -> None:
        x = toy().train[0]
        assert torch.equal(Rotation(90 * turns)(x), torch.rot90(x, turns, (2, 3)))

    def test_wide_images_are_turned_not_sheared(self) -> None:
        x = torch.zeros(1, 1, 9, 15)
        x[0, 0, 4, 11] = 1  # four pixels to the right of the centre come to lie four above it
        assert Rotation(90)(x)[0, 0, 0, 7] == pytest.approx(1, abs=1e-5)

    def test_angles(self) -> None:
        assert [task.name for task in rotate(toy(), 2, [0, 7.5])] == ["toy/rotated-0", "toy/rotated-7.5"]
        with pytest.raises(ValueError, match="3 tasks need 3 angles, found 2"):
            rotate(toy(), 3, [0, 45])


class TestDigits:
    def test_test_part_is_fixed_and_stratified(self) -> None:
        data = digits_data()
        assert len(data.train[1]) + len(data.test[1]) == 1797
        share = data.test[1].bincount() / (data.train[1].bincount() + data.test[1].bincount())
        assert ((share - 0.2).abs() < 0.005).all()
        assert torch.equal(part(digits(seed=3)[1], "test")[0], part(digits(seed=4)[1], "test")[0])
        assert data.train[0].min() == 0
        assert data.train[0].max() == 1


class TestMakeStream:
    @pytest.mark.parametrize("kind", [kind for kind in NAMED if kind not in KNOWN])
    def test_every_kind_makes_tasks(self, kind: str, tmp_path: Path) -> None:
        for name in ("cats", "dogs"):
            write_folder(tmp_path / name, {"up": 2, "down": 2})
        data = None if kind.startswith("digits") else [str(tmp_path / "cats"), str(tmp_path / "dogs")]
        stream = make_stream(kind, data, tasks=None if kind == "datasets" else 2)
        assert len(stream) == (2 if data is None or kind == "datasets" else 4)
        json.dumps(stream.protocol)

    @pytest.mark.parametrize(
        ("kind", "data", "message"),
        [
            ("jumbled", None, "there are digits, "),
            ("split", None, "needs the names of data sets"),
            ("digits", ["ylecun/mnist"], "takes no data"),
        ],
    )
    def test_refuses(self, kind, data, message) -> None:
        with pytest.raises(ValueError, match=message):
            make_stream(kind, data)

    def test_brings_several_data_sets_to_one_shape(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "grey", {"a": 4, "b": 4}, size=(6, 6), mode="L")
        write_folder(tmp_path / "colour", {"a": 4, "b": 4}, size=(8, 8))
        stream = make_stream("datasets", [str(tmp_path / "grey"), str(tmp_path / "colour")])
        assert [prepare(task, seed=0).example().shape for task in stream] == [(2, 3, 8, 8)] * 2


@pytest.mark.parametrize("names", [("Training", "Testing"), ("Train", "TEST"), ("train", "test")])
def test_parts_of_a_folder_are_known_whatever_their_case(names: tuple[str, str], tmp_path: Path) -> None:
    for name in (*names, "dev"):
        write_folder(tmp_path / name, {"cat": 2, "dog": 1})
    task = folder_task(tmp_path)
    assert (task.labels, task.val, task.test) == (["cat", "dog"], tmp_path / "dev", tmp_path / names[1])


def write_folder(root: Path, classes: dict[str, int], size: tuple[int, int] = (4, 4), mode: str = "RGB") -> None:
    for label, count in classes.items():
        (root / label).mkdir(parents=True)
        for i in range(count):
            Image.new(mode, size, 10 * i if mode == "L" else (10 * i, 0, 255)).save(root / label / f"{i}.png")


class TestFolder:
    def test_classes_are_sub_folders(self, tmp_path: Path) -> None:
        write_folder(tmp_path, {"b": 2, "a": 1})
        (tmp_path / "notes.txt").write_text("ignored")
        folder = ImageFolder(tmp_path)
        assert folder.labels == ("a", "b")
        assert folder.y.tolist() == [0, 1, 1]
        assert folder[2][0][:, 0, 0].tolist() == [10, 0, 255]
        assert folder_task(tmp_path).labels == ["a", "b"]

    def test_parts_are_sub_folders(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "train", {"a": 3, "b": 3})
        write_folder(tmp_path / "valid", {"b": 1})
        write_folder(tmp_path / "test", {"a": 2, "b": 1})
        feeds = prepare(folder_task(tmp_path, "own"), seed=0)
        assert (feeds.train.size, feeds.val.size, feeds.test.size, feeds.outputs) == (6, 1, 3, 2)
        assert next(feeds.val.ordered(4))[1].tolist() == [1]
        assert feeds.inputs == Inputs(size=(4, 4), channels=3)

    def test_unlike_sizes_ask_for_one(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "a", {"x": 2}, (4, 4))
        write_folder(tmp_path / "b", {"x": 1}, (5, 4))
        with pytest.raises(ValueError, match=r"2 sizes, such as .*Inputs\(size="):
            ImageFolder(tmp_path)
        assert ImageFolder(tmp_path, inputs=Inputs(size=(3, 3)))[2][0].shape == (3, 3, 3)

    def test_names_what_is_wrong(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="nowhere"):
            folder_task(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match="holds no class"):
            folder_task(tmp_path)
        write_folder(tmp_path, {"a": 1})
        with pytest.raises(ValueError, match=r"\['a'\] that are not among the labels \['b'\]"):
            ImageFolder(tmp_path, ["b"])
        (tmp_path / "a" / "broken.png").write_text("no image")
        with pytest.raises(ValueError, match=r"broken\.png cannot be read as an image"):
            ImageFolder(tmp_path)

    def test_a_class_folder_without_an_image_is_warned_of(self, tmp_path: Path) -> None:
        write_folder(tmp_path, {"a": 1, "b": 1})
        (tmp_path / "phone").mkdir()
        (tmp_path / "phone" / "one.heic").write_text("no format of ours")
        with pytest.warns(UserWarning, match=r"no image lies in 'phone', which is no class then; images end in \.\w+"):
            found = ImageFolder(tmp_path)
        assert len(found) == 2

    def test_sixteen_bits_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        Image.new("I;16", (4, 4)).save(tmp_path / "a" / "deep.png")
        with pytest.raises(ValueError, match="8 bits a channel"):
            ImageFolder(tmp_path)[0]


@pytest.fixture
def parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with one tiny data set, in the layout of the hub, and a cache of its own."""
    import datasets

    monkeypatch.setenv("POLYMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    features = datasets.Features(
        {
            "coarse": datasets.ClassLabel(names=["s", "t"]),
            "picture": datasets.Image(),
            "what": datasets.ClassLabel(names=["cat", "dog", "emu"]),
        }
    )
    root = tmp_path / "root" / "someone" / "pets"
    root.mkdir(parents=True)
    for name, count in {"train": 6, "valid": 3}.items():
        rows = {
            "coarse": [0] * count,
            "picture": [Image.new("RGB" if i == 1 else "L", (5, 4), (i, 0, 0) if i == 1 else i) for i in range(count)],
            "what": [i % 3 for i in range(count)],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(root / f"{name}-00000-of-00001.parquet")
    return tmp_path / "root"


class TestLoadImages:
    def test_finds_columns_splits_and_labels(self, parquet: Path) -> None:
        task = load_images("someone/pets", parquet)
        (x, y), (x_test, y_test) = task.train, task.test
        assert (task.name, task.labels, task.val) == ("pets", ["cat", "dog", "emu"], None)
        assert (x.shape, x.dtype, y.tolist()) == ((6, 3, 4, 5), torch.uint8, [0, 1, 2, 0, 1, 2])
        assert x[:, :, 0, 0].tolist() == [[0, 0, 0], [1, 0, 0], [2, 2, 2], [3, 3, 3], [4, 4, 4], [5, 5, 5]]
        assert (x_test.shape[0], y_test.tolist()) == (3, [0, 1, 2])
        assert task.notes == {
            "source": "someone/pets",
            "splits": {"train": "train", "test": "validation"},
            "label": "what",
        }
        assert load_images("someone/pets", parquet, label="coarse").labels == ["s", "t"]
        assert load_images("someone/pets", parquet, size=(2, 2), channels=1).train[0].shape == (6, 1, 2, 2)

    def test_decodes_once(self, parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = load_images("someone/pets", parquet)
        with monkeypatch.context() as patch:
            patch.setattr("polymask.streams.images.load_splits", None)
            again = load_images("someone/pets", parquet)
        assert torch.equal(first.train[0], again.train[0])
        assert (again.inputs, again.labels, again.notes) == (first.inputs, first.labels, first.notes)
        (cached,) = (parquet.parent / "cache" / "images").iterdir()
        cached.write_bytes(cached.read_bytes()[:100])
        assert torch.equal(load_images("someone/pets", parquet).train[0], first.train[0])
        file = next((parquet / "someone" / "pets").iterdir())
        os.utime(file, (1, 1))
        load_images("someone/pets", parquet)
        assert len(list((parquet.parent / "cache" / "images").iterdir())) == 2

    def test_without_a_root_asks_the_library(self, parquet: Path) -> None:
        by_path = load_images(str(parquet / "someone" / "pets"))  # the library takes a folder where a hub name stands
        assert torch.equal(by_path.train[0], load_images("someone/pets", parquet).train[0])

    def test_a_cache_that_cannot_be_written_warns(self, parquet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (parquet.parent / "file").write_text("in the way")
        monkeypatch.setenv("POLYMASK_CACHE", str(parquet.parent / "file"))
        with pytest.warns(UserWarning, match="cannot be written"):
            load_images("someone/pets", parquet)

    def test_says_where_it_looked(self, parquet: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"files in .*someone/pests; .* holds \['someone/pets'\]"):
            load_images("someone/pests", parquet)
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            load_images("someone/pets", parquet / "nowhere")
        with pytest.raises(ValueError, match="called 'who', found"):
            load_images("someone/pets", parquet, label="who")

    @pytest.mark.skipif(DATA_ROOT is None, reason="needs POLYMASK_DATA_ROOT, a folder that holds ylecun/mnist")
    def test_real_mnist(self) -> None:
        task = load_images("ylecun/mnist", DATA_ROOT)
        assert task.train[0].shape == (60000, 1, 28, 28)
        assert task.test[1].bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
        assert (task.inputs.mean, task.inputs.std) == ((0.1307,), (0.3081,))


class TestOnePerDataset:
    def test_keeps_tasks(self) -> None:
        stream = one_per_dataset([toy(name="a"), toy(name="b")], order=[1, 0])
        assert (stream.name, [task.name for task in stream]) == ("a+b", ["b", "a"])
        assert isinstance(views(stream[0])[1]["train"], View)


class TestComposition:
    def test_changes_add_up(self) -> None:
        turned = rotate(toy(), 2, 90)[1]
        both = permute(turned, 1)[0]
        assert both.name == "toy/rotated-90/permuted-0"
        order = torch.randperm(16, generator=generator(0, turned.name, 0, "permutation"))
        assert torch.equal(part(both)[0].flatten(1), torch.rot90(toy().train[0], 1, (2, 3)).flatten(1)[:, order])

    def test_a_split_of_a_split_reads_the_same_rows(self) -> None:
        halves = split(toy(), 2)
        again = split(halves[1], 3)
        assert [task.name for task in again] == ["toy/3-4-5/3", "toy/3-4-5/4", "toy/3-4-5/5"]
        assert torch.equal(part(again[2])[0], toy().train[0][toy().train[1] == 5])

    def test_embedded_digits_in_another_size(self) -> None:
        stream = make_stream("digits", size=(16, 16), channels=3)
        assert prepare(stream[0], seed=0).example().shape == (2, 3, 16, 16)
        with pytest.raises(ValueError, match="each data set is one task"):
            one_task(toy(), 3)


def test_a_picture_that_is_cut_short_is_named(tmp_path: Path) -> None:
    (tmp_path / "dog").mkdir()
    Image.effect_noise((30, 30), 90).save(tmp_path / "dog" / "cut.png")
    whole = (tmp_path / "dog" / "cut.png").read_bytes()
    (tmp_path / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.png cannot be read as an image"):
        ImageFolder(tmp_path)[0]
