"""The k-th largest without a sort: exact against a full sort, on inputs that mislead a selection."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polymask.parts.binarize import top_k

N = 24_583  # beyond what a vectorised selection does in one go, and no multiple of its width


def normal(seed: int = 0) -> Tensor:
    return torch.randn(N, generator=torch.Generator().manual_seed(seed))


def spiked() -> Tensor:
    """Every 19th value is huge, all others small: a strided sample sees huge ones alone."""
    scores = normal()
    scores[::19] = 1e6
    return scores


ADVERSARIAL: dict[str, Callable[[], Tensor]] = {
    "random": normal,
    "all equal": lambda: torch.full((N,), -0.25),
    "all zero, of both signs": lambda: torch.zeros(N).copysign(normal()),
    "all NaN": lambda: torch.full((N,), float("nan")),
    "one NaN": lambda: normal().index_fill(0, torch.tensor([17]), float("nan")),
    "half NaN": lambda: torch.where(normal(1) > 0, normal(), float("nan")),
    "infinities": lambda: torch.where(normal(1) > 0, normal(), float("-inf")),
    "one value apart": lambda: torch.zeros(N).index_fill(0, torch.tensor([N - 1]), 1.0),
    "two values": lambda: (normal() > 0).float(),
    "huge and subnormal": lambda: torch.where(normal(1) > 0, normal() * 1e38, normal() * 1e-40),
    "ascending": lambda: torch.arange(float(N)),
    "descending": lambda: torch.arange(float(N)).flip(0),
    "sorted by size, signs mixed": lambda: torch.arange(float(N)) * (1 - 2 * (torch.arange(N) % 2)),
    "a sample misleads": spiked,
    "a short period": lambda: (torch.arange(N) % 19).float(),
}
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def reference(scores: Tensor, keep: int) -> Tensor:
    """A stable sort, in which NaN is the largest of all."""
    size = scores.abs().double().nan_to_num(nan=float("inf")) + 0.0
    size = torch.where(scores.isnan(), float("inf"), size.clamp(max=torch.finfo(torch.float64).max))
    order = size.argsort(descending=True, stable=True)
    return torch.zeros(len(scores), dtype=torch.bool).index_fill(0, order[:keep], True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ADVERSARIAL)
@pytest.mark.parametrize("keep", [1, N // 10, N // 2, N - 1])
def test_the_mask_is_that_of_a_stable_sort(case: str, keep: int, dtype: torch.dtype) -> None:
    scores = ADVERSARIAL[case]().to(dtype)
    mask = top_k(scores, keep)
    assert int(mask.sum()) == keep
    assert torch.equal(mask, reference(scores, keep))
    kept, best = scores[mask].abs().sort().values, scores.abs().topk(keep).values.sort().values
    assert torch.equal(kept.nan_to_num(), best.nan_to_num())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, N), st.sampled_from(DTYPES), st.integers(0, 6))
def test_the_count_is_exact_at_any_place_and_coarseness(seed: int, keep: int, dtype: torch.dtype, digits: int) -> None:
    scores = (normal(seed) * 10**digits).round().div(10**digits).to(dtype)
    mask = top_k(scores, keep)
    assert int(mask.sum()) == keep
    assert torch.equal(scores[mask].abs().sort().values, scores.abs().topk(keep).values.sort().values)


def test_nothing_is_kept_between_calls() -> None:
    first = top_k(normal(), 100)
    top_k(spiked(), 7)
    assert torch.equal(top_k(normal(), 100), first)
