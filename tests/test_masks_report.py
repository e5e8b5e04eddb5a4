"""What a mask has flipped and would cost coded: by hand, and against the packed size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polymask import Training, learn, load
from polymask.asking.rows import rows_of
from polymask.nets import MLP
from polymask.parts.binarize import as_half
from polymask.parts.pack import pack, pack_scaled, unpack
from polymask.report.masks import flips
from polymask.streams import digits


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


@pytest.mark.parametrize("values", ["binary", "ternary"])
def test_a_scale_flips_nothing(values: str) -> None:
    draw = torch.Generator().manual_seed(0)
    mask = torch.randint(-1 if values == "ternary" else 0, 2, (5, 16), generator=draw).to(torch.int8)
    mask = mask if values == "ternary" else mask.bool()
    plain = flips({"w": mask})
    for scale in (torch.tensor([[0.3]]), torch.rand(5, 1, generator=draw) + 0.1):
        assert flips({"w": unpack(pack_scaled(as_half(scale), mask))}) == plain


@pytest.mark.parametrize("scale", [None, "unit"])
def test_scales_beside_masks_on_units_count_as_no_mask(scale: str | None, tmp_path: Path) -> None:
    training = Training(epochs=2, batch_size=16, lr=0.3, quiet=True, device="cpu")
    options = {"granularity": "unit", "scale": scale}
    run = learn(
        MLP(64, (10, 10), 2), digits(5)[:2], "piggyback", out=tmp_path / "run", options=options, training=training
    )
    units = [unpack(run.method.record("digits/0-1").masks[name]) for name in run.method.sites.units]
    assert rows_of(load(tmp_path / "run", MLP(64, (10, 10), 2)).bank)[0].density == torch.cat(units).float().mean()
