"""Records becoming active: what may be mixed, what may not, and never over a task in training."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.contract import drive
from torch import nn

from polymask import HAT, Method, PackNet, Piggyback, SupSup
from polymask.bank.entry import check, seal, to_entry
from polymask.bank.store import DamagedBank
from polymask.parts.binarize import select, straight_through
from polymask.parts.pack import pack, unpack
from polymask.task import TaskRecord, activate


def taught(method: Method, outputs: tuple[int, ...]) -> dict[str, TaskRecord]:
    return drive.learn(method, drive.tasks(method.example, len(outputs), outputs), drive.sgd(), steps=1)


def piggyback(**hyper: object) -> Method:
    return Piggyback(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(4, 4), **hyper)


@pytest.mark.parametrize("alphas", [(), (-0.5, 1.5), (0.0, 0.0), (math.nan, 1.0), (math.inf, 1.0)])
def test_a_mixture_needs_coefficients(alphas: tuple[float, ...]) -> None:
    method = piggyback()
    records = taught(method, (3, 3))
    before = drive.tensors(method.model)
    with pytest.raises(ValueError, match="a mixture of records with coefficients of at least 0"):
        activate(method.sites, list(zip(alphas, records.values(), strict=False)))
    assert not drive.differing(before, drive.tensors(method.model))


def test_heads_of_other_widths_or_classes_are_not_averaged() -> None:
    method = piggyback()
    a, b, c = taught(method, (3, 2, 3)).values()
    with pytest.raises(ValueError, match=r"'a' and 'b' of a mixture to have one shape of their own '2.bias'"):
        activate(method.sites, [(0.5, a), (0.5, b)])
    named = [
        replace(one, meta=replace(one.meta, labels=labels)) for one, labels in ((a, tuple("xyz")), (c, tuple("uvw")))
    ]
    with pytest.raises(ValueError, match=r"'a' and 'c' of a mixture to have the same classes, .* head of its own"):
        activate(method.sites, [(0.5, one) for one in named])
    activate(method.sites, [(0.5, a), (0.5, c)])
    torch.testing.assert_close(method.model[2].bias, (a.private["2.bias"] + c.private["2.bias"]) / 2)


def test_a_head_that_all_share_is_mixed_whatever_its_classes() -> None:
    method, todo = drive.make(SupSup, "convnet")
    a, b = drive.learn(method, todo[:2], drive.sgd(), steps=1).values()
    named = [replace(one, meta=replace(one.meta, labels=(one.meta.task,))) for one in (a, b)]
    activate(method.sites, [(0.0, named[0]), (3.0, named[1])])
    expected = 3 * method.sites.base("0.weight") * unpack(b.masks["0.weight"])
    torch.testing.assert_close(method.model[0].weight, expected)


def test_masks_of_other_shapes_are_not_averaged() -> None:
    method = piggyback()
    a, b = taught(method, (3, 3)).values()
    smaller = replace(b, masks={**b.masks, "0.weight": pack(torch.ones(6, 3, dtype=torch.bool))})
    with pytest.raises(ValueError, match=r"masks of one shape on '0.weight', found \(6, 4\) and \(6, 3\)"):
        activate(method.sites, [(0.5, a), (0.5, smaller)])


def test_a_mixture_masks_the_norms_that_follow_its_units() -> None:
    method, todo = drive.make(partial(HAT, norms="first"), "convnet")
    a, b = drive.learn(method, todo[:2], drive.sgd(), steps=1).values()
    activate(method.sites, a)
    alone = {path: None if site.mask is None else site.mask.clone() for path, site in method.sites.units.items()}
    activate(method.sites, [(1.0, a), (0.0, b)])
    for path, mask in alone.items():
        mixed = method.sites.units[path].mask
        assert (mixed is None) == (mask is None)
        assert mask is None or torch.equal(mixed, mask.to(mixed))


@pytest.mark.parametrize("make", [HAT, PackNet, piggyback, SupSup], ids=["hat", "packnet", "piggyback", "supsup"])
def test_a_task_in_training_is_not_overwritten(make: type[Method]) -> None:
    method = (
        make()
        if make is piggyback
        else make(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(4, 4))
    )
    records = taught(method, (3,))
    logits = drive.answer(method.plain("a"), method.example)
    method.begin("b")
    scores = {name: one.detach().clone() for name, one in method.scores.items()}
    with pytest.raises(RuntimeError, match="expected no task in training, found one"):
        activate(method.sites, records["a"])
    assert method.scores.keys() == scores.keys()
    assert all(torch.equal(method.scores[name], one) for name, one in scores.items())
    assert torch.equal(drive.answer(method.plain("a"), method.example), logits)
    method.abandon()
    activate(method.sites, records["a"])
    assert torch.equal(drive.answer(method.model, method.example), logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_real_mask_leaves_the_dtype_of_a_weight(dtype: torch.dtype) -> None:
    w, mask = torch.randn(3, 4).to(dtype), torch.rand(3, 4)
    assert select(w, mask).dtype == dtype
    torch.testing.assert_close(select(w, mask), w * mask.to(dtype))
    scores = mask.clone().requires_grad_()
    straight_through(w, scores, mask).sum().backward()
    assert scores.grad is not None
    assert scores.grad.dtype == torch.float32


def test_real_masks_of_a_bfloat16_network_are_packed_and_read() -> None:
    mask = torch.rand(3, 5).bfloat16()
    assert torch.equal(unpack(pack(mask)), mask.float())
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).bfloat16()
    method = Piggyback(net, torch.randn(4, 4).bfloat16())
    records = taught(method, (3, 3))
    soft = replace(records["a"], masks={**records["a"].masks, "0.weight": pack(torch.rand(6, 4).bfloat16())})
    for record in (soft, [(0.5, records["a"]), (0.5, records["b"])]):
        activate(method.sites, record)
        assert drive.answer(method.model, method.example).dtype == torch.bfloat16


def test_what_a_record_reads_is_part_of_its_hash() -> None:
    (record,) = taught(piggyback(), (3,)).values()
    entry = {**to_entry(record)[0], "tensors": None}
    sealed = seal(entry)
    check(sealed)
    name = next(iter(entry["reads"]))
    changed = {**entry, "reads": {**entry["reads"], name: "0" * 32}}
    assert seal(changed)["digest"] != sealed["digest"]
    with pytest.raises(DamagedBank, match="the record of task 'a' to have the hash"):
        check({**changed, "digest": sealed["digest"]})
