"""What each toy is there to prove, beside the contract that it passes like any method."""

from __future__ import annotations

import pytest
import torch
from tests.contract import drive
from tests.contract.toys import Anchored, Growing, UnitGates
from torch import Tensor

from polymask.method.contract import Method
from polymask.method.own import import_method
from polymask.parts.binarize import leading
from polymask.parts.pack import unpack
from polymask.parts.sparse import densify
from polymask.sites.table import bake
from polymask.task import fingerprint


def weight(method: drive.Method, name: str) -> Tensor:
    """A weight as the active task reads it."""
    return method.model.get_submodule(name.removesuffix(".weight")).weight.detach().clone()


def test_units_are_masked_by_their_layers_name_at_one_bit_a_unit() -> None:
    method, todo = drive.make(UnitGates, "convnet")
    records = drive.learn(method, todo, drive.adamw())
    assert method.sites.units.keys() == records["a"].masks.keys() == {"0", "2", "5"}
    assert not method.sites.weights
    assert {name: packed.shape for name, packed in records["a"].masks.items()} == {"0": (4,), "2": (6,), "5": (12,)}
    assert records["a"].masks["5"].nbytes == 2
    assert len({tuple(record.masks["5"].payload.tolist()) for record in records.values()}) > 1


def test_a_masked_unit_is_zero_and_its_rows_are_baked_away() -> None:
    method, todo = drive.make(UnitGates, "convnet")
    records = drive.learn(method, todo[:2], drive.adamw())
    for task, record in records.items():
        method.activate(task)
        off = ~unpack(record.masks["0"])
        assert off.any()
        seen = method.model[0](drive.probe(method))
        assert not seen[:, off].any()
        assert seen[:, ~off].flatten(2).any(2).all()
        plain = bake(method.model)
        assert not plain[0].weight[off].any()
        assert not plain[0].bias[off].any()
        assert torch.equal(plain[0].weight[~off], method.sites.tensor("0.weight")[~off])


def test_scores_of_units_stand_under_their_layers_name_and_are_baked_while_they_train() -> None:
    method, todo = drive.make(UnitGates, "convnet")
    drive.begin(method, todo[0])
    drive.train(method, todo[0], drive.adamw()(method), range(3))
    names = [name for name, _ in method.named_parameters() if name.endswith(".scores")]
    assert names == ["0.scores", "2.scores", "5.scores"]
    assert set(names) <= set(method.model.state_dict())
    x = drive.probe(method)
    assert torch.equal(drive.answer(bake(method.model), x), drive.answer(method.model, x))


def test_what_masked_units_read_may_change_and_the_fingerprint_does_not() -> None:
    method, todo = drive.make(UnitGates, "convnet")
    record = drive.learn(method, todo[:1], drive.adamw())["a"]
    w = method.sites.tensor("0.weight").clone()
    mask = unpack(record.masks["0"]).to(w.device)[:, None, None, None]
    assert record.reads["0.weight"] == fingerprint(w, mask) == fingerprint(w.masked_fill(~mask, 7.0), mask)
    assert record.reads["0.weight"] != fingerprint(w)


def test_the_penalty_and_its_gradient_start_at_zero() -> None:
    method, todo = drive.make(Anchored, "convnet")
    drive.learn(method, todo[:1], drive.adamw())
    drive.begin(method, todo[1])
    penalty = method.penalty()
    assert penalty == 0
    penalty.backward()
    for name in method.sites.weights:
        assert not method.sites.tensor(name).grad.any()
    drive.train(method, todo[1], drive.adamw()(method), range(3))
    assert method.penalty() > 0


