"""Feeds: batches that follow from a key, lose nothing, and refuse bad data at the door."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from polymask.parts.seeds import generator
from polymask.streams import Feed, Inputs, LoaderFeed, Task, TensorFeed, View, permute, prepare
from polymask.streams import feed as feed_module
from polymask.streams.feed import cuts
from polymask.streams.inputs import enlarge

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (23, 3, 6, 6), dtype=torch.uint8, generator=generator("images"))
LABELS = torch.arange(23) % 3
AUGMENTED = Inputs(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), crop=2, flip=True)


class Noisy(Dataset[tuple[torch.Tensor, int]]):
    """A user's data set whose augmentation draws from all three global generators."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        noise = torch.rand(1) + random.random() + np.random.rand()  # noqa: NPY002, as users' data sets do
        return IMAGES[index] / 255 + noise.float(), index % 3


class Listed(Dataset[Any]):
    """A data set of whatever is listed."""

    def __init__(self, *examples: object) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> object:
        return self.examples[index]


class Words(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def feeds() -> dict[str, Feed]:
    return {
        "plain": TensorFeed(View(IMAGES, LABELS), Inputs(), CPU),
        "augmented": TensorFeed(View(IMAGES, LABELS), AUGMENTED, CPU),
        "loader": LoaderFeed(Noisy(), AUGMENTED, CPU),
    }


@pytest.fixture(params=["plain", "augmented", "loader"])
def feed(request: pytest.FixtureRequest) -> Feed:
    return feeds()[request.param]


def all_of(batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    xs, ys = zip(*batches, strict=True)
    return torch.cat(xs), torch.cat(ys)


class TestEpoch:
    def test_is_a_function_of_its_key(self, feed: Feed) -> None:
        x, y = all_of(feed.epoch(4, (0, "task", 1)))
        torch.rand(1)
        random.random()
        again, labels = all_of(feed.epoch(4, (0, "task", 1)))
        assert torch.equal(x, again)
        assert torch.equal(y, labels)
        other, _ = all_of(feed.epoch(4, (0, "task", 2)))
        assert not torch.equal(x, other)

    def test_reads_everything_once(self, feed: Feed) -> None:
        for batch_size in (1, 2, 5, 11, 22, 23, 100):
            y = torch.cat([y for _, y in feed.epoch(batch_size, (0,))])
            assert torch.equal(y.bincount(), LABELS.bincount())
            assert feed.steps(batch_size) == len(list(feed.epoch(batch_size, (0,))))

    def test_leaves_global_generators_alone(self, feed: Feed) -> None:
        # beartype draws from `random` while it checks our arguments, so that generator cannot be watched here
        states = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
        list(feed.epoch(4, (0,)))
        list(feed.ordered(4))
        assert torch.equal(states[0], torch.get_rng_state())
        assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002

    def test_processes_share_out_every_batch(self) -> None:
        feed = TensorFeed(View(torch.arange(23), torch.arange(23)), Inputs(), CPU)
        ranks = [[y for _, y in feed.epoch(4, (0,), rank, 2)] for rank in (0, 1)]
        assert [len(batches) for batches in ranks] == [feed.steps(4, 2)] * 2
        assert torch.cat([*ranks[0], *ranks[1]]).sort().values.tolist() == list(range(23))
        assert all(abs(len(a) - len(b)) <= 1 for a, b in zip(*ranks, strict=True))

    def test_ordered_is_in_order_and_not_augmented(self, feed: Feed) -> None:
        x, y = all_of(feed.ordered(5))
        assert torch.equal(y, LABELS)
        assert torch.equal(x, all_of(feed.ordered(5))[0])
        assert feed.size == 23


class TestCuts:
    @pytest.mark.parametrize("world", [1, 2, 3])
    @pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
    def test_no_process_gets_a_single_example(self, batch_size: int, world: int) -> None:
        for size in range(2 * world, 60):
            bounds = cuts(size, batch_size, world)
            assert [start for start, _ in bounds[1:]] == [stop for _, stop in bounds[:-1]]
            assert (bounds[0][0], bounds[-1][1]) == (0, size)
            assert min(stop - start for start, stop in bounds) >= min(2, batch_size) * world

    def test_refuses_less_than_an_example_each(self) -> None:
        with pytest.raises(ValueError, match="leave one of 3 processes without any"):
            cuts(2, 4, 3)


class TestTensorFeed:
    @pytest.mark.parametrize("inputs", [Inputs(), Inputs(mean=(0.5,), size=(3, 4), channels=1)])
    def test_prepared_once_or_each_time_is_the_same(self, inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
        view = permute(Task("toy", (IMAGES, LABELS)), 1)[0].train.take(torch.tensor([3, 1, 4, 15, 9]))
        kept = all_of(TensorFeed(view, inputs, CPU).epoch(2, (0,)))
        monkeypatch.setattr(feed_module, "READY_BYTES", 0)
        assert torch.equal(all_of(TensorFeed(view, inputs, CPU).epoch(2, (0,)))[0], kept[0])

    def test_release_frees_and_prepares_again(self) -> None:
        feed = TensorFeed(View(IMAGES, LABELS), Inputs(), CPU)
        first = all_of(feed.epoch(4, (0,)))[0]
        assert feed._resident is not None
        feed.release()
        assert feed._resident is None
        assert torch.equal(all_of(feed.epoch(4, (0,)))[0], first)

    def test_float_data_are_not_copied(self) -> None:
        x = torch.rand(6, 3)
        feed = TensorFeed(View(x, torch.arange(6), torch.tensor([5, 0, 2, 1, 4, 3])), Inputs(), CPU)
        assert torch.equal(all_of(feed.ordered(4))[0][0], x[5])
        assert feed._settle()[0].x.data_ptr() == x.data_ptr()

    @pytest.mark.parametrize("kind", ["tuple", "mapping"])
    def test_structures(self, kind: str) -> None:
        ids, mask = torch.arange(10).view(5, 2), torch.ones(5, 2)
        x = (ids, mask) if kind == "tuple" else {"ids": ids, "mask": mask}
        feeds = prepare(Task("text", (x, torch.tensor([0, 1, 0, 1, 0]))), seed=0, val_fraction=0.3)
        batch, y = next(feeds.train.epoch(10, (0,)))
        assert type(batch) is type(x)
        part = batch[0] if kind == "tuple" else batch["ids"]
        assert torch.equal((part[:, 0] // 2) % 2, y)
        assert part.dtype == torch.int64


class TestLoaderFeed:
    def test_workers_change_nothing(self) -> None:
        alone, helped = (all_of(LoaderFeed(Noisy(), AUGMENTED, CPU, workers=n).epoch(5, (0, "t"))) for n in (0, 2))
        assert torch.equal(alone[0], helped[0])
        assert torch.equal(alone[1], helped[1])

    def test_labels_are_checked_as_they_come(self) -> None:
        feed = LoaderFeed(Noisy(), Inputs(), CPU, outputs=2, where=("toy", "test"))
        with pytest.raises(ValueError, match="task 'toy' go from 0 to 1, found 2 in test"):
            list(feed.ordered(8))

    def test_python_floats_become_float32(self) -> None:
        feeds = prepare(Task("slope", Listed(*((torch.rand(2), 0.5 * i) for i in range(5)))), seed=0)
        assert next(feeds.train.ordered(2))[1].dtype == torch.float32
        assert feeds.outputs == 1

    def test_another_device_gets_the_rows_of_the_task_alone(self) -> None:
        view = View(IMAGES, LABELS).take(torch.tensor([3, 1, 4]))
        there, finished = TensorFeed(view, Inputs(flip=True), torch.device("meta"))._settle()
        assert (there.x.shape, there.rows, finished) == ((3, 3, 6, 6), None, False)
        here, _ = TensorFeed(view, Inputs(flip=True), CPU)._settle()
        assert here.x is IMAGES


class TestInputs:
    def test_crop_and_flip_are_windows_of_the_padded_image(self) -> None:
        inputs = Inputs(crop=2, flip=True)
        y = inputs.augment(IMAGES, generator(0))
        assert y.shape == IMAGES.shape
        assert y.dtype == torch.uint8
        padded = torch.nn.functional.pad(IMAGES, [2] * 4)
        flips = 0
        for image, seen in zip(padded, y, strict=True):
            windows = [image[:, r : r + 6, c : c + 6] for r in range(5) for c in range(5)]
            straight = any(torch.equal(seen, window) for window in windows)
            mirrored = any(torch.equal(seen, window.flip(2)) for window in windows)
            assert straight or mirrored
            flips += mirrored
        assert 4 < flips < 19

    def test_crop_alone_never_mirrors_and_flip_alone_never_moves(self) -> None:
        flipped = Inputs(flip=True).augment(IMAGES, generator(0))
        same = (flipped == IMAGES).flatten(1).all(1)
        assert (same | (flipped == IMAGES.flip(3)).flatten(1).all(1)).all()
        assert 0 < same.sum() < 23
        flat = torch.arange(6).expand(5, 1, 6, 6)
        assert (Inputs(crop=1).augment(flat, generator(0))[:, 0, 2, 1:-1].diff() == 1).all()

    def test_area_shows_a_part_of_the_image_of_the_right_size_and_shape(self) -> None:
        ramp = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")).expand(200, 2, 32, 32)
        y = Inputs(area=0.3).augment(ramp, generator(0))
        rows, columns = y[:, 0], y[:, 1]
        assert (rows.diff(dim=2).abs() < 1e-4).all()  # upright: a row of the part is of one row of the image
        assert y.min() >= 0
        assert y.max() <= 31
        # the step between middle pixels is the part's side in units of the image's
        height, width = rows[:, 16, 0] - rows[:, 15, 0], columns[:, 0, 16] - columns[:, 0, 15]
        share, ratio = height * width, width / height
        assert (share > 0.3 - 1e-4).all()
        assert (share < 1 + 1e-4).all()
        assert ((ratio > 3 / 4 - 1e-4) & (ratio < 4 / 3 + 1e-4)).all()
        assert share.min() < 0.4
        assert share.max() > 0.8
        assert len(rows[:, 0, 0].unique()) > 150

    def test_area_keeps_bytes_and_is_drawn_before_and_apart_from_the_rest(self) -> None:
        y = Inputs(area=0.2).augment(IMAGES, generator(0))
        assert (y.dtype, y.shape) == (torch.uint8, IMAGES.shape)
        assert torch.equal(y, Inputs(area=0.2).augment(IMAGES, generator(0)))
        assert torch.equal(
            Inputs(area=1.0, crop=1).augment(IMAGES, generator(0)), Inputs(crop=1).augment(IMAGES, generator(0))
        )
        whole = IMAGES.float()
        assert torch.allclose(enlarge(whole, torch.tensor([[0.0, 0, 1, 1]]).expand(23, 4)), whole, atol=1e-3)

    def test_rules_for_channels_and_sizes(self) -> None:
        red = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
        red[:, 0] = 255
        assert Inputs(channels=1).fit(red).unique().tolist() == [76]
        assert Inputs(channels=3).fit(red[:, :1]).unique().tolist() == [255]
        assert Inputs(size=(1, 1)).fit(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).item() == 128
        assert Inputs(size=(2, 2), channels=3).fit(red) is red
        with pytest.raises(ValueError, match="no rule to bring 3 channels to 2"):
            Inputs(channels=2).fit(red)
        for inputs in (Inputs(size=(2, 2)), Inputs(crop=1)):
            with pytest.raises(ValueError, match=r"need images \(N, C, H, W\), found"):
                inputs.augment(inputs.fit(torch.rand(2, 4)), generator(0))

    def test_a_record_describes_all(self) -> None:
        inputs = Inputs((0.5,), (0.25,), 2, True, (8, 8), 1, 0.5)
        assert Inputs.from_json(inputs.to_json()) == inputs
        with pytest.raises(ValueError, match="the record says 'nearest'"):
            Inputs.from_json(inputs.to_json() | {"rule": "nearest"})
        for wrong in ({"std": (0.0,)}, {"crop": -1}, {"size": (0, 4)}, {"area": 0.0}, {"mean": (1, 2), "channels": 3}):
            with pytest.raises(ValueError, match="found"):
                Inputs(**wrong)

    def test_other_integers_are_left_alone(self) -> None:
        ids = torch.arange(4)[None]
        assert Inputs()(ids) is ids


class TestPrepare:
    def test_validation_is_stratified_and_keyed(self) -> None:
        y = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
        task = Task("toy", (torch.arange(100.0)[:, None], y), test=(torch.zeros(1, 1), y[:1]))
        one, same, other = (prepare(task, seed=seed) for seed in (0, 0, 1))
        (x, labels), (rest, _) = all_of(one.val.ordered(50)), all_of(one.train.ordered(50))
        assert labels.bincount().tolist() == [6, 3, 1]
        assert torch.cat([x, rest]).flatten().sort().values.tolist() == list(range(100))
        assert torch.equal(x, all_of(same.val.ordered(50))[0])
        assert not torch.equal(x, all_of(other.val.ordered(50))[0])

    def test_given_validation_is_kept(self) -> None:
        task = Task("toy", (IMAGES, LABELS), (IMAGES[:4], LABELS[:4]))
        feeds = prepare(task, seed=0)
        assert (feeds.train.size, feeds.val.size, feeds.test, feeds.outputs) == (23, 4, None, 3)

    def test_a_data_set_in_memory_or_not(self) -> None:
        task = Task("toy", TensorDataset(IMAGES, LABELS), inputs=AUGMENTED)
        read, kept = prepare(task, seed=0), prepare(task, seed=0, cache=True)
        assert isinstance(read.train, LoaderFeed)
        assert isinstance(kept.train, TensorFeed)
        for batch_size in (4, 30):
            a, b = (all_of(feeds.train.epoch(batch_size, (1,))) for feeds in (read, kept))
            assert torch.equal(a[0], b[0])
            assert torch.equal(a[1], b[1])
        assert torch.equal(read.example(), kept.example())

    @pytest.mark.parametrize(
        ("y", "outputs"), [(torch.rand(23, 5), 5), (torch.rand(23), 1), (LABELS, 3), (torch.rand(23, 5).round(), 5)]
    )
    def test_outputs_follow_from_targets(self, y: torch.Tensor, outputs: int) -> None:
        assert prepare(Task("toy", (IMAGES, y)), seed=0).outputs == outputs

    @pytest.mark.parametrize(
        ("task", "message"),
        [
            (Task("t", (IMAGES[:0], LABELS[:0])), "'t' is empty: train holds no example"),
            (Task("t", (IMAGES, LABELS[:9])), "train of task 't' has 23 examples in x but 9 in y"),
            (Task("t", (IMAGES, LABELS), test=(IMAGES[:0], LABELS[:0])), "'t' is empty: test"),
            (Task("t", (IMAGES, LABELS), outputs=2), "'t' go from 0 to 1, found 2 in train"),
            (Task("t", (IMAGES, LABELS - 1)), "found -1 in train"),
            (Task("t", (IMAGES, LABELS), test=(IMAGES, LABELS + 1)), r"found 3 in test \(7 of 23"),
            (Task("t", (IMAGES, LABELS.int())), r"int64, train of task 't' has torch\.int32"),
            (Task("t", (IMAGES, LABELS), (IMAGES[:, :1], LABELS)), r"\(3, 6, 6\).*of val .*\(1, 6, 6\)"),
            (Task("t", (IMAGES, LABELS), (IMAGES / 255, LABELS)), "must be alike"),
            (Task("t", (IMAGES, torch.rand(23, 4)), outputs=5), "has 5 outputs, but train has 4 targets"),
            (Task("t", (IMAGES[:1], LABELS[:1])), "has one example"),
            (Task("t", Words()), "iterable-style"),
            (Task("t", Listed(1, 2, 3)), r"must be a pair \(x, y\), found 1"),
            (Task("t", Listed(*[(object(), 1)] * 3)), "make no batch"),
        ],
    )
    def test_refuses(self, task: Task, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            prepare(task, seed=0)

    def test_says_where_a_value_is_not_finite(self) -> None:
        x = torch.zeros(10, 4)
        x[7, 2], x[8, 0] = float("inf"), float("nan")
        with pytest.raises(ValueError, match=r"2 of 40 values in x of task 't' \(train\) .* is inf at \(7, 2\)"):
            prepare(Task("t", (x, torch.arange(10) % 2)), seed=0)
        view = View(x, torch.arange(6) % 2, torch.arange(6))
        assert prepare(Task("t", view), seed=0).train.size == 5  # rows of other tasks do not matter
        with pytest.raises(ValueError, match=r"val_fraction|fraction to hold out"):
            prepare(Task("t", view), seed=0, val_fraction=1.0)

    def test_folder_as_path(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no folder"):
            prepare(Task("t", tmp_path / "nowhere"), seed=0)
