"""Exact counts when pruning, shares that come out equal, budgets that follow the layer's width."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymask.parts.sparsity import equal_share, layer_budget, smallest

unhurried = settings(deadline=None, max_examples=60)
entries = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=40)


@unhurried
@given(rows=entries, data=st.data())
def test_smallest_is_a_stable_sort_among_what_may_be_chosen(rows: list[tuple[int, bool]], data: st.DataObject) -> None:
    w, among = torch.tensor([float(v) for v, _ in rows]), torch.tensor([m for _, m in rows])
    count = data.draw(st.integers(0, int(among.sum())))
    order = sorted((i for i, (_, m) in enumerate(rows) if m), key=lambda i: abs(rows[i][0]))
    assert smallest(w, among, count).nonzero().flatten().tolist() == sorted(order[:count])


def test_smallest_keeps_the_shape_and_the_weight() -> None:
    w = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    before = w.clone()
    assert smallest(w, torch.ones_like(w, dtype=torch.bool), 5).shape == w.shape
    assert torch.equal(w, before)


def test_smallest_says_when_it_cannot() -> None:
    with pytest.raises(ValueError, match="expected at most 1 entries to prune, found 2"):
        smallest(torch.ones(2), torch.tensor([True, False]), 2)


@unhurried
@given(tasks=st.integers(1, 60))
def test_equal_shares_are_equal(tasks: int) -> None:
    free, kept = 1.0, []
    for position in range(1, tasks + 1):
        share = equal_share(position, tasks)
        kept.append(free * (1 - share))
        free *= share
    assert kept == pytest.approx([1 / tasks] * tasks)
    assert free == 0


@unhurried
@given(
    shape=st.tuples(st.integers(1, 64), st.integers(1, 64), st.integers(1, 5), st.integers(1, 5)),
    s=st.sampled_from([1, 2, 4, 8, 16, 32]),
)
def test_a_budget_buys_about_s_times_the_layers_width(shape: tuple[int, ...], s: int) -> None:
    rho, n = layer_budget(shape, s), math.prod(shape)
    assert 0 < rho <= 0.5
    assert rho * n == pytest.approx(min(0.5 * n, s * (shape[0] + shape[1])))


def test_of_many_equal_entries_the_first_are_chosen() -> None:
    """Where torch sorts equal keys in whatever order it likes, machines would differ."""
    w = torch.arange(5000).remainder(3).float()
    chosen = smallest(w, torch.ones(5000, dtype=torch.bool), 2000)
    order = sorted(range(5000), key=lambda i: float(w[i]))
    assert chosen.nonzero().flatten().tolist() == sorted(order[:2000])
