"""One call learns a stream: what it reports, what it selects by, and the settings of its loop."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning_fabric import Fabric
from tests.contract.toys import UnitGates
from tests.learning import small
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer
from torch.utils.data import Dataset

from polymask.bank.bank import Bank
from polymask.held import AlteredNetwork
from polymask.learning.extend import extend
from polymask.learning.learn import learn
from polymask.learning.objective import Objective
from polymask.learning.results import Forgot
from polymask.learning.training import Training, optimizer_of
from polymask.loaded import load
from polymask.method.own import import_method
from polymask.methods import HAT, Piggyback
from polymask.parts.pack import Packed
from polymask.sites import roles
from polymask.sites.state import Moving
from polymask.streams.classic import one_per_dataset

ONCE = Training(epochs=1, batch_size=16)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of PackNet."""
    place = tmp_path_factory.mktemp("learned")
    small.run("packnet", place, one_per_dataset(small.tasks(), order=[2, 0, 1]), seed=7)
    return place


def test_what_results_json_says(out: Path) -> None:
    found = json.loads((out / "results.json").read_text())
    assert (found["method"], found["seed"], found["metric"]) == ("packnet", 7, "accuracy")
    assert found["stream"]["name"] == "one+two+three"
    assert found["stream"]["protocol"]["kind"] == "datasets"
    assert found["tasks"] == found["finished"] == ["three", "one", "two"]
    matrix = found["accuracy"]
    assert [[value is None for value in row] for row in matrix] == [
        [False, True, True],
        [False, False, True],
        3 * [False],
    ]
    assert found["average_accuracy"] == pytest.approx(sum(matrix[2]) / 3)
    assert found["bwt_gem"] == found["forgetting_chaudhry"] == found["max_logit_drift"] == 0.0
    assert found["logit_drift"] == {"three": 0.0, "one": 0.0, "two": 0.0}
    assert found["seconds"] == pytest.approx(sum(found["seconds_per_task"].values()))
    assert found["seconds"] > 0


def test_bytes_are_those_on_disk(out: Path) -> None:
    found = json.loads((out / "results.json").read_text())["bytes"]
    assert len(found["per_task"]) == 3
    assert min(found["per_task"]) > 0
    assert found["backbone"] == max(path.stat().st_size for path in (out / "bank").glob("*.safetensors"))
    on_disk = sum(len(data) for data in small.files(out / "bank").values())
    assert sum(sum(value) if isinstance(value, list) else value for value in found.values()) == on_disk
    assert found["learner"] > 0


@pytest.mark.parametrize("method", ["packnet", "supsup"])
def test_bytes_without_a_folder_are_those_of_the_files_that_it_would_hold(method: str, tmp_path: Path) -> None:
    told = small.run(method).report["bytes"]
    written = small.run(method, out=tmp_path).report["bytes"]
    assert told == {key: written[key] for key in ("backbone", "per_task")}
    assert min(told["per_task"]) > 0


def test_a_method_of_ones_own_given_from_python_is_found_again_by_a_command_line(tmp_path: Path) -> None:
    learn(small.Net(), small.tasks()[:1], UnitGates, seed=0, out=tmp_path, training=ONCE)
    address = yaml.safe_load((tmp_path / "config.yaml").read_text())["method"]
    assert address == "tests.contract.toys:UnitGates"
    assert import_method(address) is UnitGates

    class Local(UnitGates):
        """Nothing can import it."""

    learn(small.Net(), small.tasks()[:1], Local, seed=0, out=tmp_path / "local", training=ONCE)
    assert yaml.safe_load((tmp_path / "local" / "config.yaml").read_text())["method"] == UnitGates.name


def test_what_forgets_says_by_how_much() -> None:
    found = small.run("finetune").report
    assert found["max_logit_drift"] == max(found["logit_drift"].values()) > 1e-3
    assert found["logit_drift"]["three"] == 0.0


def test_the_same_run_twice_and_the_global_generator_untouched() -> None:
    before = torch.get_rng_state()
    first = small.run("piggyback")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    second = small.run("piggyback")
    assert first.report["accuracy"] == second.report["accuracy"]
    assert torch.equal(
        first.logits("one", torch.ones(2, small.WIDTH)), second.logits("one", torch.ones(2, small.WIDTH))
    )


class Leaky(Piggyback):
    """A frozen weight that a later task moves all the same."""

    def _close(self, hard: dict[str, Tensor]) -> dict[str, Packed]:
        if self.records:
            self.sites.write("body.0.weight", self.sites.base("body.0.weight") + 0.5)
        return super()._close(hard)


