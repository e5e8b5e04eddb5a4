"""WSN's capacity: a Huffman code of known length, fractions by hand, any number of tasks."""

from __future__ import annotations

import heapq
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polymask.report.capacity import capacity, huffman_bits


def lengths(counts: list[int]) -> int:
    """The same from the tree: every symbol's depth times its count."""
    heap = [(count, k, {k: 0}) for k, count in enumerate(counts)]
    heapq.heapify(heap)
    while len(heap) > 1:
        (a, k, left), (b, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        heapq.heappush(heap, (a + b, k, {symbol: depth + 1 for symbol, depth in (left | right).items()}))
    return sum(counts[symbol] * depth for symbol, depth in heap[0][2].items())


@given(st.lists(st.integers(1, 50), min_size=2, max_size=12))
def test_the_code_is_as_long_as_its_tree_and_within_a_bit_of_the_entropy(counts: list[int]) -> None:
    n, bits = sum(counts), huffman_bits(counts)
    entropy = -sum(c * math.log2(c / n) for c in counts)
    assert bits == lengths(counts)
    assert entropy - 1e-6 <= bits < entropy + n


def test_equal_masks_of_many_tasks_cost_a_bit_a_weight() -> None:
    mask = {"a": torch.tensor([[True, False]]), "b": torch.tensor([True, False])}
    found = capacity([mask] * 100)
    assert (found.tasks, found.weights, found.used, found.code_bits) == (100, 4, 0.5, 4)
    assert found.compression == pytest.approx(0.99)
    assert found.capacity == pytest.approx(0.5 + 1 / 32)


def test_random_masks_cannot_be_compressed() -> None:
    draw = torch.Generator().manual_seed(0)
    found = capacity([{"w": torch.rand(20_000, generator=draw) < 0.5} for _ in range(4)])
    assert found.compression == pytest.approx(0, abs=0.01)
    assert found.capacity == pytest.approx(1 - 0.5**4 + 4 / 32, abs=0.02)


def test_masks_of_other_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one task"):
        capacity([])
    with pytest.raises(ValueError, match="differ in names or shapes"):
        capacity([{"w": torch.ones(2)}, {"w": torch.ones(3)}])
