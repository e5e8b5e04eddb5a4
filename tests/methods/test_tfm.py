"""TFM's own invariants, T1 to T5: what a task reads is a block, and the block is for ever; only new edges learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from statistics import mean

import pytest
import torch
from tests.contract import drive
from tests.methods.digits import accuracies, adam, fit, mlp, permuted
from torch import Tensor

from polymask.method.contract import Method
from polymask.methods import TFM, Independent
from polymask.parts.pack import unpack
from polymask.report import states

GROWN = ["mlp_bn", "convnet", "encoder"]
grown = pytest.mark.parametrize("backbone", GROWN)
residual = pytest.mark.parametrize("backbone", [*GROWN, pytest.param("timm_resnet", marks=pytest.mark.full)])
turns = pytest.mark.parametrize(
    ("backbone", "normalise"),
    [
        pytest.param(backbone, normalise, marks=() if normalise == (place % 2 == 0) else pytest.mark.full)
        for place, backbone in enumerate(GROWN)
        for normalise in (True, False)
    ],
)
with_a_resnet = pytest.mark.parametrize(
    ("backbone", "normalise"),
    [*turns.args[1], *(pytest.param("timm_resnet", normalise, marks=pytest.mark.full) for normalise in (True, False))],
)


def blocks(method: TFM, task: str) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """Of every weight the part that a finished task reads."""
    for name, packed in method.record(task).masks.items():
        shape = method.sites.tensor(name).shape
        sizes = zip(packed.shape, shape, strict=True)
        yield name, tuple(slice(None) if part == 1 else slice(part) for part, _ in sizes)


def scramble(method: TFM, task: str) -> int:
    """Large finite values wherever a task does not read; how many."""
    count = 0
    for name, block in list(blocks(method, task)):
        base = method.sites.base(name).clone()
        wild = 1e30 * torch.randn(base.shape)
        wild[block] = base[block]
        count += int((wild != base).sum())
        method.sites.write(name, wild)
    return count


# T1: a task's logits are constant, to the bit, read by slicing.


@with_a_resnet
def test_a_finished_task_answers_alike_for_ever(backbone: str, normalise: bool) -> None:
    method, _ = drive.make(TFM, backbone, growth=3, normalise=normalise)
    answers: dict[str, Tensor] = {}
    for task in drive.tasks(method.example, 4):
        drive.learn(method, [task], drive.adamw())
        answers[task.name] = drive.logits(method, task)
        for name, was in answers.items():
            assert torch.equal(drive.logits(method, name), was)
            assert torch.equal(drive.answer(method.plain(name), drive.probe(method)), was)


@residual
def test_a_baked_task_is_as_wide_as_it_was(backbone: str) -> None:
    method, todo = drive.make(TFM, backbone, growth=3)
    built = {name: tuple(value.shape) for name, value in method.model.state_dict().items()}
    drive.learn(method, todo)
    for k, task in enumerate(todo):
        plain = method.plain(task.name)
        for name, value in plain.state_dict().items():
            gained = (*method.axes.steps.get(name, (0, 0)), 0, 0)
            assert tuple(value.shape) == tuple(n + 3 * k * s for n, s in zip(built[name], gained, strict=False))


def test_zeros_in_place_of_a_slice_are_close_but_wider() -> None:
    method, todo = drive.make(TFM, "convnet", growth=5)
    drive.learn(method, todo)
    x, last = drive.probe(method), method.plain("c")
    sliced = drive.answer(method.plain("a"), x)
    narrow = method.plain("a").state_dict()
    with torch.no_grad():
        for name, value in last.state_dict().items():
            value.zero_()[tuple(slice(size) for size in narrow[name].shape)] = narrow[name]
    torch.testing.assert_close(drive.answer(last, x), sliced)


# T2: old-old blocks, old biases, norms and heads are frozen; every edge with a new end learns.


@with_a_resnet
def test_edges_with_a_new_end_learn_and_no_others(backbone: str, normalise: bool) -> None:
    method, todo = drive.make(TFM, backbone, growth=3, normalise=normalise)
    drive.learn(method, todo[:2], drive.adamw())
    old = {name: method.sites.base(name).clone() for name in method.sites.weights}
    record = method.record("b")
    private = {name: value.clone() for name, value in record.private.items()}
    drive.begin(method, todo[2])
    start = {name: method.sites.base(name).clone() for name in method.sites.weights}
    drive.train(method, todo[2], drive.adamw()(method), range(4))
    method.end("c")
    for name, was in old.items():
        now, block = method.sites.base(name), tuple(slice(size) for size in was.shape)
        assert torch.equal(now[block], was)
        assert torch.equal(start[name][block], was)
        moved = now != start[name]
        outside = torch.ones_like(moved)
        outside[block] = False
        assert torch.equal(outside, moved)
        rows, columns = method.axes.steps.get(name, (0, 0))
        if rows and columns:
            for part in (now[: len(was), was.shape[1] :], now[len(was) :, : was.shape[1]], now[len(was) :]):
                assert part.any()
    assert not drive.differing(private, dict(record.private))


def test_an_old_unit_computes_something_else_for_a_new_task() -> None:
    method, todo = drive.make(TFM, "mlp_bn", growth=3)
    drive.learn(method, todo[:2])
    seen: dict[str, Tensor] = {}
    for task in ("a", "b"):
        plain = method.plain(task)
        hook = plain[3].register_forward_hook(lambda _, __, y, task=task: seen.update({task: y}))
        drive.answer(plain, drive.probe(method))
        hook.remove()
    assert seen["b"].shape[1] == seen["a"].shape[1] + 3
    assert not torch.allclose(seen["b"][:, : seen["a"].shape[1]], seen["a"])


def test_the_gradient_passes_through_old_units() -> None:
    method, todo = drive.make(TFM, "convnet", growth=3)
    drive.learn(method, todo[:1])
    drive.begin(method, todo[1])
    drive.train(method, todo[1], drive.sgd()(method), range(1))
    grad = method.sites.tensor("2.weight").grad
    assert grad[:6, 4:].any()  # into old units of the layer, from new ones of the layer before
    assert not grad[:6, :4].any()


# T3: what a task does not read may be anything.


@turns
def test_what_is_masked_may_be_anything(backbone: str, normalise: bool) -> None:
    method, todo = drive.make(TFM, backbone, growth=3, normalise=normalise)
    drive.learn(method, todo)
    for task in ("b", "a"):
        before = drive.logits(method, task)
        assert scramble(method, task) > 0
        assert torch.equal(drive.logits(method, task), before)


# T4: three states, counted, and two bits that say them.


@grown
def test_states_are_counted_and_two_bits_say_them(backbone: str) -> None:
    method, todo = drive.make(TFM, backbone, growth=3)
    built = method.widths()
    drive.learn(method, todo)
    now = method.widths()
    assert now == method.widths("c")
    assert now.keys() == {layer for group in method.axes.groups for layer in group}
    before = dict.fromkeys(now, 0)
    for k, task in enumerate(todo):
        at_end = method.widths(task.name)
        for layer, width in at_end.items():
            assert width == built[layer] + 3 * k
            found = states.states(before[layer], width, now[layer])
            counts = [int((found == state).sum()) for state in (states.FORWARD_ONLY, states.NORMAL, states.MASKED)]
            assert counts == [before[layer], width - before[layer], now[layer] - width]
            payload = states.encode(found)
            assert len(payload) == -(-2 * len(found) // 8)
            assert torch.equal(states.decode(payload, len(found)), found)
            assert states.widths(found) == (before[layer], width, now[layer])
        before = at_end


def test_widths_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="expected widths in their order, found 3, 2 and 5"):
        states.states(3, 2, 5)


def test_a_record_holds_widths_gains_and_private_tensors_alone() -> None:
    method, todo = drive.make(TFM, "convnet", growth=3)
    records = drive.learn(method, todo)
    for k, task in enumerate("abc"):
        masks, private = records[task].masks, records[task].private
        assert {name: (packed.shape, packed.nbytes) for name, packed in masks.items()} == {
            "0.weight": ((4 + 3 * k, 1, 1, 1), 4 * (4 + 3 * k)),
            "2.weight": ((6 + 3 * k, 4 + 3 * k, 1, 1), 4 * (6 + 3 * k)),
            "5.weight": ((12 + 3 * k, 54 + 27 * k), 4 * (12 + 3 * k)),
        }
        assert set(private) == {"0.bias", "2.bias", "5.bias", "7.weight", "7.bias"}
        assert private["7.weight"].shape == (5, 12 + 3 * k)
    method, todo = drive.make(TFM, "convnet", growth=3, normalise=False)
    records = drive.learn(method, todo)
    assert all(packed.nbytes == 0 for record in records.values() for packed in record.masks.values())
    assert set(records["c"].private) == {"7.weight", "7.bias"}


# T5: without growth, norms, gains, biases and the head still learn.


@pytest.mark.parametrize("backbone", ["mlp_bn", "convnet"])
def test_without_growth_norms_and_heads_still_learn(backbone: str) -> None:
    method, todo = drive.make(TFM, backbone, growth=0)
    drive.learn(method, todo[:1], drive.adamw())
    base = {name: method.sites.base(name).clone() for name in method.sites.weights}
    first = method.record("a")
    drive.begin(method, todo[1])
    trains = {name for name, _ in method.named_parameters()}
    if backbone == "convnet":
        expected = {"0.bias", "2.bias", "5.bias", "7.weight", "7.bias"}
        assert trains == expected | {"0.weight.scores", "2.weight.scores", "5.weight.scores"}
    else:
        norms = {"1.weight", "1.bias", "4.weight", "4.bias"}
        assert trains == norms | {"0.bias", "3.bias", "6.weight", "6.bias"}
    drive.train(method, todo[1], drive.adamw()(method), range(4))
    method.end("b")
    assert not drive.differing(base, {name: method.sites.base(name) for name in base})
    second = method.record("b")
    assert all(not torch.equal(first.private[name], second.private[name]) for name in second.private if name in trains)
    if backbone == "convnet":
        assert all(not torch.equal(first.masks[name].payload, second.masks[name].payload) for name in base)


# What a task starts from.


@grown
def test_normalisation_goes_on_from_the_last_task(backbone: str) -> None:
    method, todo = drive.make(TFM, backbone, growth=3)
    drive.learn(method, todo[:2], drive.adamw())
    last = method.record("b")
    drive.begin(method, todo[2])
    for name, was in last.private.items():
        now = method.sites.tensor(name)
        if not name.startswith(f"{method.head}."):
            assert torch.equal(now[tuple(slice(size) for size in was.shape)], was)
            filling = 1.0 if name.endswith((".running_var", ".weight")) else 0.0
            assert (now[len(was) :] == filling).all() if was.ndim else True
    for name, scores in method.scores.items():
        was = unpack(last.masks[name]).flatten(1)[:, 0]
        assert torch.equal(scores.flatten()[: len(was)], was)
        assert (scores.flatten()[len(was) :] == 1).all()


def test_a_gain_multiplies_its_row() -> None:
    method, todo = drive.make(TFM, "convnet", growth=3)
    drive.learn(method, todo, drive.adamw())
    for task in "abc":
        gains = method.record(task).masks["2.weight"].payload
        rows, columns = method.record(task).masks["2.weight"].shape[:2]
        assert (gains != 1).all()
        base = method.sites.base("2.weight")[:rows, :columns]
        assert torch.equal(method.plain(task)[2].weight, base * gains.view(-1, 1, 1, 1))


def test_layers_that_keep_their_width_say_why_and_learn_with_the_first_task() -> None:
    method, todo = drive.make(TFM, "encoder", growth=3)
    assert "encoder.layers.0.linear1" not in method.axes.left
    assert "its units mix" in method.axes.left["project"]
    drive.learn(method, todo[:1])
    before = method.sites.base("project.weight").clone()
    drive.learn(method, todo[1:])
    assert torch.equal(method.sites.base("project.weight"), before)


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="expected a growth of at least 0 units, found -1"):
        drive.make(TFM, "convnet", growth=-1)


# The claims in small.


def permuted_digits(make: Callable[[], Method]) -> list[float]:
    """The accuracy of every task of four, at its end; it is the same after the last one."""
    method, tasks, at_end = make(), permuted(4), []
    for task, data in tasks.items():
        fit(method, task, data, adam(1e-3), epochs=12)
        at_end.append(accuracies(method, {task: data})[0])
    assert accuracies(method, tasks) == at_end
    return at_end


@pytest.mark.full
def test_old_units_and_normalisation_help() -> None:
    x = torch.zeros(1, 64)
    full, plain, hidden = (
        mean(score for seed in range(2) for score in permuted_digits(partial(make, seed=seed))[1:])
        for make in (
            lambda seed: TFM(mlp(64, 40, 40, 10), x, growth=8, seed=seed),
            lambda seed: TFM(mlp(64, 40, 40, 10), x, growth=8, seed=seed, normalise=False),
            lambda seed: Independent(mlp(64, 8, 8, 10), x, seed=seed),  # the new units alone
        )
    )
    assert full > plain > hidden, (full, plain, hidden)
    assert full > 90