class Restless(small.Net):
    """A network that never gives the same logits twice."""

    calls = count()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1e-3 * next(self.calls)


@pytest.mark.parametrize("on_disk", [False, True])
def test_an_exact_method_that_forgets_fails_the_run(on_disk: bool, tmp_path: Path) -> None:
    with pytest.raises(AlteredNetwork, match=r"found at end\('two'\) that task 'one' answers a small probe otherwise"):
        learn(small.net(), small.tasks()[:2], Leaky, training=ONCE, out=tmp_path if on_disk else None)
    if on_disk:
        kept = Bank.open(tmp_path / "bank")
        assert kept.tasks == ("one",)
        assert kept.verify(small.net()).ok


def test_where_logits_are_not_stable_content_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    # It stands for a machine whose sums have no fixed order, on which a network is compared within rounding.
    monkeypatch.setattr(roles, "moving", lambda *_: Moving())
    found = learn(Restless(), small.tasks()[:2], Piggyback, training=ONCE).report
    assert found["max_logit_drift"] > 0
    with pytest.raises(Forgot, match=r"expected tensor 'body\.0\.weight', as task 'one' reads it"):
        learn(Restless(), small.tasks()[:2], Leaky, training=ONCE)


def test_predict_by_name_and_save(tmp_path: Path) -> None:
    run = small.run("packnet")
    x, y = small.blobs("two", 2, 24, "test")
    assert run.tasks == ["one", "two", "three"]
    assert (run.predict("two", x) == y).double().mean().item() == run.report["accuracy"][2][1]
    assert run.logits("three", x).shape == (24, 4)
    with pytest.raises(KeyError, match="expected a finished task"):
        run.predict("four", x)
    bank = run.save(tmp_path / "bank")
    assert Bank.open(tmp_path / "bank").verify(small.net()).ok
    assert torch.equal(bank.plain("two", small.net())(x), run.logits("two", x))
    with pytest.raises(FileExistsError, match="expected no bank"):
        run.save(tmp_path / "bank")


class Scripted:
    """A metric that says what it is told to: one score an epoch, then 0 for the test split."""

    def __init__(self, *scores: float) -> None:
        self.scores = list(scores)

    def __call__(self, logits: Tensor, y: Tensor) -> float:
        return self.scores.pop(0) if self.scores else 0.0


@pytest.mark.parametrize(
    ("scores", "best"), [((0.1, 0.9, 0.2, 0.9), 2), ((0.9, 0.1), 1), ((float("nan"), 0.1, 0.0), 2)]
)
def test_the_best_epoch_is_restored(scores: tuple[float, ...], best: int) -> None:
    state = []
    for some in (scores, scores[:best]):
        training = replace(ONCE, epochs=len(some))
        run = small.run(
            "finetune", None, [small.task("one")], training=training, objective=Objective(metric=Scripted(*some))
        )
        state.append(run.method.model.state_dict())
    assert state[0].keys() == state[1].keys()
    assert all(torch.equal(tensor, state[1][name]) for name, tensor in state[0].items())


class Counting(Dataset[Any]):
    """A data set that knows how often it was read."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.reads = x, y, 0

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.reads += 1
        return self.x[index], self.y[index]


def test_the_test_split_is_not_read_while_training() -> None:
    kept = [Counting(*small.blobs(name, 3, 20, "test")) for name in ("one", "two")]
    seen: list[tuple[int, int]] = []

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        seen.append((kept[0].reads, kept[1].reads))
        return F.cross_entropy(logits, y)

    stream = [replace(small.task(name), test=test) for name, test in zip(("one", "two"), kept, strict=True)]
    small.run("packnet", None, stream, objective=Objective(loss=loss))
    # A single example is looked at when the data are opened; the first task is measured before the second is trained,
    # and not again: what it was measured to be is proved.
    assert set(seen) == {(1, 0), (21, 1)}
    assert (kept[0].reads, kept[1].reads) == (21, 21)


class Plain(nn.Module):
    """Neither norms nor dropout, so that a batch is the sum of its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(small.WIDTH, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.body(x).relu())}


def plain(training: Training, rows: int = 64, **more: Any) -> dict[str, Tensor]:
    """What one task makes of the plain network."""
    torch.manual_seed(0)
    how = replace(training, optimizer="sgd", lr=0.1)
    return learn(Plain(), [small.task("one", count=rows)], "finetune", training=how, **more).method.model.state_dict()


