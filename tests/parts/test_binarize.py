"""Masks from scores: exact counts, ties in order, nothing unread leaks, and the straight-through gradient."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polymask.parts.binarize import kept_count, leading, select, straight_through, threshold, top_k

unhurried = settings(deadline=None, max_examples=60)
coarse = st.lists(st.integers(-4, 4), min_size=1, max_size=40)
seeds = st.integers(0, 10**6)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("had", "block"),
    [
        ((2, 3), (2, 3)),
        ((2, 1), (2, 5)),
        ((1, 3), (4, 3)),
        ((3,), (4, 3)),
        ((5,), (4, 5)),
        ((1, 1), (4, 5)),
        ((), (4, 5)),
    ],
    ids=str,
)
def test_a_mask_reads_the_leading_block_of_what_has_grown(had: tuple[int, ...], block: tuple[int, ...]) -> None:
    w = normal(4, 5)
    expected = w[: block[0], : block[1]]
    assert torch.equal(leading(w, torch.ones(had)), expected)
    assert torch.equal(select(w, torch.ones(had, dtype=torch.bool)), expected)


@pytest.mark.parametrize("broken", [float("inf"), float("nan")])
def test_select_keeps_an_unread_infinity_out(broken: float) -> None:
    w, mask = torch.tensor([1.0, broken]), torch.tensor([True, False])
    assert torch.equal(select(w, mask), torch.tensor([1.0, 0.0]))


def test_a_real_mask_multiplies() -> None:
    assert torch.equal(select(torch.tensor([2.0, -2.0]), torch.tensor([0.5, -1.0])), torch.tensor([1.0, 2.0]))


def test_the_threshold_itself_is_off() -> None:
    assert threshold(torch.tensor([0.25, 0.250001]), 0.25).tolist() == [False, True]


@unhurried
@given(n=st.integers(0, 5000), part=st.integers(0, 200))
def test_kept_count_is_the_formula_in_exact_arithmetic(n: int, part: int) -> None:
    rho = Fraction(part, 200)
    assert kept_count(n, part / 200) == n - math.floor((1 - rho) * n)


@unhurried
@given(values=coarse, data=st.data())
def test_top_k_is_a_stable_sort(values: list[int], data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, len(values)))
    order = sorted(range(len(values)), key=lambda i: -abs(values[i]))
    mask = top_k(torch.tensor(values, dtype=torch.float32), keep)
    assert mask.nonzero().flatten().tolist() == sorted(order[:keep])


@unhurried
@given(seed=seeds, keep=st.integers(0, 24), dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_top_k_counts_exactly_in_every_dtype(seed: int, keep: int, dtype: torch.dtype) -> None:
    scores = normal(2, 3, 4, seed=seed).to(dtype)
    mask = top_k(scores, keep)
    assert mask.shape == scores.shape
    assert int(mask.sum()) == keep
    if 0 < keep < 24:
        assert scores[mask].abs().min() >= scores[~mask].abs().max()


def test_top_k_is_a_proper_operator() -> None:
    torch.library.opcheck(top_k, (normal(4, 5), 7))


@unhurried
@given(seed=seeds, signed=st.booleans())
def test_straight_through_agrees_with_autograd(seed: int, signed: bool) -> None:
    w, s, up = normal(4, 5, seed=seed), normal(4, 5, seed=seed + 1), normal(4, 5, seed=seed + 2)
    w, s = w.requires_grad_(), s.requires_grad_()
    mask = (s > 0) if signed else top_k(s, 7)
    (straight_through(w, s, mask, signed=signed) * up).sum().backward()
    through = s if signed else s.abs()
    reference = w * (mask + through - through.detach())
    to_w, to_s = torch.autograd.grad((reference * up).sum(), (w, s))
    assert w.grad is not None
    assert s.grad is not None
    torch.testing.assert_close(w.grad, to_w)
    torch.testing.assert_close(s.grad, to_s)


@pytest.mark.parametrize("shape", [(4, 1, 1, 1), (4, 3, 1, 1), (1, 3, 1, 1), (1, 1, 1, 1)])
def test_broadcast_scores_sum_their_gradient(shape: tuple[int, ...]) -> None:
    w, up = normal(4, 3, 2, 2), normal(4, 3, 2, 2, seed=1)
    s = normal(*shape, seed=2).requires_grad_()
    (straight_through(w, s, s > 0) * up).sum().backward()
    assert s.grad is not None
    torch.testing.assert_close(s.grad, (up * w).sum_to_size(shape))


def test_straight_through_of_a_frozen_weight_asks_for_no_gradient_of_it() -> None:
    w, s = normal(3), normal(3, seed=1).requires_grad_()
    straight_through(w, s, s > 0).sum().backward()
    assert w.grad is None
    assert torch.equal(s.grad, w)  # type: ignore[arg-type]


def test_the_scores_of_a_complex_weight_have_a_real_gradient() -> None:
    w, up = (torch.view_as_complex(normal(4, 5, 2, seed=seed)) for seed in (0, 1))
    s = normal(4, 5, seed=2).requires_grad_()
    (straight_through(w, s, s > 0) * up).sum().real.backward()
    assert s.grad is not None
    torch.testing.assert_close(s.grad, (up * w).real)
