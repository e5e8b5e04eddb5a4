"""How a run trains: settings over a recipe, phases apart, and the learning rate's course."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learning import small
from torch import nn

from polymask.learning.joint.prefixes import learn_joint
from polymask.learning.learn import learn
from polymask.learning.objective import Objective
from polymask.learning.train import session
from polymask.learning.train.loop import Phase
from polymask.learning.training import Plateau, Training, make_optimizer, make_schedule, optimizer_of
from polymask.method.card import Recipe
from polymask.methods import HAT, PackNet
from polymask.streams import Task, digits


def test_masked_norms_learn_at_the_rate_of_norms() -> None:
    for norms in ("private", "masked"):
        net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        method = PackNet(net, torch.randn(4, 6), norms=norms)
        method.begin("a")
        named = {parameter: name for name, parameter in method.named_parameters()}
        groups = optimizer_of(method, Recipe(lr=1e-3, norm_lr=1e-4)).param_groups
        slow = [named[parameter] for group in groups if group["lr"] == 1e-4 for parameter in group["params"]]
        assert sorted(slow) == ["1.bias", "1.weight"], norms


def rates(steps: int, **how: Any) -> list[float]:
    """The learning rate of each step of a phase, as a multiple of the recipe's."""
    recipe = Recipe(optimizer="sgd", lr=1.0, **how)
    optimizer = make_optimizer(recipe, [("w", nn.Parameter(torch.ones(1)))])
    schedule = make_schedule(recipe, optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_a_step_schedule_falls_to_a_tenth_at_the_half() -> None:
    assert rates(6, schedule="step", epochs=2) == [1, 1, 1, 0.1, 0.1, 0.1]
    assert rates(3, schedule="constant") == [1, 1, 1]


def test_warm_up_rises_and_leaves_the_rest_to_the_schedule() -> None:
    assert rates(10, schedule="constant", epochs=5, warmup=2) == [0.25, 0.5, 0.75] + 7 * [1]
    cosine = rates(10, schedule="cosine", epochs=5, warmup=2)
    assert cosine[:4] == [0.25, 0.5, 0.75, 1]
    assert cosine[4:] == rates(6, schedule="cosine", epochs=3)
    assert rates(4, schedule="cosine", epochs=2, warmup=9) == [0.25, 0.5, 0.75, 1]


def test_on_a_plateau_the_rate_falls_to_a_third_until_all_is_over() -> None:
    optimizer = make_optimizer(Recipe(optimizer="sgd", lr=0.05), [("w", nn.Parameter(torch.ones(1)))])
    schedule = make_schedule(Recipe(schedule="plateau"), optimizer, 10)
    assert isinstance(schedule, Plateau)
    found, losses = [], iter([3.0, 2.0, 2.0, 2.5, 2.1, 1.9])
    while not schedule.over:
        optimizer.step()
        schedule.step()
        schedule.watch(next(losses, 2.0))
        found.append(optimizer.param_groups[0]["lr"])
    falls = [0.05 * 3.0**-k for k in range(1, 6) for _ in range(5)]
    assert found == pytest.approx([*10 * [0.05], *falls, 0.05 * 3.0**-6])
    assert found[-2] > 1e-4 > found[-1]


@pytest.mark.parametrize("learner", ["hat", "joint"])
def test_a_plateau_ends_a_phase_early(learner: str) -> None:
    noise = [Task("noise", (torch.randn(40, 64), torch.arange(40) % 2))]
    training = Training(epochs=100, optimizer="sgd", lr=0.5, batch_size=16, schedule="plateau", device="cpu")
    seen: list[float] = []

    def watched(schedule: Plateau, loss: float) -> None:
        seen.append(loss)
        watch(schedule, loss)

    net, watch = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)), Plateau.watch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plateau, "watch", watched)
        if learner == "joint":
            learn_joint(net, noise, training=training)
        else:
            learn(net, noise, learner, training=training)
    assert 30 < len(seen) < 100


