"""Draws hang on their keys alone: not on order, not on the global state, not on the process."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymask.parts.seeds import generator, seed_of

keys = st.lists(st.one_of(st.integers(), st.text("abc:/ ", max_size=5)), min_size=1, max_size=4)


@settings(deadline=None, max_examples=100)
@given(one=keys, other=keys)
def test_a_seed_tells_its_keys_apart(one: list[object], other: list[object]) -> None:
    assert 0 <= seed_of(*one) < 2**63
    same = [(type(key), key) for key in one] == [(type(key), key) for key in other]
    assert (seed_of(*one) == seed_of(*other)) == same


def test_a_number_is_not_its_digits() -> None:
    assert len({seed_of(1), seed_of("1"), seed_of(1.0), seed_of("1", ""), seed_of("", "1")}) == 5


def test_seeds_are_the_same_on_every_machine() -> None:
    assert seed_of(0, "digits", "order") == 5989567937499465698


def test_a_generator_leaves_the_global_state_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = torch.rand(4, generator=generator(0, "a"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(torch.rand(4, generator=generator(0, "a")), first)
    assert not torch.equal(torch.rand(4, generator=generator(0, "b")), first)
