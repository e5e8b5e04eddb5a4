"""Additive corrections: thresholds, groups by inner products, what a group shares, and the bytes of a sparse tensor."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from polymask.parts.additive import correction, groups_of, prune, read_corrected, soft_threshold
from polymask.parts.consolidate import consolidate
from polymask.parts.sparse import Sparse, count_active, densify, from_tensors, rounded, scale_of, sparsify, to_tensors


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sparse_tensor(density: float, seed: int = 0, n: int = 1000) -> Tensor:
    return torch.randn(n, generator=draw(seed)) * (torch.rand(n, generator=draw(seed + 99)) < density)


@pytest.mark.parametrize("by", [0.3, torch.tensor(0.3)], ids=["number", "tensor"])
def test_the_proximal_step_minimises_what_it_is_the_step_of(by: Tensor | float) -> None:
    x = torch.linspace(-1, 1, 41, dtype=torch.float64)
    tau = soft_threshold(x, by)
    cost = lambda t: 0.5 * (t - x).square() + 0.3 * t.abs()  # noqa: E731
    for other in (tau + 1e-3, tau - 1e-3, torch.zeros_like(x)):
        assert bool((cost(tau) <= cost(other) + 1e-12).all())


def test_complex_corrections_keep_their_angle() -> None:
    tau = soft_threshold(torch.tensor([3 + 4j, 0.1j]), 1.0)
    assert torch.allclose(tau, torch.tensor([2.4 + 3.2j, 0j]))


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize(("density", "codec"), [(0.001, "index"), (0.2, "bitmap"), (0.999, "dense")])
def test_a_sparse_tensor_takes_the_codec_of_the_fewest_bytes_and_comes_back(
    bits: int, density: float, codec: str
) -> None:
    tau = sparse_tensor(density)
    tau[0] = 2.0
    found = sparsify(tau, bits)
    about, kept = to_tensors(found)
    count, width = found.value.numel(), bits // 8
    sizes = {"index": count * (4 + width), "bitmap": math.ceil(1000 / 8) + count * width, "dense": 1000 * width}
    assert about["codec"] == codec == min(sizes, key=lambda name: sizes[name])
    assert sum(t.numel() * t.element_size() for t in kept.values()) == sizes[codec]
    local = sparsify(tau)
    back = from_tensors(about, kept, local)
    assert torch.equal(densify(replace(back, local=None)), rounded(tau, bits))
    assert (back.local is local, back.index.dtype) == (True, torch.int32)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_where_two_codecs_come_close_the_smaller_one_is_taken(bits: int) -> None:
    width = bits // 8
    for n, bitmap in ((60, 8), (70, 9)):
        for count in (0, 1, 2, 3, n - 10, n - 9, n - 8, n - 3, n - 2, n - 1):
            sparse = sparsify(torch.cat([torch.ones(count), torch.zeros(n - count)]), bits)
            sizes = {"index": count * (4 + width), "bitmap": bitmap + count * width, "dense": n * width}
            assert to_tensors(sparse)[0]["codec"] == min(sizes, key=lambda name: sizes[name])


@pytest.mark.parametrize("bits", [8, 16])
def test_rounding_twice_is_rounding_once_up_to_its_step(bits: int) -> None:
    tau = prune(sparse_tensor(0.5), 0.1)
    assert rounded(tau.double(), bits).dtype == torch.float64
    assert (rounded(tau, bits) - tau).abs().max() <= tau.abs().max() * (0.51 / 127 if bits == 8 else 2**-10)
    assert torch.equal(densify(sparsify(tau, bits)), correction(sparse_tensor(0.5), 0.1, bits))
    assert torch.equal(rounded(torch.zeros(3), bits), torch.zeros(3))
    assert [float(scale_of(torch.zeros(n))) for n in (0, 3)] == [1.0, 1.0]


def test_what_rounds_to_nothing_is_not_kept_and_another_scale_is_another_tensor() -> None:
    tau = torch.full((48,), 2e-4)
    tau[0] = 1.0
    assert sparsify(tau, 8).index.tolist() == [0]
    one, two = (sparsify(torch.tensor([0.0, x]), 8) for x in (1.0, 0.25))
    assert count_active([{"w": sparsify(tau, local=one)}, {"w": sparsify(tau, local=two)}]) == 2 * 48 + 2


@pytest.mark.parametrize("rows", [5, 2])
def test_the_gradients_of_a_corrected_weight(rows: int) -> None:
    shapes = [(rows, 4), (rows, 1), (rows, 4)]
    w, m, tau = (torch.randn(s, generator=draw(k), dtype=torch.float64).requires_grad_() for k, s in enumerate(shapes))
    assert torch.autograd.gradcheck(lambda w, m, tau: read_corrected(w, m, tau, None, 0.0), (w, m, tau))
    rate = torch.rand(rows, 1, dtype=torch.float64, generator=draw(7))
    alone = torch.autograd.grad(read_corrected(w, m.detach(), tau, None, 0.5).sum(), w)
    assert torch.equal(alone[0], m.expand_as(w))
    slow = torch.autograd.grad(read_corrected(w, m, tau, rate, 0.5).sum(), (w, tau))
    assert torch.equal(slow[0], (m * rate).expand_as(w))
    assert torch.equal(slow[1], torch.ones_like(tau)), "what is pruned can grow again"


def test_the_gradient_of_the_gate_of_a_complex_weight_is_real() -> None:
    w, tau = (torch.randn(5, 4, generator=draw(k), dtype=torch.complex128).requires_grad_() for k in range(2))
    m = torch.rand(5, 1, generator=draw(2), dtype=torch.float64).requires_grad_()
    read_corrected(w, m, tau, None, 0.0).real.sum().backward()
    assert m.grad is not None
    assert torch.allclose(m.grad, w.detach().real.sum(1, keepdim=True))


def test_groups_by_inner_products_are_those_of_the_points() -> None:
    points = torch.cat([torch.randn(4, 6, generator=draw(k)).double() / 20 + 3 * k for k in range(3)])
    assert groups_of(points @ points.T, 3, [[0, 1]], draw()) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert groups_of(points @ points.T, 3, [[0, 1]], draw(5)) == groups_of(points @ points.T, 3, [[0, 1]], draw(5))


def test_groups_of_equal_points_are_fewer_and_of_few_points_no_more_than_these() -> None:
    assert groups_of(torch.ones(4, 4).double(), 3, [], draw()) == [[0, 1, 2, 3]]
    assert groups_of(torch.eye(2).double(), 5, [], draw()) == [[0], [1]]
    assert groups_of(torch.zeros(1, 1).double(), 2, [], draw()) == [[0]]


def test_points_that_differ_are_parted_into_as_many_groups_as_asked() -> None:
    """However the centres begin: a group that runs empty takes a point from a group of several, never a lone one."""
    for seed in range(40):
        xs, order = (torch.randperm(n, generator=draw(seed)) for n in (10, 6))
        x = xs[:6, None].double() * (0.01, 1.0, 50.0)[seed % 3]
        start = [sorted(order[at : at + 2].tolist()) for at in (0, 2)][: seed % 2 + 1]
        for count in range(2, 7):
            found = groups_of(x @ x.T, count, start, draw())
            assert len(found) == count
            assert sorted(point for group in found for point in group) == list(range(6))


def test_a_group_that_runs_empty_takes_the_point_farthest_from_its_own_centre() -> None:
    x = torch.tensor([0.0, 0.0, 0.1, 0.5], dtype=torch.float64)[:, None]
    assert groups_of(x @ x.T, 2, [[0], [1]], draw()) == [[0, 1, 2], [3]]


def test_a_group_that_holds_all_is_parted_at_a_drawn_point_and_by_no_other_draw() -> None:
    x = torch.tensor([0.0, 0.1, 5.0, 5.1], dtype=torch.float64)[:, None]
    before = torch.get_rng_state()
    assert groups_of(x @ x.T, 2, [[0, 1, 2, 3]], draw()) == [[0, 1], [2, 3]]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("beta", [-1.0, 0.0, 0.2])
def test_merging_moves_an_entry_by_half_of_beta_at_most_and_not_at_all_beyond_it(beta: float) -> None:
    taus = [sparse_tensor(0.5, seed=k) / 5 for k in range(4)]
    found = consolidate([sparsify(tau) for tau in taus], 1, beta, 0.0, draw())
    gap = torch.stack(taus).amax(0) - torch.stack(taus).amin(0)
    for tau, sparse in zip(taus, found, strict=True):
        moved = (densify(sparse) - tau).abs()
        assert float(moved.max()) <= max(beta, 0) / 2 + 1e-6
        assert bool((moved[gap > beta] == 0).all())
        if sparse.local is not None:
            assert bool((densify(sparsify(densify(sparse)))[gap <= beta] == densify(sparse.local)[gap <= beta]).all())
    assert (found[0].local is None) == (beta <= 0), "these agree nowhere to the bit, and below 0 nothing is merged"


def test_equal_corrections_leave_nothing_of_their_own_and_pruning_stays_in_its_bound() -> None:
    tau = sparsify(sparse_tensor(0.3))
    found = consolidate([tau, tau, tau], 1, 0.1, 0.0, draw())
    assert all(sparse.index.numel() == 0 and sparse.local is found[0].local for sparse in found)
    assert all(torch.equal(densify(sparse), densify(tau)) for sparse in found)
    taus = [sparse_tensor(0.5, seed=k) / 5 for k in range(3)]
    for before, sparse in zip(taus, consolidate([sparsify(t) for t in taus], 1, 0.2, 0.05, draw()), strict=True):
        assert float((densify(sparse) - before).abs().max()) <= 0.2 / 2 + 0.05 + 1e-6


def test_a_lone_member_takes_what_it_shared_as_its_own() -> None:
    one, two = sparse_tensor(0.3, seed=1), sparse_tensor(0.3, seed=2)
    pair = consolidate([sparsify(one), sparsify(one)], 1, 0.1, 0.0, draw())
    apart = consolidate([pair[0], sparsify(10 * two)], 2, 0.1, 0.0, draw())
    assert [sparse.local for sparse in apart] == [None, None]
    assert torch.equal(densify(apart[0]), one)


def shared_pair(local: list[float], *own: list[float]) -> list[Sparse]:
    return [sparsify(torch.tensor(one), local=sparsify(torch.tensor(local))) for one in own]


def partners(found: list[Sparse]) -> list[set[int]]:
    """Of every correction, which ones share its part."""
    return [
        {k for k, other in enumerate(found) if other.local is not None and other.local is one.local} for one in found
    ]


def test_corrections_are_grouped_by_what_they_are_with_the_part_that_they_share() -> None:
    pair = shared_pair([9.0, 0.0], [0.0, 1.0], [0.0, -1.0])
    alone = [sparsify(torch.tensor([0.01, x])) for x in (1.0, -1.0)]
    found = consolidate([*pair, *alone], 2, 0.1, 0.0, draw())
    assert partners(found) == [{0, 1}, {0, 1}, {2, 3}, {2, 3}]


def test_groups_that_share_keep_their_centres_each_its_own() -> None:
    """Corners of a rectangle: k-means leaves it in the halves that it began with."""
    left, right = ([x, 0.0] for x in (1.0, 2.0))
    deltas = [pair for local in (left, right) for pair in shared_pair(local, [0.0, 1.0], [0.0, 2.1])]
    for seed in range(4):
        before = torch.get_rng_state()
        found = consolidate(deltas, 2, 0.1, 0.0, draw(seed))
        assert partners(found) == [{0, 1}, {0, 1}, {2, 3}, {2, 3}]
        assert torch.equal(torch.get_rng_state(), before)


def test_corrections_far_from_0_and_close_to_each_other_are_told_apart() -> None:
    deltas = [sparsify(torch.tensor([3000.0, 3000.0, x])) for x in (0.1, 0.11, 0.2, 0.21)]
    assert partners(consolidate(deltas, 2, 0.02, 0.0, draw())) == [{0, 1}, {0, 1}, {2, 3}, {2, 3}]


@pytest.mark.parametrize("bits", [8, 16])
def test_what_consolidation_leaves_has_the_bits_asked_for(bits: int) -> None:
    kind = {8: torch.int8, 16: torch.float16}[bits]
    lone, one, two = (torch.tensor(x) for x in ([-50.0, 0.3, 0.1], [1.0, 2.0, 0.5], [1.01, 3.0, 0.5]))
    deltas = [
        *shared_pair([1.0, 0.0, 0.0], (lone - torch.tensor([1.0, 0.0, 0.0])).tolist()),
        sparsify(one),
        sparsify(two),
    ]
    found = consolidate(deltas, 2, 0.1, 0.2, draw(), bits)
    assert partners(found) == [set(), {1, 2}, {1, 2}]
    assert {sparse.value.dtype for sparse in found} == {kind}
    assert found[1].local is not None
    assert found[1].local.value.dtype == kind
    assert torch.equal(densify(found[0]), correction(lone, 0.2, bits)), "what a lone one shared is its own"
    small = sparsify(lone)
    assert consolidate([small], 1, 0.1, 0.2, draw(), bits)[0] is small, "what shared nothing stays"
