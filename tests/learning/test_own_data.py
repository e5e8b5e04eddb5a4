"""A user's own data: data sets that augment, tensors, folders of images; targets that are no classes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.learning import small
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from polymask.bank.bank import Bank
from polymask.learning.learn import learn
from polymask.learning.objective import Objective
from polymask.learning.training import Training
from polymask.nets import MLP
from polymask.parts.seeds import generator
from polymask.streams.inputs import Inputs
from polymask.streams.stream import Task


class Noisy(Dataset[Any]):
    """A data set that augments, with whatever generator its author found at hand."""

    def __init__(self, name: str, classes: int = 3) -> None:
        self.x, self.y = small.blobs(name, classes, 48)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        shift = random.gauss(0, 0.3) + float(np.random.normal(0, 0.3))  # noqa: NPY002
        return self.x[index] + shift + 0.3 * torch.randn(small.WIDTH), int(self.y[index])


def noisy() -> list[Task]:
    """A plain list of tasks over such data sets."""
    return [Task(name, Noisy(name), test=small.blobs(name, 3, 20, "test")) for name in ("one", "two")]


def test_a_data_set_that_augments_is_keyed_like_everything_else(tmp_path: Path) -> None:
    """The same with another number of workers, whatever the global generators stood at."""
    small.run("packnet", tmp_path / "one", noisy())
    random.seed(5)
    torch.manual_seed(5)
    small.run("packnet", tmp_path / "other", noisy(), training=replace(small.FAST, workers=1))
    small.assert_same(tmp_path / "one", tmp_path / "other")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two tasks as folders of images, with a sub-folder for each class."""
    for task, classes in {"shapes": ("bar", "dot"), "lights": ("dark", "grey", "bright")}.items():
        for level, name in enumerate(classes):
            for part, count in (("train", 12), ("test", 4)):
                (tmp_path / task / part / name).mkdir(parents=True)
                for i in range(count):
                    noise = torch.randint(0, 40, (8, 8), generator=generator(task, name, part, i))
                    pixels = (noise + 90 * level).to(torch.uint8).numpy()
                    Image.fromarray(pixels).save(tmp_path / task / part / name / f"{i}.png")
    return tmp_path


def test_folders_of_images(pictures: Path) -> None:
    inputs = Inputs(mean=(0.4,), std=(0.3,), flip=True)
    stream = [
        Task(name, str(pictures / name / "train"), test=pictures / name / "test", inputs=inputs)
        for name in ("shapes", "lights")
    ]
    training = Training(epochs=15, batch_size=8, lr=1e-2, val_fraction=0.3)
    run = learn(MLP(64, (16,), 2), stream, "packnet", training=training)
    assert run.report["accuracy"][1] == [1.0, 1.0]
    assert run.method.record("lights").meta.labels == ("bright", "dark", "grey")
    bright = Image.open(pictures / "lights" / "test" / "bright" / "0.png")
    x = torch.from_numpy(np.array(bright))[None, None]
    assert run.method.record("lights").meta.labels[int(run.predict("lights", x))] == "bright"


def multilabel(name: str, outputs: int) -> Task:
    """Several yes-or-no questions an example: on which side of a plane it lies."""
    planes = torch.randn(small.WIDTH, outputs, generator=generator(name, "planes"))
    x = {part: torch.randn(120, small.WIDTH, generator=generator(name, part)) for part in ("train", "val", "test")}
    return Task(name, *((x[part], (x[part] @ planes > 0).float()) for part in ("train", "val", "test")))


def right(logits: Tensor, y: Tensor) -> float:
    """The share of questions that are answered rightly."""
    return ((logits > 0) == (y > 0.5)).double().mean().item()


QUESTIONS = Objective(F.binary_cross_entropy_with_logits, right, "right answers")


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=() if m in ("piggyback", "finetune") else pytest.mark.full) for m in small.METHODS],
)
def test_multilabel_tasks(method: str) -> None:
    stream = [multilabel("one", 3), multilabel("two", 2), multilabel("three", 4)]
    training = Training(epochs=12, batch_size=16, lr=2e-2)
    found = small.run(method, None, stream, objective=QUESTIONS, training=training).report
    assert found["metric"] == "right answers"
    assert min(found["accuracy"][i][i] for i in range(3)) > 0.65
    if method == "finetune":
        assert found["forgetting_chaudhry"] > 0.02
        assert found["bwt_gem"] < -0.02
    else:
        assert found["forgetting_chaudhry"] == found["bwt_gem"] == found["max_logit_drift"] == 0.0


