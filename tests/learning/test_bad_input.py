"""What goes wrong says so once, clearly, and leaves the last finished task and a folder to go on with."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learning import small
from torch import Tensor, nn
from torch.utils.data import Dataset

from polymask import detach
from polymask.bank.bank import Bank
from polymask.learning import folder
from polymask.learning.objective import Objective
from polymask.learning.train.loop import NotFinite
from polymask.learning.training import Training
from polymask.streams.images import load_images
from polymask.streams.stream import Task


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in which nothing went wrong."""
    out = tmp_path_factory.mktemp("whole")
    small.run_saved("packnet", out)
    return out


class Poisoned(Dataset[Any]):
    """A data set of the user's that gives a NaN now and then."""

    def __init__(self, x: Tensor, y: Tensor, poison: bool) -> None:
        self.x, self.y, self.poison = x, y, poison

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = self.x[index]
        return (x * float("nan") if self.poison and index == 7 else x), self.y[index]


def poisoned(poison: bool) -> list[Task]:
    one, two, three = small.tasks()
    return [one, replace(two, train=Poisoned(*two.train, poison)), three]


IN_TASK_TWO = 4 * 4 + 6
"""The call of the loss in the middle of the second epoch of the second task."""


def test_nan_in_tensors_is_found_before_they_are_learned(tmp_path: Path) -> None:
    x, y = small.blobs("two", 2, 64)
    x[5, 2] = float("nan")
    with pytest.raises(ValueError, match=r"1 of 384 values in x of task 'two' \(train\) are NaN.*\(5, 2\)"):
        small.run_saved("packnet", tmp_path, [small.task("one"), replace(small.task("two", 2), train=(x, y))])
    assert Bank.open(tmp_path / "bank").verify(small.net()).ok


def test_nan_in_a_data_set_stops_the_run_which_goes_on_with_clean_data(tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match=r"loss of nan in epoch 0 of 'train' on task 'two'.*Finished tasks are kept"):
        small.run_saved("packnet", tmp_path / "run", poisoned(True))
    bank = Bank.open(tmp_path / "run" / "bank")
    assert bank.tasks == ("one",)
    assert bank.verify(small.net()).ok
    small.run_saved("packnet", tmp_path / "run", poisoned(False))
    small.run_saved("packnet", tmp_path / "clean", poisoned(False))
    small.assert_same(tmp_path / "run", tmp_path / "clean")


@pytest.mark.parametrize(
    "happens",
    [
        pytest.param(lambda loss: loss * float("nan"), id="nan"),
        pytest.param(lambda loss: loss * float("inf"), id="inf", marks=pytest.mark.full),
        pytest.param(small.stop, id="ctrl-c"),
    ],
)
def test_a_bad_loss_or_ctrl_c_leaves_folder_and_network_to_go_on_with(
    happens: Callable[[Tensor], Tensor], tmp_path: Path, whole: Path
) -> None:
    model = small.net()
    with pytest.raises((NotFinite, KeyboardInterrupt)):
        small.run_saved("packnet", tmp_path, model=model, objective=Objective(loss=small.Once(IN_TASK_TWO, happens)))
    assert Bank.open(tmp_path / "bank").tasks == ("one",)
    assert type(model.more[0]) is nn.Linear
    assert list(model.state_dict()) == list(small.net().state_dict())
    small.run_saved("packnet", tmp_path, model=model)
    small.assert_same(tmp_path, whole)


@pytest.mark.parametrize("method", ["packnet", "supsup", "tfm", "finetune"])
def test_a_network_comes_back_as_it_was_given(method: str) -> None:
    """Values, widths, classes and modes, from a stop in a task whose head has another width."""
    model, like = small.net(5), small.net(5)
    model.body.eval()
    calls = {"packnet": IN_TASK_TWO, "tfm": 4 * 2 + 3}.get(method, 4 * 2 + 2)
    with pytest.raises(KeyboardInterrupt):
        small.run_saved(method, None, model=model, objective=Objective(loss=small.Once(calls, small.stop)))
    assert [(name, type(module)) for name, module in model.named_modules()] == [
        (name, type(module)) for name, module in like.named_modules()
    ]
    assert [name for name, module in model.named_modules() if not module.training] == [
        name for name, _ in model.named_modules() if name.startswith("body")
    ]
    now, then = model.state_dict(), like.state_dict()
    assert list(now) == list(then)
    assert all(torch.equal(now[name], then[name]) for name in then)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert (model.head.out_features, model.body[0].out_features) == (5, 16)
    small.run_saved(method, None, model=model)