def test_older_records_are_reissued_with_a_reason_whenever_the_shared_weights_move() -> None:
    method, todo = drive.make(Anchored, "convnet")
    kept: dict[str, dict[str, Tensor]] = {}
    for count, task in enumerate(todo):
        for phase in method.phases:
            drive.begin(method, task, phase)
            drive.train(method, task, drive.adamw()(method), range(4))
        issued = method.end(task.name)
        assert list(issued) == [one.name for one in todo[: count + 1]]
        for place, (name, record) in enumerate(issued.items()):
            assert record is method.record(name)
            assert record.meta.revision == count - place
            assert bool(record.meta.reason) == (place < count)
            assert record.reads == issued[task.name].reads
        kept[task.name] = {name: weight(method, name) for name in method.sites.weights}
    moved = 0.0
    for task, weights in kept.items():
        method.activate(task)
        for name, was in weights.items():
            torch.testing.assert_close(weight(method, name), was, rtol=1e-6, atol=1e-7)
            base, record = method.sites.base(name), method.record(task)
            assert torch.equal(weight(method, name), base + densify(record.deltas[name]).to(base))
            moved = max(moved, float((base - was).abs().max()))
    assert moved > 0.01  # the corrections carry something


def test_without_its_reissued_records_the_penalty_alone_forgets() -> None:
    method, todo = drive.make(Anchored, "convnet")
    old = drive.learn(method, todo[:1], drive.adamw())["a"]
    before = drive.logits(method, "a")
    drive.learn(method, todo[1:], drive.adamw())
    assert (drive.logits(method, "a") - before).abs().max() < 1e-5
    method.activate(old)
    assert (drive.answer(method.model, drive.probe(method)) - before).abs().max() > 1e-2


@pytest.mark.parametrize(("backbone", "layer", "head"), [("mlp_bn", "3", "6"), ("convnet", "5", "7")])
def test_a_layer_grows_and_every_task_reads_it_as_wide_as_it_was(backbone: str, layer: str, head: str) -> None:
    method, todo = drive.make(Growing, backbone)
    built = tuple(method.sites.tensor(f"{layer}.weight").shape)
    blocks, hashes = [], []
    for task in todo:
        drive.learn(method, [task], drive.kept())
        blocks.append(method.sites.base(f"{layer}.weight").clone())
        hashes.append(method.record(task.name).reads[f"{layer}.weight"])
    widths = [built[0] + 2 * k for k in range(3)]
    assert [len(block) for block in blocks] == widths
    base = method.sites.base(f"{layer}.weight")
    for task, block, width, read in zip(todo, blocks, widths, hashes, strict=True):
        assert torch.equal(base[:width], block)
        method.activate(task.name)
        plain = bake(method.model)
        hidden, last = plain.get_submodule(layer), plain.get_submodule(head)
        assert (hidden.out_features, last.in_features) == (width, width)
        assert hidden.weight.shape == (width, built[1])
        assert hidden.bias.shape == (width,)
        mask = unpack(method.record(task.name).masks[f"{layer}.weight"]).to(base.device)
        assert fingerprint(leading(base, mask), mask) == read
        assert base[width - 2 : width].any()


@pytest.mark.parametrize("backbone", ["mlp_bn", "convnet"])
def test_what_an_abandoned_task_grew_is_gone(backbone: str) -> None:
    method, todo = drive.make(Growing, backbone)
    drive.learn(method, todo[:2])
    before = drive.tensors(method.model)
    drive.begin(method, todo[2])
    drive.train(method, todo[2], drive.adamw()(method), range(3))
    grown = drive.tensors(method.model)
    assert any(grown[name].shape != value.shape for name, value in before.items() if name in grown)
    method.abandon()
    assert not drive.differing(before, drive.tensors(method.model))


class Nameless(Method):
    """Lacks all that a method declares, and how it opens."""


SOMETHING = 3


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (
            "tests.contract.test_toys:Nameless",
            "to have _open, name, card, recipes, found a class without: write",
        ),
        ("tests.contract.test_toys:SOMETHING", "inherits from polymask.Method, found 3, which does not: write one as"),
        ("tests.contract.test_toys:SMALLEST", "that can be imported, found 'tests.contract.test_toys:SMALLEST'"),
        ("tests.contract.test_toys", "that can be imported, found 'tests.contract.test_toys'"),
        (":Nameless", "that can be imported, found ':Nameless'"),
    ],
)
def test_what_is_no_method_is_refused_by_what_it_lacks(address: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        import_method(address)
    assert import_method("tests.contract.toys:UnitGates") is UnitGates
