"""A gate lets the held value or the learned one through, to the bit, and scales the gradient by itself alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polymask.parts.binarize import select
from polymask.parts.gate import hold

unhurried = settings(deadline=None, max_examples=60)
sizes = st.tuples(st.integers(1, 5), st.integers(1, 7))


def drawn(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    kept, w = (torch.randn(shape, generator=draw) for _ in range(2))
    return kept, w, torch.rand(shape, generator=draw) > 0.5


@unhurried
@given(shape=sizes, seed=st.integers(0, 10**6))
def test_a_hard_gate_selects_bits(shape: tuple[int, ...], seed: int) -> None:
    kept, w, gate = drawn(shape, seed)
    held = hold(kept, w, gate)
    assert torch.equal(held[gate], w[gate])
    assert torch.equal(held[~gate], kept[~gate])


@pytest.mark.parametrize("broken", [float("inf"), -float("inf"), float("nan")])
def test_a_hard_gate_hides_what_is_not_finite_on_either_side(broken: float) -> None:
    gate = torch.tensor([True, False])
    held = hold(torch.tensor([broken, 1.0]), torch.tensor([2.0, broken], requires_grad=True), gate)
    assert torch.equal(held, torch.tensor([2.0, 1.0]))


@unhurried
@given(shape=sizes, seed=st.integers(0, 10**6))
def test_the_gradient_is_the_gate(shape: tuple[int, ...], seed: int) -> None:
    kept, w, gate = drawn(shape, seed)
    for open_ in (gate, torch.rand(shape, generator=torch.Generator().manual_seed(seed))):
        leaf = w.clone().requires_grad_()
        hold(kept, leaf, open_).sum().backward()
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, open_.to(w.dtype))


@unhurried
@given(shape=sizes, seed=st.integers(0, 10**6), ones=st.booleans())
def test_a_soft_gate_ends_where_a_hard_one_does(shape: tuple[int, ...], seed: int, ones: bool) -> None:
    kept, w, _ = drawn(shape, seed)
    gate = torch.full(shape, float(ones))
    assert torch.equal(hold(kept, w, gate), w if ones else kept)


def test_a_soft_gate_scales_the_displacement() -> None:
    kept, w = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 2.0])
    assert torch.equal(hold(kept, w, torch.tensor(0.25)) - kept, 0.25 * (w - kept))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_held_value_takes_the_dtype_of_what_trains(dtype: torch.dtype) -> None:
    kept, w, gate = drawn((3, 4), 0)
    assert hold(kept, w.to(dtype), gate).dtype == dtype
    assert hold(kept, w.to(dtype), gate.float()).dtype == dtype


@pytest.mark.parametrize("shape", [(), (3, 1), (1, 4)])
def test_a_gate_broadcasts(shape: tuple[int, ...]) -> None:
    kept, w, _ = drawn((3, 4), 1)
    gate = torch.rand(shape, generator=torch.Generator().manual_seed(2)) > 0.5
    assert torch.equal(hold(kept, w, gate), hold(kept, w, gate.expand(3, 4)))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_values_are_gated_and_selected_too(dtype: torch.dtype) -> None:
    kept, w = (torch.randn(4, dtype=dtype, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    gate = torch.tensor([True, False, True, False])
    assert torch.equal(hold(kept, w, gate), torch.where(gate, w, kept))
    assert torch.equal(select(w, gate), torch.where(gate, w, 0))
