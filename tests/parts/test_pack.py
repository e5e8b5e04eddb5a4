"""The byte format: every bit where the format says, sizes exact, damage noticed."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polymask.parts.pack import code_bits, owners, pack, pack_block, pack_owners, unpack
from polymask.parts.sparse import densify, sparsify

unhurried = settings(deadline=None, max_examples=60)
shapes = st.lists(st.integers(0, 6), max_size=4).map(tuple)


def bits_of(payload: Tensor, n: int) -> list[int]:
    """Bit ``i % 8``, least significant first, of byte ``i // 8``: the format, spelled out."""
    return [(int(payload[i // 8]) >> (i % 8)) & 1 for i in range(n)]


@unhurried
@given(shape=shapes, seed=st.integers(0, 10**6))
def test_a_mask_survives_at_one_bit_an_entry(shape: tuple[int, ...], seed: int) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.5
    packed = pack(mask)
    n = mask.numel()
    assert packed.nbytes == -(-n // 8)
    assert bits_of(packed.payload, n) == mask.flatten().int().tolist()
    assert n % 8 == 0 or int(packed.payload[-1]) >> (n % 8) == 0
    assert torch.equal(unpack(packed), mask)


@unhurried
@given(codes=st.lists(st.integers(0, 255), max_size=40), data=st.data())
def test_owners_survive_at_their_own_width(codes: list[int], data: st.DataObject) -> None:
    largest = data.draw(st.integers(max([*codes, 1]), 255))
    level = data.draw(st.integers(0, 255))
    plane = torch.tensor(codes, dtype=torch.uint8)
    packed = pack_owners(plane, level, largest)
    bits = largest.bit_length()
    assert packed.bits == code_bits(largest) == bits
    plane_bytes = -(-len(codes) // 8)
    assert packed.nbytes == bits * plane_bytes
    for j, payload in enumerate(packed.payload.view(bits, plane_bytes)):
        assert bits_of(payload, len(codes)) == [(c >> j) & 1 for c in codes]
    assert torch.equal(owners(packed), plane)
    assert unpack(packed).tolist() == [0 < c <= level for c in codes]


def test_levels_of_one_plane_are_nested() -> None:
    plane = torch.tensor([[0, 1, 2], [3, 4, 1]], dtype=torch.uint8)
    masks = [unpack(pack_owners(plane, level, 4)) for level in (1, 2, 3, 4)]
    for inner, outer in pairwise(masks):
        assert bool((inner <= outer).all())
    assert torch.equal(masks[-1], plane > 0)


def test_a_mask_that_is_not_contiguous_is_packed_in_c_order() -> None:
    mask = (torch.arange(12).view(3, 4) % 3 == 0).t()
    assert torch.equal(unpack(pack(mask)), mask)


@unhurried
@given(shape=shapes, seed=st.integers(0, 10**6))
def test_a_sparse_tensor_survives(shape: tuple[int, ...], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    dense = torch.randn(shape, generator=draw) * (torch.rand(shape, generator=draw) > 0.7)
    sparse = sparsify(dense)
    assert len(sparse.index) == int((dense != 0).sum())
    assert torch.equal(densify(sparse), dense)


def test_a_pack_does_not_share_memory_with_its_mask() -> None:
    mask = torch.ones(8, dtype=torch.bool)
    packed = pack(mask)
    mask.fill_(False)
    assert bool(unpack(packed).all())


def test_damage_is_noticed() -> None:
    packed = pack(torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="expected 2 bytes"):
        unpack(replace(packed, payload=packed.payload[:1]))
    with pytest.raises(ValueError, match="expected the codec"):
        unpack(replace(packed, codec="runs"))


@given(codes=st.lists(st.integers(0, 9), min_size=1, max_size=40), level=st.integers(1, 9), data=st.data())
def test_a_view_from_one_code_to_another(codes: list[int], level: int, data: st.DataObject) -> None:
    least = data.draw(st.integers(1, level))
    plane = pack_owners(torch.tensor(codes, dtype=torch.uint8), level, 9, least)
    assert unpack(plane).tolist() == [least <= code <= level for code in codes]


@given(values=st.lists(st.integers(-1, 1), min_size=1, max_size=40))
def test_a_ternary_mask_survives_packing(values: list[int]) -> None:
    mask = torch.tensor(values, dtype=torch.int8)
    packed = pack(mask)
    assert packed.nbytes == 2 * -(-len(values) // 8)
    assert torch.equal(unpack(packed), mask)
    assert unpack(packed).dtype == torch.int8


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple))
def test_a_block_is_its_shape(shape: tuple[int, ...]) -> None:
    packed = pack_block(shape)
    assert packed.nbytes == 0
    assert unpack(packed).dtype == torch.bool
    assert unpack(packed).shape == shape
    assert unpack(packed).all()
    gains = torch.randn(shape[0])
    packed = pack_block(shape, gains.view(-1, *[1] * (len(shape) - 1)))
    assert packed.nbytes == 4 * shape[0]
    assert torch.equal(unpack(packed), gains.view(-1, *[1] * (len(shape) - 1)).expand(shape))
    with pytest.raises(ValueError, match=f"expected {shape[0]} gains"):
        unpack(replace(packed, payload=torch.ones(shape[0] + 1)))


def test_a_mask_on_a_plane_that_has_grown_is_its_leading_block() -> None:
    codes = torch.tensor([[1, 2, 3], [2, 1, 3], [3, 3, 3]], dtype=torch.uint8)
    packed = replace(pack_owners(codes, 1, 3), shape=(2, 2), plane=(3, 3))
    assert torch.equal(unpack(packed), codes[:2, :2] == 1)
    assert torch.equal(owners(packed), codes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_sparse_tensor_keeps_its_dtype(dtype: torch.dtype) -> None:
    dense = torch.tensor([[0.0, 0.25], [-3.0, 0.0]], dtype=dtype)
    sparse = sparsify(dense)
    assert (sparse.index.dtype, sparse.value.dtype, densify(sparse).dtype) == (torch.int32, dtype, dtype)
    assert torch.equal(densify(sparse), dense)


@pytest.mark.parametrize("n", [1, 3, 8, 9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_real_mask_is_kept_as_the_bytes_of_float32(n: int, dtype: torch.dtype) -> None:
    mask = torch.rand(n, generator=torch.Generator().manual_seed(n)).to(dtype)
    packed = pack(mask)
    assert (packed.payload.dtype, packed.nbytes) == (torch.uint8, 32 * -(-n // 8))
    assert unpack(packed).dtype == torch.float32
    assert torch.equal(unpack(packed), mask.float())
