"""Weights from a seed: constants of one size, signs from the framework's own draw, no two tensors alike."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polymask.parts.draw import signed_constant, signed_scores, voted_scores
from polymask.parts.seeds import generator

shapes = st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple)


@settings(deadline=None, max_examples=60)
@given(shape=shapes, seed=st.integers(0, 10**6))
def test_every_entry_is_the_kaiming_constant(shape: tuple[int, ...], seed: int) -> None:
    w = signed_constant(shape, seed, "a")
    constant = torch.tensor(math.sqrt(2 / math.prod(shape[1:])))
    assert w.shape == shape
    torch.testing.assert_close(w.abs(), constant.expand(shape), rtol=1e-6, atol=0)
    assert len(w.abs().unique()) == 1


def test_the_signs_are_those_of_the_default_initialisation() -> None:
    layer = nn.Linear(30, 20)
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator(4, "fc", "weights"))
    assert torch.equal(signed_constant((20, 30), 4, "fc").sign(), layer.weight.sign())


def test_signs_balance_and_differ_by_seed_and_name() -> None:
    w = signed_constant((100, 100), 0, "a")
    assert abs(float(w.sign().mean())) < 0.05
    assert torch.equal(w, signed_constant((100, 100), 0, "a"))
    for other in (signed_constant((100, 100), 1, "a"), signed_constant((100, 100), 0, "b")):
        assert 0.4 < float((w != other).float().mean()) < 0.6


def test_the_global_state_plays_no_part() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    signed_constant((3, 3), 0, "a")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(4,), (), (4, 0)])
def test_a_shape_without_fan_in_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected a weight of two axes or more for 'bias'"):
        signed_constant(shape, 0, "bias")


def test_voted_scores_come_from_their_generator_alone() -> None:
    votes = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0] * 20)
    first, other = (voted_scores(votes, 2.0, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, other)
    assert bool((first.abs() <= 2.0).all())
    assert first.min() < -1.0
    assert first.max() > 1.0

    assert bool((first < 0).any())
    assert bool((first > 0).any())
    assert first.abs()[votes == 1].min() >= first.abs()[votes == 0].max()


def test_equal_votes_keep_the_order_of_the_draw() -> None:
    """Where torch sorts equal keys in whatever order it likes, machines would differ."""
    votes = torch.zeros(64)
    scores = voted_scores(votes, 1.0, torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(0)
    drawn = torch.empty(64).uniform_(-1.0, 1.0, generator=draw)
    shuffled = torch.randperm(64, generator=draw)
    assert torch.equal(scores[shuffled], drawn[drawn.abs().argsort(descending=True)])


def test_scores_of_a_mask_stay_within_their_bound_and_say_the_mask_again() -> None:
    mask = torch.rand(50, 40, generator=torch.Generator().manual_seed(1)) < 0.3
    before = torch.get_rng_state()
    first, again = (signed_scores(mask, 0.25, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first >= 0, mask)
    assert torch.equal(first, again)
    assert torch.equal(before, torch.get_rng_state())
    assert 0.00025 <= float(first.abs().min()) < 0.002
    assert 0.249 < float(first.abs().max()) <= 0.25
