"""Where samples lie: what is asked with, what batches have in common, what a pass that goes another way does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymask.mixed.layout import CLOSE, Layout, decode_layout, key_of, rearranged, signature, variants
from polymask.mixed.routes import Mark, Routes, readings
from polymask.mixed.turns import Layer, Together, Unlike

FLAGS = torch.tensor([0, 1, 2, 1])


def test_probes_change_the_samples_that_their_bit_says_and_fractions_alone() -> None:
    x = (torch.randn(4, 3), FLAGS, torch.randn(2, 3))
    plain, changed, low, high = variants(x, 4)
    assert torch.equal(plain[0], x[0])
    for probe, rows in ((changed, [0, 1, 2, 3]), (low, [1, 3]), (high, [2, 3])):
        assert (probe[0] != x[0]).any(1).nonzero().squeeze(1).tolist() == rows
        assert torch.equal(probe[1], FLAGS)
        assert torch.equal(probe[2], x[2])


def test_large_values_are_changed_by_as_much() -> None:
    x = 1e6 * torch.rand(4, 3)
    plain, changed, *_ = variants(x, 4)
    assert ((changed - plain).abs() > 1e3).all()


def test_of_numbers_the_smallest_becomes_the_largest_and_the_others_the_smallest() -> None:
    _, changed, low, _ = variants((FLAGS, torch.tensor([1, 0, 1, 0])), 4)
    assert changed[0].tolist() == [2, 0, 0, 0]
    assert low[0].tolist() == [0, 0, 2, 0]
    # A second tensor of two kinds may be a mask.
    assert changed[1].tolist() == [1, 0, 1, 0]
    assert variants(torch.tensor([5, 7, 7, 5]), 4)[1].tolist() == [7, 5, 5, 7]


def test_features_are_changed_each_otherwise() -> None:
    # What all features of a sample have in common a norm takes out again.
    for shape in ((4, 3), (4, 3, 2)):
        plain, changed, *_ = variants(torch.randn(shape), 4)
        assert (changed - plain)[0].std(0).min() > 1e-3


def test_of_several_tensors_of_numbers_each_is_changed() -> None:
    x = (torch.tensor([0, 1, 2, 1]), torch.tensor([0, 1, 2, 3]))
    assert [torch.equal(one, other) for one, other in zip(variants(x, 4)[1], x, strict=True)] == [False, False]


def test_samples_change_places_whole() -> None:
    tokens = torch.tensor([[0, 1], [2, 3], [4, 5]])
    x = (torch.randn(3, 2), tokens)
    rolled, exchanged = rearranged(x, 3)
    assert rolled[1].tolist() == [[4, 5], [0, 1], [2, 3]]
    assert exchanged[1].tolist() == [[5, 1], [2, 3], [4, 0]]
    assert all(torch.equal(other[0], x[0]) for other in (rolled, exchanged))


def test_numbers_are_rearranged_each_tensor_otherwise() -> None:
    x = (torch.randn(4, 2), FLAGS, FLAGS.clone())
    rolled, exchanged = rearranged(x, 4)
    assert torch.equal(rolled[0], x[0])
    assert [t.tolist() for t in rolled[1:]] == [[1, 0, 1, 2], [2, 1, 0, 1]]
    assert [t.tolist() for t in exchanged[1:]] == [[2, 1, 0, 1]] * 2
    assert rearranged((x[0], torch.ones(4, dtype=torch.long)), 4) == []


def same(one: Any, other: Any) -> bool:
    return key_of(one, 4) == key_of(other, 4)


def test_batches_are_alike_by_shapes_and_by_numbers_that_are_few() -> None:
    x, tokens = torch.randn(4, 2), torch.arange(8).view(4, 2)
    assert same({"x": x, "t": tokens}, {"x": x + 1, "t": tokens + 1})
    assert not same(x, torch.randn(4, 3))
    assert not same(x, x.double())
    assert not same((x, FLAGS), (x, FLAGS + 1))
    assert not same((x, FLAGS > 0), (x, FLAGS > 9))
    assert same((x, FLAGS), (x, FLAGS.flip(0)))
    assert not same((x, 1), (x, 2))
    assert not same({"a": x}, {"b": x})
    assert not same((x, torch.tensor([0.0, 1.0])), (x, torch.tensor([0.0, 2.0])))
    assert not same((x, torch.tensor(0)), (x, torch.tensor(1)))
    assert len({key_of((x, torch.tensor([0.0, 1.0])), 4), key_of((x, torch.tensor([0.0, 1.0])), 4)}) == 1


class One:
    """It says no more of itself than Other."""

    def __repr__(self) -> str:
        return "a value"


class Other(One):
    """It says no more of itself than One."""


def test_what_is_nested_and_what_is_no_tensor_is_told_apart() -> None:
    x = torch.randn(4, 2)
    assert not same({"a": x}, {"a": x[:, :1]})
    assert not same((x,), [x])
    assert not same((x, One()), (x, Other()))
    four = torch.arange(4)
    assert not same((x, four), (x, four + 1))
    assert key_of((x, torch.arange(5)), 5) == key_of((x, torch.arange(5) + 1), 5)


def test_a_layout_fits_what_has_its_places() -> None:
    layout = Layout(1, torch.tensor([0, 1]))
    assert layout.fits(torch.ones(3, 2, 5), -1)
    assert layout.fits(torch.ones(3, 5, 2), 1)
    assert not layout.fits(torch.ones(3, 4, 5), -1)
    assert not layout.fits(torch.ones(3, 5), -1)
    assert Layout(0, torch.tensor([0, 1])).fits(torch.ones(2, 5), None)
    assert not layout.same(Layout(0, layout.owner))
    assert not layout.same(Layout(1, torch.tensor([1, 0])))


def test_what_fits_several_places_is_not_guessed() -> None:
    plain = torch.zeros(2, 2)
    # One position alone changes, and either axis would explain it.
    changed, bit = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.zeros(2, 2)
    assert decode_layout("layer", [plain, changed, bit], 2) is None
    found = decode_layout("layer", [plain, torch.ones(2, 2), torch.tensor([[0.0, 0.0], [1.0, 1.0]])], 2)
    assert found is not None
    assert found.same(Layout(0, torch.tensor([0, 1])))


def test_a_position_between_two_samples_is_nobodys() -> None:
    plain, changed, high = torch.zeros(4), torch.full((4,), 2.0), torch.tensor([0.0, 0.0, 2.0, 2.0])
    rounding = float(CLOSE * changed[0])
    for off in (0.0, rounding):
        found = decode_layout("layer", [plain, changed, torch.tensor([off, 2.0, off, 2.0]), high], 4)
        assert found is not None
        assert found.same(Layout(0, torch.arange(4)))
    with pytest.raises(ValueError, match="found them mixed"):
        decode_layout("layer", [plain, changed, torch.tensor([1.1 * rounding, 2.0, 0.0, 2.0]), high], 4)


def test_a_position_that_no_sample_changes_is_nobodys() -> None:
    plain, changed, bit = ([[0.0, 5.0]] * 2, [[1.0, 5.0]] * 2, [[0.0, 5.0], [1.0, 5.0]])
    found = decode_layout("layer", [torch.tensor(rows) for rows in (plain, changed, bit)], 2)
    assert found is not None
    assert found.same(Layout(0, torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="found them mixed or not there"):
        decode_layout("layer", [torch.tensor(plain)] * 3, 2)


def test_large_values_that_were_rounded_otherwise_are_nobodys() -> None:
    big = 1e6
    plain, changed, bit = ([[0.0, big]] * 2, [[1.0, big + 1]] * 2, [[0.0, big + 1], [1.0, big]])
    found = decode_layout("layer", [torch.tensor(rows) for rows in (plain, changed, bit)], 2)
    assert found is not None
    assert found.same(Layout(0, torch.tensor([0, 1])))


@pytest.mark.parametrize(
    ("axis", "units", "shape"), [(0, 1, (3, 4, 1)), (1, 1, (1, 4, 3)), (0, 0, (4, 3, 1)), (1, -1, (1, 3, 4))]
)
def test_values_are_spread_over_the_axes_of_units_and_samples(axis: int, units: int, shape: tuple[int, ...]) -> None:
    values, index = torch.arange(8.0).view(2, 4), torch.tensor([1, 0, 1])
    found = Layout(axis, torch.arange(3)).spread(values, index, 3, units)
    assert found.shape == shape
    there = found.squeeze() if shape.index(3) < shape.index(4) else found.squeeze().T
    assert torch.equal(there, values[index])


def test_a_signature_has_a_number_for_every_place() -> None:
    x = nn.functional.layer_norm(torch.randn(4, 3, 2), (2,))
    assert [signature(x, units).shape for units in (-1, 1, None)] == [(4, 3), (4, 2), (4,)]
    assert (signature(x, -1).abs() > 1e-3).all(), "a plain sum is 0"
    assert torch.equal(signature(x[:, 0, 0], None), x[:, 0, 0])
    assert signature(x[:, 0], -1).shape == (4,)


def layer(path: str = "up") -> Layer:
    plain = nn.Linear(2, 2)
    return Layer(path, lambda x, spread: x * spread(torch.tensor([[1.0, 1.0], [2.0, 2.0]]), x), plain, -1, -1)


def test_a_pass_that_calls_its_layers_otherwise_is_found() -> None:
    index = torch.tensor([1, 0])
    turn = Together({"up": [Layout(0, torch.tensor([0, 1]))]}, index)
    with pytest.raises(Unlike):
        turn.finish()
    assert turn.answer(layer(), torch.ones(2, 2)).tolist() == [[2.0, 2.0], [1.0, 1.0]]
    turn.finish()
    for path, x in (("up", torch.ones(2, 2)), ("down", torch.ones(2, 2))):
        with pytest.raises(Unlike):
            turn.answer(layer(path), x)
    with pytest.raises(Unlike):
        Together(turn.layouts, index).answer(layer(), torch.ones(3, 2))


def test_a_layer_whose_units_come_before_its_samples() -> None:
    gains = torch.tensor([[1.0, 1.0, 1.0], [2.0, 3.0, 4.0]])
    one = Layer("up", lambda x, spread: x * spread(gains, x), nn.Identity(), 1, 1)
    turn = Together({"up": [Layout(1, torch.tensor([0, 1]))]}, torch.tensor([1, 0]))
    assert turn.answer(one, torch.ones(1, 3, 2)).tolist() == [[[2, 1], [3, 1], [4, 1]]]


def _copied(x: Tensor, named: bool = False) -> Tensor:
    y = torch.zeros(4, 2)
    torch.ops.aten._foreach_add.Scalar_out([x], 1.0, out=[y]) if named else torch._foreach_copy_([y], [x])
    return y


X, ORDER = torch.randn(4, 2), torch.tensor([2, 0, 1, 3])
WAYS: dict[str, tuple[Any, bool]] = {
    "index": (lambda x, n: x[n], True),
    "index by constants": (lambda x, n: x[torch.tensor([1, 0])], False),
    "index of a constant": (lambda x, n: torch.eye(4)[n], False),
    "view of what was sent": (lambda x, n: x[n].view(2, 4).relu() + 1, True),
    "written in place": (lambda x, n: torch.zeros(4, 2).index_put_((n,), x), True),
    "written where nothing is returned": (lambda x, n: _copied(x[n]), True),
    "written to what is named": (lambda x, n: _copied(x[n], named=True), True),
    "a function of every row": (lambda x, n: torch.ops.higher_order.map_impl(lambda t: (t.sin(),), (x,), ())[0], True),
    "written to a view": (lambda x, n: torch.zeros(4, 2).view(8)[:] + 0 * x[n].view(8), True),
    "one-hot product": (lambda x, n: nn.functional.one_hot(n, 4).float() @ x, True),
    "mask": (lambda x, n: torch.where((n > 1)[:, None], x, -x).masked_fill_((n > 2)[:, None], 0.0), False),
    "sum under a mask": (lambda x, n: x * (n > 1)[:, None].float(), False),
    "row of a permutation": (lambda x, n: torch.eye(4)[x[:, 0].argsort()] @ x, True),
    "words and their products": (lambda x, n: (w := nn.functional.embedding(n, torch.ones(4, 3))) @ w.T @ x, False),
    "flag of a fraction": (lambda x, n: (x > 0).float() @ torch.ones(2, 2) * x, False),
    "joined": (lambda x, n: torch.cat([x, n[:, None].float()], 1), False),
    "attention": (
        lambda x, n: nn.functional.scaled_dot_product_attention(x[None], x[None], x[None], (n > -1)[None, None]),
        False,
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_where_values_choose_places_is_seen(way: str) -> None:
    how, routed = WAYS[way]
    with Routes((X, ORDER), []) as routes:
        y: Tensor = how(X, ORDER)
    assert bool(routes.of(y) & Mark.ROUTED) == routed
    assert routes.of(y) & Mark.BATCH
    assert not routes.of(torch.ones(1))


def test_what_python_reads_is_noted() -> None:
    found: list[object] = []
    x = torch.tensor([1.0, 2.0])
    with readings(found):
        _ = bool(x.max() > 1), x[0].item(), x.tolist(), x.numpy(), torch.equal(x, x), len(x), x.shape
    assert found == [True, 1.0, [1.0, 2.0], [1.0, 2.0], True]


def test_what_has_no_memory_of_its_own_has_no_mark() -> None:
    links = torch.eye(4).to_sparse()
    with Routes(X, [(links, "links")]) as routes:
        y = torch.sparse.mm(links, X)
    assert routes.of(y) & Mark.BATCH
    assert routes.of(links) == Mark(0)
    assert routes.of(torch.ones(1)) == Mark(0)


def test_reading_a_layers_tensor_elsewhere_is_noted() -> None:
    w = torch.ones(2, 2)
    with Routes(X, [(w, "up")]) as routes:
        with routes.inside("up"):
            _ = X @ w.T
        assert not routes.elsewhere
        _ = w.T + 1
    assert routes.elsewhere == {"up"}