def test_a_network_that_learned_is_the_learners_with_its_keys() -> None:
    """What the documentation of ``learn`` says."""
    model = small.net()
    keys, run = list(model.state_dict()), small.run_saved("packnet", None, model=model)
    assert list(model.state_dict()) == keys
    assert type(model.more[0]) is not nn.Linear
    x = small.blobs("three", 4, 5)[0]
    assert torch.equal(model.eval()(x), run.logits("three", x))
    plain, answers = run.method.plain("one"), run.logits("one", x)
    detach(model)
    assert [type(module) for module in model.modules()] == [type(module) for module in small.net().modules()]
    assert torch.equal(plain.eval()(x), answers)


def test_a_step_that_explodes_in_the_last_batch_is_not_kept(tmp_path: Path) -> None:
    """The loss is still finite; what the step makes of the weights is not."""
    training = replace(small.SAVED, epochs=1, optimizer="sgd")
    with pytest.raises(NotFinite, match=r"NaN or infinity in .*head\.weight"):
        small.run_saved("finetune", tmp_path, training=training, objective=Objective(loss=small.Once(4, Explode.apply)))
    assert Bank.open(tmp_path / "bank").tasks == ()


class Explode(torch.autograd.Function):
    """A number whose gradient is not one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * float("inf")


def complaint(out: Path) -> str | None:
    """What a run says of the disk; None if it ends well."""
    try:
        small.run_saved("packnet", out)
    except OSError as error:
        return str(error)
    return None


def test_a_disk_that_fills_up_at_any_file(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every time a little further, until the run comes to its end."""
    for writes in range(1, 60, 3):
        left = count(writes, -1)

        def fsync(handle: int, left: Iterator[int] = left) -> None:
            if next(left) <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr("polymask.disk.os.fsync", fsync)
            said = complaint(tmp_path)
        if said is None:
            break
        assert re.search(r"Errno 28.* expected to write .* found: No space left .* do it again", said)
        if (tmp_path / "bank" / "bank.json").exists():
            assert Bank.open(tmp_path / "bank").verify(small.net()).ok
    assert writes > 12
    small.assert_same(tmp_path, whole)


@pytest.fixture
def little_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk with room for little."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=108k", "tmpfs", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("no right to mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_real_disk_that_is_full(little_disk: Path, whole: Path) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        small.run_saved("packnet", little_disk / "run")
    bank = Bank.open(little_disk / "run" / "bank")
    assert bank.tasks
    assert bank.verify(small.net()).ok
    subprocess.run(["mount", "-o", "remount,size=8m", str(little_disk)], check=True)
    small.run_saved("packnet", little_disk / "run")
    small.assert_same(little_disk / "run", whole)


def test_two_runs_into_one_folder(tmp_path: Path) -> None:
    with (
        folder.locked(tmp_path / "run"),
        pytest.raises(RuntimeError, match=r"expected .*run to be free, found another run writing into it"),
    ):
        small.run_saved("finetune", tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == [tmp_path / "run" / ".lock"]


def leave_a_reader_behind(place: Path, told: Any) -> None:
    """Take a folder, start a process as data loaders do, and die by a signal."""
    with folder.locked(place):
        reader = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        reader.start()
        told.send(reader.pid)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_lock_dies_with_its_process_and_not_with_its_readers(tmp_path: Path) -> None:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=leave_a_reader_behind, args=(tmp_path, there))
    process.start()
    process.join()
    reader = here.recv()
    try:
        os.kill(reader, 0)
        with folder.locked(tmp_path):
            pass
    finally:
        os.kill(reader, signal.SIGKILL)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"options": {"ratio": 0.25}}, r"options\.ratio: None there, 0\.25 now"),
        ({"training": replace(small.SAVED, lr=0.5)}, r"lr: None there, 0\.5 now"),
        ({"stream": small.tasks()[:2]}, r"options\.tasks: 3 .*task_names: .*'three'\] there, \['one', 'two'\] now"),
    ],
)
def test_a_folder_of_another_configuration(change: dict[str, Any], named: str, whole: Path) -> None:
    before = small.files(whole)
    with pytest.raises(ValueError, match=rf"this configuration, found another \({named}"):
        small.run_saved("packnet", whole, **change)
    assert small.files(whole) == before