def test_accumulated_batches_are_one_bigger_batch() -> None:
    """Also at the end of an epoch, where fewer are left: 16 + 16, 16 + 16, 8 against 32, 32, 8."""
    one = plain(Training(epochs=2, batch_size=16, accumulate=2), rows=72)
    other = plain(Training(epochs=2, batch_size=32), rows=72)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_clipping_bounds_a_step() -> None:
    before = plain(Training(epochs=1, batch_size=64, clip=1e-9))
    after = plain(Training(epochs=1, batch_size=64, clip=1e-2))
    moved = torch.cat([(after[name] - before[name]).flatten() for name in after]).norm().item()
    assert moved == pytest.approx(0.1 * 1e-2, rel=1e-2)


@pytest.mark.parametrize("precision", ["bf16-mixed", pytest.param("bf16-true", marks=pytest.mark.full), "16-true"])
def test_precisions_on_a_cpu(precision: Any, tmp_path: Path) -> None:
    x = small.blobs("one", 3, 8)[0]
    # Adam's epsilon of 1e-8 is 0 in float16.
    training = replace(small.FAST, precision=precision, optimizer="sgd", lr=1e-2)
    run = small.run("packnet", tmp_path, training=training, options={"ratio": 0.5})
    assert run.report["max_logit_drift"] == 0.0
    dtype = {"bf16-mixed": torch.float32, "bf16-true": torch.bfloat16, "16-true": torch.float16}[precision]
    assert run.method.record("two").private["head.weight"].dtype == dtype
    assert run.logits("one", x).dtype == dtype
    assert Bank.open(tmp_path / "bank").verify(small.net().to(dtype)).ok
    assert torch.equal(load(tmp_path, small.net().to(dtype)).logits("one", x), run.logits("one", x))
    left = tmp_path / "bank" / ("f" * 32 + ".safetensors")
    left.write_text("by a process that was killed in the middle of a commit")
    later = extend(tmp_path, small.task("four", 2), small.net())
    assert not left.exists()
    assert later.report["max_logit_drift"] == 0.0
    assert torch.equal(later.logits("one", x), run.logits("one", x))


def test_one_device_in_float32_runs_the_bare_module(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **more: Any) -> None:
        raise AssertionError("wrapped")

    monkeypatch.setattr(Fabric, "setup_module", refuse)
    small.run("finetune", None, [small.task("one")])
    with pytest.raises(AssertionError, match="wrapped"):
        small.run("finetune", None, [small.task("one")], training=replace(small.FAST, precision="bf16-mixed"))


def test_a_fresh_optimizer_with_the_users_groups_in_every_phase() -> None:
    made: list[Optimizer] = []

    def optimizer(named: Iterable[tuple[str, nn.Parameter]]) -> Optimizer:
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in named:
            groups[name.startswith("head")].append(parameter)
        made.append(SGD([{"params": groups[True], "lr": 0.5}, {"params": groups[False], "lr": 0.25}], momentum=0.9))
        return made[-1]

    def schedule(optimizer: Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        assert steps == 2 * 4
        assert not optimizer.state
        return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, steps)

    small.run("packnet", optimizer=optimizer, schedule=schedule)
    assert len({id(one) for one in made}) == 6
    assert [[group["lr"] for group in one.param_groups] for one in made] == 6 * [[0.25, 0.125]]


def test_masks_may_have_a_learning_rate_of_their_own() -> None:
    method = HAT(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(2, 4))
    method.begin("a")
    optimizer = optimizer_of(method, Training(lr=0.01, mask_lr=0.5).over(method.recipes["train"]))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: rates[id(p)] for name, p in method.named_parameters()}
    assert found == {**dict.fromkeys(found, 0.01), "0.scores": 0.5}
    assert "0.scores" in found
    alike = optimizer_of(method, Training(lr=0.5, mask_lr=0.5).over(method.recipes["train"]))
    assert len(alike.param_groups) == 1
    with pytest.raises(ValueError, match="expected mask_lr above 0, found 0"):
        Training(mask_lr=0.0)


def test_private_norms_may_have_a_learning_rate_of_their_own() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    method = Piggyback(model, torch.zeros(2, 1, 8, 8), norms="private")
    method.begin("a")
    recipe = Training(norm_lr=0.5).over(method.recipes["train"])
    optimizer = optimizer_of(method, recipe)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(method.named_parameters())
    assert {name: rates[id(p)] for name, p in named.items()} == {
        name: 0.5 if name.startswith("2.") else recipe.lr for name in named
    }
    assert any(name.startswith("2.") for name in named)
    with pytest.raises(ValueError, match="expected norm_lr above 0, found 0"):
        Training(norm_lr=0.0)
