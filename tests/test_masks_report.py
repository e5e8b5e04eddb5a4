"""What a mask has flipped and would cost coded: by hand, and against the packed size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polymask.parts.pack import pack
from polymask.report.masks import flips


@given(st.lists(st.integers(-1, 1), min_size=1, max_size=200), st.booleans())
def test_no_code_is_longer_than_the_packed_mask(values: list[int], ternary: bool) -> None:
    mask = torch.tensor(values, dtype=torch.int8)
    mask = mask if ternary or -1 in values else mask.bool()
    found = flips({"w": mask})["w"]
    assert found.flipped == sum(value != 1 for value in values)
    assert found.packed_bytes == pack(mask).nbytes
    assert 0 <= found.coded_bytes <= found.packed_bytes


def test_a_fraction_of_a_per_cent_costs_a_fiftieth_of_a_bit() -> None:
    mask = torch.ones(100_000, dtype=torch.bool)
    mask[:200] = False
    found = flips({"w": mask})[""]
    assert found.rate == pytest.approx(0.002)
    assert found.coded_bytes == pytest.approx(100_000 * 0.0208 / 8, rel=0.01)


def test_no_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one mask, found none"):
        flips({})
