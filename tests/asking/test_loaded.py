"""What a run has learned answers what is meant, or says what it was given instead."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.asking import small
from tests.learning import small as blobs
from torch import nn

from polymask import PackNet
from polymask.asking.rows import FEW
from polymask.bank.bank import Bank
from polymask.learning.extend import extend
from polymask.learning.learn import learn
from polymask.learning.objective import Objective
from polymask.learning.training import Training
from polymask.loaded import BATCH, Loaded, load
from polymask.lock import locked
from polymask.streams.folder import ImageFolder
from polymask.streams.stream import Task


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    small.run(small.pictures(root / "photos"), root / "run")
    return root


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def as_trained(held: Loaded, root: Path) -> torch.Tensor:
    """The logits of a folder of one class, read and prepared by what training reads it with."""
    data = ImageFolder(root, inputs=small.INPUTS)
    return held.logits("one", torch.stack([data[place][0] for place in range(len(data))]))


@pytest.mark.parametrize("mode", small.MODES)
def test_a_file_of_any_mode_and_size_is_answered_as_training_would_have_read_it(
    mode: str, made: Path, tmp_path: Path
) -> None:
    held, suffix = load(made / "run"), "jpg" if mode in ("CMYK", "YCbCr") else "png"
    (tmp_path / "photos" / "day").mkdir(parents=True)
    file = tmp_path / "photos" / "day" / f"a.{suffix}"
    small.picture((9, 17), True, 1).convert(mode).save(file)
    expected = as_trained(held, tmp_path / "photos")
    for given in (file, str(file), tmp_path / "photos", [file], Image.open(file), [Image.open(file)]):
        assert torch.equal(held.logits("one", given), expected)
    assert mode == "1" or held.predict_labels("one", file) == ["day"]


def test_the_same_picture_is_the_same_in_every_form(made: Path, tmp_path: Path) -> None:
    held = load(made / "run")
    raw = np.asarray(small.picture((8, 8), True, 3))
    batch = torch.from_numpy(raw.copy()).movedim(-1, 0)[None]
    expected = held.logits("one", batch)
    np.save(tmp_path / "a.npy", raw)
    np.save(tmp_path / "b.npy", batch.numpy())
    whole: list[Any] = [
        raw,
        raw[None],
        batch[0],
        batch.numpy(),
        raw[::1],
        [raw],
        tmp_path / "a.npy",
        tmp_path / "b.npy",
    ]
    for given in [*whole, np.dstack([raw, raw[..., :1]]), np.asfortranarray(raw)]:
        assert torch.equal(held.logits("#1", given), expected)
    for given in (raw / 255, (raw / 255).astype(np.float32), batch / 255, batch.double() / 255):
        assert torch.allclose(held.logits("one", given), expected, atol=1e-5)
    grey = Image.fromarray(np.asarray(Image.fromarray(raw).convert("L")).astype(np.uint16) * 257)
    assert grey.mode.startswith("I")
    assert torch.allclose(held.logits("one", grey), held.logits("one", Image.fromarray(raw).convert("L")), atol=1e-5)
    assert held.logits("one", [grey, Image.fromarray(raw), raw]).shape == (3, 2)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (np.full((8, 8, 3), 200.0), r"expected floats of 0\.\.1 .* found 200\.\.200: divide by 255, or give bytes"),
        (torch.full((1, 3, 8, 8), 200.0), r"divide by 255, or give bytes"),
        ([torch.full((3, 9, 9), 200.0), torch.zeros(3, 8, 8)], r"divide by 255, or give bytes"),
        (torch.full((1, 3, 8, 8), -1.8), r"give them raw, they are scaled here"),
        (np.full((8, 8, 3), 200), r"expected images of bytes \(uint8, 0\.\.255\) or floats .* found int64"),
        (np.ones((8, 8, 3), bool), r"expected images of bytes .* found bool"),
        (torch.full((1, 3, 8, 8), torch.nan), r"NaN or infinite"),
        (np.zeros((3, 8, 3), np.uint8), r"expected channels first or last in the array, found \(3, 8, 3\)"),
        (np.zeros((8, 8, 5, 5, 5), np.uint8), r"expected images \(N, C, H, W\)"),
        (torch.zeros(2, 5, 9), r"no rule to bring 2 channels to 3"),
        ("photos.txt", r"found no photos\.txt"),
        ([], r"found nothing"),
        ({"a", "b"}, r"found set of object"),
    ],
)
def test_what_would_be_another_answer_is_an_error(given: Any, says: str, made: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        load(made / "run").predict("one", given)


def test_a_file_of_another_kind_says_what_is_wrong_with_it(made: Path, tmp_path: Path) -> None:
    held = load(made / "run")
    small.picture((8, 8), True, 3).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:70])
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "objects.npy", np.array([{}, []], object), allow_pickle=True)
    np.savez(tmp_path / "uneven.npz", a=np.zeros(2), b=np.zeros(3))
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(ValueError, match=path.name):
            held.predict("one", path)
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="expected images or arrays in the folder"):
        held.predict("one", tmp_path / "none")


def test_what_the_network_refuses_is_an_answer_too_and_spoils_no_other(made: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3, np.float32))
    np.save(tmp_path / "b.npy", np.zeros((0, 8, 8, 3), np.uint8))
    small.picture((8, 8), True, 3).save(tmp_path / "c.png")
    (tmp_path / "d.npy").write_text("hello")
    *refused, empty, good, text = load(made / "run").answers("one", [tmp_path])
    assert good.label == "day"
    assert not good.problem
    assert all("a.npz" in one.problem and "refuses" in one.problem for one in refused)
    assert refused
    assert "found an array without rows" in empty.problem
    assert "b.npy" in empty.problem
    assert "which are not loaded" in text.problem
    assert "allow_pickle" not in text.problem


def test_bytes_are_refused_by_a_task_that_has_learned_something_else(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    x = 3 * torch.randn(16, 1, 4, 4)
    learn(net, [Task("t", (x, torch.arange(16) % 2))], "piggyback", out=tmp_path, training=Training(epochs=1))
    held = load(tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)))
    assert held.logits("t", x).shape == (16, 2)
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    for given in (np.zeros((4, 4), np.uint8), tmp_path / "a.png"):
        with pytest.raises(ValueError, match=r"found bytes, which become 0\.\.1: prepare them as for its training"):
            held.predict("t", given)


def test_files_are_read_in_batches_and_a_broken_one_is_an_answer_too(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, sizes = load(made / "run"), []
    for place in range(7):
        small.picture((8, 8 + place), place % 2 == 0, place).save(tmp_path / f"{place}.png")
    (tmp_path / "3.png").write_text("no picture")
    np.save(tmp_path / "many.npy", np.zeros((5, 8, 8, 3), np.uint8))
    kept = Loaded._run

    def noted(self: Loaded, record: Any, wanted: Any, batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return kept(self, record, wanted, batch)

    monkeypatch.setattr(Loaded, "_run", noted)
    found = list(held.answers("one", [tmp_path], batch_size=2))
    assert [Path(one.file).name for one in found] == [
        *(f"{i}.png" for i in range(7)),
        *(f"many.npy[{i}]" for i in range(5)),
    ]
    assert [one.label for one in found] == ["day", "night", "day", "", "day", "night", "day", *["night"] * 5]
    assert "3.png cannot be read" in found[3].problem
    assert sizes == [2, 1, 2, 1, 2, 2, 1]
    assert found[0].probability == pytest.approx(held.predict_proba("one", tmp_path / "0.png").max().item(), abs=1e-6)
    assert max(sizes) < BATCH


def test_what_is_known_of_tasks_and_a_number_is_never_given_twice(run: Path, made: Path) -> None:
    held = load(run)
    one, two = held.table()
    assert (one.place, one.task, one.labels, one.outputs, one.split, one.revision) == (
        1,
        "one",
        ("day", "night"),
        2,
        "validation",
        0,
    )
    assert one.accuracy is not None
    assert one.bytes > 0
    assert "32-true, cpu" in one.setting
    assert 0 < one.density < two.density == 1  # type: ignore[operator]
    assert (one.overlap, two.overlap) == (1, pytest.approx(one.density))
    assert held.find("#2") == "two"
    freed = held.remove("#2")
    assert freed.bytes > 0
    assert held.places == {"one": 1}
    with pytest.raises(KeyError, match="#2, which was 'two' and is removed"):
        load(run).predict("#2", torch.zeros(1, 3, 8, 8))
    assert extend(run, list(small.tasks(made / "photos"))[1]).tasks == ["one", "two"]
    assert load(run).places == {"one": 1, "two": 3}
    with pytest.raises(KeyError, match="found #2, whose task was removed"):
        load(run).find("#2")
    with pytest.raises(KeyError, match="found 'tow': did you mean two"):
        load(run).find("tow")


def test_others_answer_to_the_bit_after_a_removal_and_a_run_is_not_robbed(run: Path) -> None:
    held, x = load(run), torch.rand(4, 3, 8, 8)
    before = held.logits("two", x)
    with locked(run, 0, "busy"), pytest.raises(RuntimeError, match="found a run writing into it"):
        held.remove("one")
    assert held.tasks == ["one", "two"]
    held.remove("one")
    assert torch.equal(held.logits("two", x), before)
    assert torch.equal(load(run).logits("two", x), before)
    assert load(run).bank.verify().ok


def test_a_task_is_asked_while_the_run_goes_on(tmp_path: Path) -> None:
    x, seen = torch.randn(3, blobs.WIDTH), []
    early: list[Loaded] = []

    def ask(loss: torch.Tensor) -> torch.Tensor:
        early.append(load(tmp_path, blobs.net()))
        seen.append((early[0].logits("one", x), len(early[0].table())))
        return loss

    blobs.run("packnet", tmp_path, objective=Objective(loss=blobs.Once(20, ask)))
    assert len(load(tmp_path, blobs.net()).tasks) == 3
    assert [tasks for _, tasks in seen] == [1]
    assert torch.equal(seen[0][0], load(tmp_path, blobs.net()).logits("one", x))
    assert torch.equal(seen[0][0], early[0].logits("one", x))


def test_rows_of_numbers_are_taken_as_lists_too(tmp_path: Path) -> None:
    blobs.run("piggyback", tmp_path, blobs.tasks()[:1])
    held, x = load(tmp_path, blobs.net()), torch.randn(3, blobs.WIDTH)
    expected = held.logits("one", x)
    for given in (x.numpy(), x.double().numpy(), x.tolist()):
        assert torch.equal(held.logits("one", given), expected)
    assert held.logits("one", x[0].tolist()).shape == (1, 3)
    assert held.logits("one", [[1, 2, 3, 4, 5, 6]]).shape == (1, 3)
    with pytest.raises(ValueError, match=r"expected \(rows, 6\) of float32 for task 'one', found \(1, 5\)"):
        held.logits("one", [[1.0] * 5])
    with pytest.raises(ValueError, match="expected rows of one length"):
        held.logits("one", [[1.0], [1.0, 2.0]])
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"expected \(rows, 6\) of float32 in a \.npy .* found the image .*a\.png"):
        held.logits("one", tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"polymask\.load\(.*, base=network\)"):
        load(tmp_path).predict("one", x)


class Words(nn.Module):
    """Token ids and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(10, 6), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body((self.table(ids) * mask[..., None]).mean(1))))