def test_a_configuration_that_was_cut_short_is_said_to_be_so(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "cut")
    (tmp_path / "cut" / "config.yaml").write_text((whole / "config.yaml").read_text()[:30])
    with pytest.raises(ValueError, match=r"config\.yaml to say .* it is cut short\. Remove it, and"):
        small.run_saved("packnet", tmp_path / "cut")
    (tmp_path / "cut" / "config.yaml").unlink()
    small.run_saved("packnet", tmp_path / "cut")
    assert (tmp_path / "cut" / "config.yaml").read_bytes() == (whole / "config.yaml").read_bytes()


def test_a_run_that_could_not_start_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a ratio in"):
        small.run_saved("packnet", tmp_path, options={"ratio": 2.0})
    small.run_saved("packnet", tmp_path, options={"ratio": 0.2})


def outside() -> list[Task]:
    return [small.task("one"), small.task("two", 5, labels=["a", "b", "c"])]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no task": ({"stream": ()}, "has no tasks"),
    "an empty task": ({"stream": [small.task("one"), small.task("two", count=0)]}, "task 'two' is empty"),
    "a name twice": ({"stream": [small.task("one"), small.task("one")]}, r"found twice: \['one'\]"),
    "a label outside": ({"stream": outside()}, r"labels of task 'two' go from 0 to 2, found 3 in train"),
    "a shared head too narrow": (
        {"method": "supsup", "model": small.net(3)},
        "expected at most 3 outputs, the width of the shared head 'head', found 4",
    ),
    "nothing to mask": ({"model": nn.Linear(small.WIDTH, 4)}, "found none to mask"),
    "an example of the wrong shape": (
        {"example": torch.zeros(2, 9)},
        "expected an example that the model accepts, found one that it refuses",
    ),
    "a task of the wrong shape": (
        {"stream": [small.task("one"), Task("wide", (torch.zeros(8, 9), torch.arange(8) % 2))]},
        "expected inputs of task 'wide' that the network accepts",
    ),
    "a folder that is not there": ({"stream": [Task("one", "/no/such/place")]}, "no folder /no/such/place"),
    "an unknown method": ({"method": "pakcnet"}, "expected a method of packnet, .* found 'pakcnet'"),
    "an unknown option": ({"options": {"rato": 1}}, r"expected options of packnet \(tasks, .*found 'rato'"),
    "a ratio out of range": ({"options": {"ratio": 1.5}}, r"expected a ratio in \[0, 1\), found 1.5"),
    "a density out of range": ({"method": "supsup", "options": {"density": 0.0}}, r"expected a density in \(0, 1\]"),
    "a device that is not there": (
        {"training": replace(small.SAVED, device="mps")},
        "expected a device that this machine has, found 'mps'",
    ),
    "a precision that a CPU lacks": (
        {"training": replace(small.SAVED, precision="16-mixed", device="cpu")},
        "expected a precision that a CPU has",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_one_clear_error_and_the_finished_tasks_stay(wrong: str, tmp_path: Path) -> None:
    more, message = WRONG[wrong]
    more = {"method": "packnet", **more}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        small.run_saved(out=tmp_path, **more)
    if (tmp_path / "bank").exists():
        assert len(Bank.open(tmp_path / "bank").tasks) == len(Bank.open(tmp_path / "bank").probe_logits()) <= 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("epochs", 0), ("batch_size", 0), ("accumulate", 0), ("devices", 0), ("workers", -1)),
        *(("lr", 0.0), ("lr", float("nan")), ("clip", -1.0), ("momentum", -0.1), ("weight_decay", -1.0)),
        *(("val_fraction", 1.0), ("save_every", -1.0)),
    ],
)
def test_a_setting_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"expected {name} .*found {value}"):
        Training(**{name: value})


def test_a_data_root_without_the_data_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"'owner/pictures' .* looked for files in {tmp_path}/owner/pictures"):
        load_images("owner/pictures", tmp_path)