class Regressor(nn.Module):
    """One number an example, ``(N,)``, in a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(small.WIDTH, 32), nn.ReLU()), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.body(x))}


def line(name: str, column: bool) -> Task:
    """A linear function of the inputs to be found; targets ``(N, 1)`` or ``(N,)``."""
    slope = torch.randn(small.WIDTH, generator=generator(name, "slope"))
    x = torch.randn(150, small.WIDTH, generator=generator(name, "points"))
    y = x @ slope
    y = y[:, None] if column else y
    return Task(name, (x[:100], y[:100]), (x[100:120], y[100:120]), (x[120:], y[120:]))


def squared(logits: Tensor, y: Tensor) -> Tensor:
    """The mean squared error, whether or not targets have a column of their own."""
    return F.mse_loss(logits.flatten(), y.flatten())


@pytest.mark.parametrize(
    ("method", "column"),
    [
        ("packnet", True),
        ("finetune", False),
        *(pytest.param(*pair, marks=pytest.mark.full) for pair in [("packnet", False), ("finetune", True)]),
        *(pytest.param("piggyback", column, marks=pytest.mark.full) for column in (True, False)),
    ],
)
def test_regression_tasks(method: str, column: bool) -> None:
    """Errors: lower is better, and what is forgotten is above 0 all the same."""
    error = Objective(squared, lambda logits, y: squared(logits, y).item(), "squared error", higher_is_better=False)
    torch.manual_seed(0)
    stream = [line("one", column), line("two", column)]
    options = {"ratio": 0.5} if method == "packnet" else small.METHODS[method]
    training = Training(epochs=20, batch_size=16, lr=1e-2)
    run = learn(Regressor(), stream, method, objective=error, training=training, options=options)
    matrix = run.report["accuracy"]
    spread = [float(task.test[1].var()) for task in stream]  # type: ignore[index]
    assert matrix[0][0] < 0.2 * spread[0]
    assert run.logits("one", stream[0].test[0]).shape == (30, 1)  # type: ignore[index]
    if method == "finetune":
        assert matrix[1][0] > 2 * matrix[0][0]
        assert run.report["forgetting_chaudhry"] == pytest.approx(matrix[1][0] - matrix[0][0])
        assert run.report["bwt_gem"] < 0
    else:
        assert matrix[1][0] == matrix[0][0]
        assert run.report["forgetting_chaudhry"] == run.report["bwt_gem"] == 0.0


def test_the_epoch_with_the_lowest_error_is_kept() -> None:
    kept = Objective(higher_is_better=False)
    assert [kept.better(score, best) for score, best in [(1.0, None), (0.5, 1.0), (2.0, 1.0)]] == [True, True, False]
    assert [kept.better(*pair) for pair in [(float("nan"), 1.0), (1.0, float("nan"))]] == [False, True]


class TwoEyes(nn.Module):
    """Two inputs by name or by position, logits in a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(small.WIDTH, 8), nn.Linear(small.WIDTH, 8)
        self.head = nn.Linear(16, 2)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        return {"loss": None, "logits": self.head(torch.cat([self.left(left), self.right(right)], 1).relu())}


@pytest.mark.parametrize("named", [True, False])
def test_structured_inputs(named: bool, tmp_path: Path) -> None:
    def pair(x: Tensor) -> Mapping[str, Tensor] | tuple[Tensor, ...]:
        return {"right": -x, "left": x} if named else (x, -x)

    def task(name: str, classes: int) -> Task:
        parts = [small.blobs(name, classes, 40, part) for part in ("train", "val", "test")]
        return Task(name, *((pair(x), y) for x, y in parts))

    torch.manual_seed(0)
    training = Training(epochs=4, batch_size=8, lr=1e-2)
    run = learn(TwoEyes(), [task("one", 2), task("two", 3)], "packnet", training=training, out=tmp_path)
    assert run.report["max_logit_drift"] == 0.0
    assert run.report["average_accuracy"] > 0.7
    assert run.logits("two", pair(torch.ones(5, small.WIDTH))).shape == (5, 3)
    assert Bank.open(tmp_path / "bank").verify(TwoEyes()).ok