def test_token_ids_come_as_named_arrays(tmp_path: Path) -> None:
    x = {"ids": torch.randint(10, (16, 5)), "mask": torch.ones(16, 5)}
    learn(Words(), [Task("t", (x, torch.arange(16) % 2))], "piggyback", out=tmp_path, training=Training(epochs=1))
    held = load(tmp_path, Words())
    expected = held.logits("t", x)
    np.savez(tmp_path / "x.npz", **{name: one.numpy() for name, one in x.items()})
    assert torch.equal(held.logits("t", {name: one.numpy() for name, one in x.items()}), expected)
    assert [one.file for one in held.answers("t", [tmp_path / "x.npz"], 6)] == [
        f"{tmp_path / 'x.npz'}[{i}]" for i in range(16)
    ]
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(
        ValueError, match=r"expected named arrays: ids \(rows, 5\) of int64, \d\.\.9; mask .* found the image"
    ):
        held.logits("t", tmp_path / "a.png")


def test_a_task_of_an_own_loop_does_not_guess_how_pictures_are_prepared(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    method = PackNet(net, torch.rand(2, 1, 4, 4), ratio=0.5)
    bank = Bank.create(tmp_path / "bank", method.sites, method="packnet", example=torch.rand(2, 1, 4, 4))
    for phase in method.phases:
        method.begin("t", phase)
        optimizer = torch.optim.SGD(method.parameters(), 0.1)
        net(torch.rand(4, 1, 4, 4)).sum().backward()
        optimizer.step()
    method.end("t")
    bank.commit(method.records, method.sites)
    held = load(tmp_path, nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)))
    assert held.table()[0].accuracy is None
    assert held.labels("t") == []
    assert held.predict_labels("t", torch.rand(1, 1, 4, 4))[0] in ("0", "1")
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"learned in a loop of your own: prepare .*a\.png as for its training"):
        held.logits("t", tmp_path / "a.png")


def test_of_many_tasks_no_mask_is_read_unless_asked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = load(run)
    monkeypatch.setattr("polymask.asking.rows.FEW", 1)
    with monkeypatch.context() as patched:
        patched.setattr(Bank, "record", lambda *_: pytest.fail("a record was read"))
        assert [row.density for row in held.table()] == [None, None]
    assert held.table(masks=True)[1].density == 1
    assert FEW == 50
