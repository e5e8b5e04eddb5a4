"""Joint training: a network per prefix, each as good as its data allow, and the same one however it was reached."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from polymask.learning.joint.prefixes import learn_joint
from polymask.learning.joint.union import Heads, Union
from polymask.learning.training import Training
from polymask.nets import build_net
from polymask.streams.images import digits
from polymask.streams.prepare import prepare

QUICK = Training(epochs=2)
STREAM = digits(5)[:3]


def net(outputs: int = 2) -> nn.Module:
    """A small network, the same at every call."""
    return build_net("mlp", (1, 8, 8), outputs, hidden=(24,))


@pytest.fixture(scope="module")
def whole() -> dict[str, object]:
    """The report of three prefixes."""
    return learn_joint(net(), STREAM, training=QUICK)


def test_every_prefix_is_measured_on_its_own_tasks(whole: dict[str, object]) -> None:
    matrix = whole["accuracy"]
    assert [[value is not None for value in row] for row in matrix] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    assert whole["average_accuracy"] == pytest.approx(sum(matrix[-1]) / 3)
    assert whole["average_accuracy"] > 0.8


def test_the_last_prefix_alone_is_the_same_network(whole: dict[str, object]) -> None:
    last = learn_joint(net(), STREAM, training=QUICK, prefixes="last")
    assert last["accuracy"] == [[None] * 3, [None] * 3, whole["accuracy"][2]]
    assert (last["average_accuracy"], last["bwt_gem"]) == (whole["average_accuracy"], None)


def test_a_stopped_run_goes_on_with_the_next_prefix(
    whole: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from polymask.learning.joint import prefixes as joint

    learned: list[int] = []

    def stops(model: nn.Module, place: str, union: Union, journal: object) -> dict[str, float]:
        if len(union.tasks) == 2 and 2 not in learned:
            learned.append(2)
            raise KeyboardInterrupt
        learned.append(len(union.tasks))
        return real(model, place, union, journal)

    real = joint.learn_union
    monkeypatch.setattr(joint, "learn_union", stops)
    with pytest.raises(KeyboardInterrupt):
        learn_joint(net(), STREAM, training=QUICK, out=tmp_path)
    report = learn_joint(net(), STREAM, training=QUICK, out=tmp_path)
    assert learned == [1, 2, 2, 3]
    assert report["accuracy"] == whole["accuracy"]


def test_the_model_and_the_random_state_are_left_alone() -> None:
    model = net()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    learn_joint(model, STREAM[:1], training=QUICK)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_every_batch_of_every_task_is_seen_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = Union.batches

    def counted(self: Union, epoch: int) -> object:
        for owner, x, y in real(self, epoch):
            seen.extend([owner] * len(y))
            yield owner, x, y

    monkeypatch.setattr(Union, "batches", counted)
    learn_joint(net(), STREAM[:2], training=Training(epochs=1), prefixes="last")
    assert [seen.count(place) for place in (0, 1)] == [prepare(task, seed=0).train.size for task in STREAM[:2]]
    assert seen != sorted(seen)


def test_heads_have_their_own_width_and_their_own_draw() -> None:
    heads = Heads(nn.Linear(4, 10), [2, 2, 3], 0, ["a", "b", "c"])
    widths = [head.weight.shape[0] for head in heads.each]
    assert widths == [2, 2, 3]
    assert not torch.equal(heads.each[0].weight, heads.each[1].weight)
    again = Heads(nn.Linear(4, 10), [2], 0, ["b"])
    assert torch.equal(again.each[0].weight, heads.each[1].weight)


def test_several_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one device for joint training, found 2"):
        learn_joint(net(), STREAM, training=Training(devices=2, device="cpu"))


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (Training(private_bits=8), "no private bits for joint training, found 8: no task of it is stored"),
        (Training(mask_lr=0.1), "no mask lr for joint training, found 0.1: its networks have no masks"),
    ],
)
def test_what_only_masks_and_banks_have_is_refused(training: Training, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        learn_joint(net(), STREAM, training=training)