def test_a_plateau_is_resumed(tmp_path: Path) -> None:
    how = Training(epochs=10, optimizer="sgd", lr=0.5, batch_size=16, schedule="plateau", save_every=0)
    stream = small.tasks()[:2]
    small.run("hat", tmp_path / "a", stream, training=how)
    rates = [row.rpartition(",")[2] for row in (tmp_path / "a" / "epochs.csv").read_text().splitlines()]
    assert rates[-4] == "0.5" != rates[-3]  # it falls within sight of the second stop
    for n in (30, 38):
        with pytest.raises(KeyboardInterrupt):
            small.run("hat", tmp_path / "b", stream, training=how, objective=Objective(loss=small.Once(n, small.stop)))
    small.run("hat", tmp_path / "b", stream, training=how)
    small.assert_same(tmp_path / "a", tmp_path / "b")


def test_a_phase_has_settings_of_its_own() -> None:
    training = Training(epochs=20, lr=0.1, phases={"retrain": {"epochs": 10, "lr": 0.01}})
    recipe = Recipe(batch_size=7)
    assert training.over(recipe, "train") == training.over(recipe) == Recipe(batch_size=7, epochs=20, lr=0.1)
    assert training.over(recipe, "retrain") == Recipe(batch_size=7, epochs=10, lr=0.01)
    report = small.run("packnet", training=Training(epochs=1, batch_size=16, phases={"retrain": {"epochs": 3}}))
    assert report.report["max_logit_drift"] == 0


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ({"retrain": {"epoch": 1}}, "settings of phase 'retrain' .*found 'epoch'"),
        ({"retrain": {"epochs": 0}}, "in phase 'retrain': expected epochs of at least 1, found 0"),
        ({"retrain": {"lr": "fast"}}, "in phase 'retrain': "),
        ({"retrain": {"schedule": "steep"}}, "(?s)in phase 'retrain': .*steep"),
    ],
)
def test_settings_of_a_phase_are_checked_as_the_others_are(phases: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Training(phases=phases)


def test_phases_that_nothing_has_are_refused() -> None:
    training = Training(epochs=1, phases={"retrain": {"epochs": 2}})
    with pytest.raises(ValueError, match=r"phases of piggyback \(train\), found 'retrain'"):
        small.run("piggyback", training=training)
    with pytest.raises(ValueError, match=r"phases of joint training \(it has none\)"):
        learn_joint(nn.Linear(64, 2), digits(5)[:1], training=training)


def test_an_equal_loss_is_not_a_lower_one() -> None:
    optimizer = make_optimizer(Recipe(optimizer="sgd", lr=1.0), [("w", nn.Parameter(torch.ones(1)))])
    schedule = make_schedule(Recipe(schedule="plateau"), optimizer, 10)
    assert isinstance(schedule, Plateau)
    for _ in range(1 + Plateau.PATIENCE):
        schedule.watch(2.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1 / 3)


def test_the_phases_of_a_task_draw_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    real = session.train_phase

    def watched(phase: Phase, *args: Any, **more: Any) -> Any:
        keys.append(phase.key)
        return real(phase, *args, **more)

    monkeypatch.setattr(session, "train_phase", watched)
    noise = [Task(name, (torch.randn(40, 64), torch.arange(40) % 2)) for name in ("one", "two")]
    net = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2))
    learn(net, noise, "exssnet", training=Training(epochs=1, device="cpu"), seed=3)
    assert keys == [(3, task, phase) for task in ("one", "two") for phase in ("mask", "weights")]


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 0.01), ("rmsprop", 0.01), ("sgd", None)])
def test_a_recipe_s_rate_of_masks_holds_where_steps_are_as_large_as_rates(optimizer: str, rate: float | None) -> None:
    assert Training(optimizer=optimizer).over(HAT.recipes["train"]).mask_lr == rate  # type: ignore[arg-type]
