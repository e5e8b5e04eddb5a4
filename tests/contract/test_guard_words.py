"""What the guard takes for a change, and what it says of one: answers, forms, causes, the sentence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.contract import drive
from torch import Tensor, nn
from torch.nn import functional as F

from polymask.held import AlteredNetwork
from polymask.method import guard
from polymask.method.agreement import is_real, same
from polymask.method.answer import Answer, same_answer
from polymask.method.causes import causes, changed_forms, forms
from polymask.methods import HAT, WSN, PackNet
from polymask.parts.pack import Packed, pack, pack_block, pack_soft, unpack
from polymask.parts.soft import soft_mask
from polymask.task import Meta, TaskRecord, reads

NAN = float("nan")


def row(*values: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype)


@pytest.mark.parametrize(
    ("a", "b", "plain", "real"),
    [
        (row(0.0), row(1e-9), False, True),
        (row(NAN, 1.0), row(NAN, 1.0), True, True),
        (row(1000.0, 0.0), row(1000.0, 5e-4), False, True),
        (row(1.0, 0.0), row(1.0, 5e-4), False, False),
        (row(1.0, dtype=torch.bfloat16), row(1.0 + 2**-7, dtype=torch.bfloat16), False, True),
        (row(1.0, 1.0), row(1.0, 1.0, 1.0), False, False),
        (row(1.0), row(1.0, dtype=torch.float64), False, False),
        (row(), row(), True, True),
    ],
    ids=str,
)
def test_two_answers_agree_to_the_bit_or_where_masks_multiply_within_rounding(
    a: Tensor, b: Tensor, plain: bool, real: bool
) -> None:
    assert (same(a, b, real=False), same(a, b, real=True)) == (plain, real)


@pytest.mark.parametrize(
    ("mask", "real"),
    [
        (pack(row(0.5, 1.0)), True),
        (pack_soft(soft_mask(row(0.01, 0.0), 0.005), 8), True),
        (pack(row(0.5) > 0), False),
        (pack_block((2, 3)), False),
    ],
    ids=["real", "soft", "bits", "block"],
)
def test_which_masks_multiply(mask: Packed, real: bool) -> None:
    other = pack(torch.ones(1, dtype=torch.bool))
    assert is_real(TaskRecord({"0": other, "1": mask}, {}, {}, {}, Meta("a", "hat", 2, True))) is real


@pytest.mark.parametrize(
    ("was", "now", "alone", "elsewhere"),
    [
        (row(1.0), row(1.0), True, True),
        (row(1.0), row(1.0 + 1e-6), False, True),
        (row(1.0), row(1.1), False, False),
        (row(1e6), row(1e6 + 350), False, False),
        (row(1e6), row(1e6 + 300), False, True),
        (row(NAN, 1.0), row(NAN, 1.0 + 1e-6), False, True),
        (row(1.0), row(1.0, 1.0), False, False),
        (row(1.0), row(1.0, dtype=torch.float64), False, False),
    ],
    ids=str,
)
def test_an_answer_may_round_otherwise_in_another_setting_alone(
    was: Tensor, now: Tensor, alone: bool, elsewhere: bool
) -> None:
    here, there = {"threads": 1}, {"threads": 2}
    assert same_answer(Answer(was, here), Answer(now, here)) is alone
    assert same_answer(Answer(was, here), Answer(now, there)) is elsewhere


def test_where_masks_multiply_an_answer_may_round_otherwise_in_any_setting() -> None:
    was, near, far = (Answer(row(x), {"threads": 1}) for x in (1.0, 1.0 + 1e-6, 1.001))
    assert same_answer(was, near, real=True)
    assert not same_answer(was, far, real=True)


@pytest.mark.parametrize(
    ("plain", "gap"), [(row(1.5, 1.0), "0.5"), (row(1.0, 1.0, 1.0), "inf")], ids=["values", "shape"]
)
def test_a_baked_copy_that_answers_otherwise_says_by_how_much(plain: Tensor, gap: str) -> None:
    assert f"found logits that differ by {gap}: does" in guard._other_answer("a", row(1.0, 1.0), plain)


def gelu_for_relu(net: nn.Module) -> None:
    net.act = F.gelu


def a_partial(net: nn.Module) -> None:
    net.act = functools.partial(F.relu)


def another_class(net: nn.Module) -> None:
    net[0].__class__ = type("Loud", (nn.Linear,), {})


def a_norm_on_it(net: nn.Module) -> None:
    nn.utils.parametrizations.weight_norm(net[0])


def two_changes(net: nn.Module) -> None:
    net[0], net[1].p = nn.Linear(2, 2), 0.5


def one_for_another(net: nn.Module) -> None:
    del net[1]
    net.add_module("more", nn.ReLU())


def what_is_no_plain_attribute(net: nn.Module) -> None:
    net.cache, net.seen = {"x": 1}, torch.zeros(2)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (gelu_for_relu, ["attribute act of '' went from relu to gelu"]),
        (a_partial, ["attribute act of '' went from relu to partial"]),
        (another_class, ["the class of '0' went from Linear to Loud"]),
        (a_norm_on_it, ["a parametrization that is not ours came or went on '0'"]),
        (two_changes, ["module '0' was replaced by another", "attribute p of '1' went from 0.1 to 0.5"]),
        (one_for_another, ["module '1' is gone", "module 'more' is new"]),
        (what_is_no_plain_attribute, []),
    ],
)
def test_a_change_of_form_is_said_once_and_no_other_is_missed(
    change: Callable[[nn.Module], None], told: list[str]
) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
    net.act = F.relu
    was = forms(net)
    change(net)
    assert changed_forms(was, forms(net)) == told


@pytest.mark.parametrize("kind", [WSN, HAT])
def test_what_is_ours_is_no_part_of_a_form(kind: Callable[..., WSN | HAT]) -> None:
    plain, method = network(), kind(network(), torch.zeros(2, 6))
    assert forms(method.model).keys() == forms(plain).keys()
    assert forms(method.model)["0"]["class"] == "Linear"


OTHER = "other values"


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({}, None),
        ({"0.weight": "bfloat16 instead of float32"}, "the network was converted to another precision"),
        ({"0.weight": "float64 instead of float32", "0.bias": OTHER}, "the network was converted to another precision"),
        ({"0.weight": OTHER}, "the network went through another precision and back"),
        ({"0.weight": OTHER, "3.weight": OTHER}, "weights were loaded or drawn again"),
        ({"body.1.running_mean": OTHER, "running_var": OTHER}, "statistics were reset or updated"),
        ({"3.weight": OTHER}, "somebody wrote to it"),
    ],
    ids=str,
)
def test_the_likeliest_cause_comes_first(found: dict[str, str], why: str | None) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    method = PackNet(net, torch.zeros(2, 4))
    method.sites.write("0.weight", method.sites.base("0.weight").half().float())
    told = causes(method.sites, found, ["hooks came"])
    assert told[-1] == "hooks came"
    assert len(told) == (1 if why is None else 2)
    assert why is None or told[0].startswith(why)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def learned(names: str) -> WSN:
    method = WSN(network(), torch.randn(4, 6))
    drive.learn(method, [drive.Task(name, method.example) for name in names], steps=1)
    return method


def test_the_sentence_names_four_and_counts_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    method = learned("a")
    for n in (4, 5, 6):
        monkeypatch.setattr(guard, "_harmed", lambda *_, n=n: list("abcdef"[:n]))
        told = guard._sentence(method, "end('z')", dict.fromkeys("klmnop"[:n], OTHER), [])
        rest, tasks = ("" if n == 4 else f", {n - 4} more tensors changed"), ("" if n == 4 else f" and {n - 4} more")
        tensors = ", ".join(f"'{name}' has other values" for name in "klmn")
        assert f"found at end('z') that {tensors}{rest}: task 'a', 'b', 'c', 'd'{tasks} would answer" in told
    monkeypatch.undo()
    assert guard._sentence(method, "check()", {"k": "gone", "l": OTHER}, ["m"]) == (
        "expected what finished tasks read to be as it was when task 'a' ended, found at check() that 'k' is gone, 'l' "
        "has other values, m: task 'a' would answer otherwise. Probably weights were loaded or drawn again "
        "(load_state_dict, reset_parameters, apply). Undo it, bring the base back with method.restore(bank), or make "
        "the network and the method anew and go on from the bank; this call changed nothing"
    )
    assert "Probably code changed. Undo" in guard._sentence(method, "check()", {}, ["m"])
    method.model[1].inplace, method.model[3].inplace = True, True
    assert "'1' went from False to True; attribute" in guard._sentence(method, "check()", {}, ["m"])


def test_exactly_the_tasks_that_read_what_changed_are_named() -> None:
    method = learned("abc")
    before = method.sites.base("0.weight").clone()
    for k, (task, record) in enumerate(list(method.records.items()), 2):
        mask = torch.arange(48).view(8, 6) % 5 < k
        packed = {**record.masks, "0.weight": pack(mask)}
        read = reads(method.sites, {name: unpack(one) for name, one in packed.items()})
        method.records[task] = replace(record, masks=packed, reads=read)
    method.watch = guard.watch_from_records(method)
    for place, harmed in (((0, 0), "'a', 'b', 'c'"), ((0, 2), "'b', 'c'"), ((0, 3), "'c'")):
        now = before.clone()
        now[place] += 1
        method.sites.write("0.weight", now)
        with pytest.raises(AlteredNetwork, match=f": task {harmed} would answer otherwise"):
            method.check()
    now = before.clone()
    now[0, 4] += 1
    method.sites.write("0.weight", now)
    method.check()


def test_what_only_the_first_of_several_tasks_reads_is_watched() -> None:
    method = PackNet(network(), torch.randn(4, 6), reuse=False)
    drive.learn(method, drive.tasks(method.example), steps=1)
    first = unpack(method.record("a").masks["0.weight"])
    assert first.any()
    method.sites.write("0.weight", method.sites.base("0.weight") + first.float())
    with pytest.raises(AlteredNetwork, match=r"'0\.weight' has other values: task 'a' would"):
        method.check()
