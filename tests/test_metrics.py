"""Metrics against loops written from the papers, and the laws that they obey on any matrix."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymask.report import metrics as m

unhurried = settings(deadline=None, max_examples=50)
scores = st.floats(0, 100, allow_subnormal=False)
square = st.integers(2, 6).flatmap(lambda n: st.lists(st.lists(scores, min_size=n, max_size=n), min_size=n, max_size=n))
rectangle = st.integers(2, 5).flatmap(
    lambda orders: st.dictionaries(
        st.text(max_size=3), st.lists(scores, min_size=orders, max_size=orders), min_size=1, max_size=5
    )
)
COMPARE = (m.bwt_gem, m.bwt_triangle, m.forgetting_chaudhry, m.forgetting_avalanche)
LOWER = (m.average_accuracy, m.average_accuracy_triangle, *COMPARE)


def lower(r: list[list[float]]) -> list[list[float | None]]:
    """What a run measures that evaluates only the tasks it has seen."""
    return [[score if j <= i else None for j, score in enumerate(row)] for i, row in enumerate(r)]


def loop(metric: Callable[..., float], r: list[list[float]]) -> float:
    """The formulas once more, counting tasks from 1 and summing as the papers do."""
    n = len(r)

    def a(i: int, j: int) -> float:
        return r[i - 1][j - 1]

    if metric is m.average_accuracy:
        return sum(a(n, j) for j in range(1, n + 1)) / n
    if metric is m.average_accuracy_triangle:
        return sum(a(i, j) for i in range(1, n + 1) for j in range(1, i + 1)) / (n * (n + 1) / 2)
    if metric is m.bwt_gem:
        return sum(a(n, i) - a(i, i) for i in range(1, n)) / (n - 1)
    if metric is m.bwt_triangle:
        return sum(a(i, j) - a(j, j) for i in range(2, n + 1) for j in range(1, i)) / (n * (n - 1) / 2)
    if metric is m.forgetting_avalanche:
        return sum(a(j, j) - a(n, j) for j in range(1, n)) / (n - 1)
    assert metric is m.forgetting_chaudhry
    return sum(max(a(k, j) for k in range(j, n)) - a(n, j) for j in range(1, n)) / (n - 1)


@pytest.mark.parametrize("metric", LOWER)
@unhurried
@given(r=square)
def test_agrees_with_the_loop_and_ignores_the_upper_triangle(
    metric: Callable[..., float], r: list[list[float]]
) -> None:
    assert metric(r) == metric(lower(r)) == metric(torch.tensor(r, dtype=torch.float64))
    assert metric(r) == pytest.approx(loop(metric, r), rel=1e-9, abs=1e-9)


@unhurried
@given(r=square, other=st.lists(scores, min_size=6, max_size=6))
def test_forward_metrics_agree_with_the_loop(r: list[list[float]], other: list[float]) -> None:
    n, b = len(r), other[: len(r)]
    zero_shot = sum(r[j - 1][j] - b[j] for j in range(1, n)) / (n - 1)
    learned = sum(r[j][j] - b[j] for j in range(1, n)) / (n - 1)
    assert m.fwt_gem(r, [None, *b[1:]]) == pytest.approx(zero_shot, rel=1e-9, abs=1e-9)
    assert m.transfer_vs_independent(lower(r), [None, *b[1:]]) == pytest.approx(learned, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("metric", COMPARE)
@pytest.mark.parametrize("higher", [True, False])
@unhurried
@given(row=st.lists(scores, min_size=2, max_size=6), before=scores)
def test_nothing_forgotten_is_exactly_zero(
    metric: Callable[..., float], higher: bool, row: list[float], before: float
) -> None:
    r = [[score if j <= i else before for j, score in enumerate(row)] for i in range(len(row))]
    value = metric(r, higher_is_better=higher)
    assert value == 0
    assert math.copysign(1, value) == 1


@pytest.mark.parametrize("metric", COMPARE)
@unhurried
@given(r=square)
def test_a_loss_is_a_negative_score(metric: Callable[..., float], r: list[list[float]]) -> None:
    assert metric(r, higher_is_better=False) == metric([[-score for score in row] for row in r])


@unhurried
@given(r=square, b=st.lists(scores, min_size=6, max_size=6))
def test_a_loss_is_a_negative_score_forward(r: list[list[float]], b: list[float]) -> None:
    n, negative = len(r), [[-score for score in row] for row in r]
    for metric in (m.fwt_gem, m.transfer_vs_independent):
        assert metric(r, b[:n], higher_is_better=False) == metric(negative, [-s for s in b[:n]])


def test_a_rising_loss_is_forgetting() -> None:
    r: list[list[float | None]] = [[0.5, None], [0.75, 0.5]]
    assert m.forgetting_chaudhry(r, higher_is_better=False) == 0.25
    assert m.summary(r, higher_is_better=False)["bwt_gem"] == -0.25
    assert m.fwt_gem([[0.5, 1.0], [0.75, 0.5]], [2.0, 2.0], higher_is_better=False) == 1.0


@unhurried
@given(r=square)
def test_chaudhry_bounds_avalanche_which_negates_gem(r: list[list[float]]) -> None:
    assert m.forgetting_chaudhry(r) >= m.forgetting_avalanche(r) - 1e-9
    assert m.forgetting_avalanche(r) == -m.bwt_gem(r)


@unhurried
@given(r=square, shift=scores)
def test_differences_ignore_a_common_shift(r: list[list[float]], shift: float) -> None:
    for metric in COMPARE:
        assert metric([[s + shift for s in row] for row in r]) == pytest.approx(metric(r), rel=1e-9, abs=1e-9)


@unhurried
@given(t=st.integers(1, 6), data=st.data())
def test_hat_ratio(t: int, data: st.DataObject) -> None:
    vector = st.lists(st.floats(51, 100), min_size=t, max_size=t)
    row, joint, random = (
        data.draw(vector),
        data.draw(vector),
        data.draw(st.lists(scores.filter(lambda s: s < 50), min_size=t, max_size=t)),
    )
    expected = sum((a - b) / (j - b) - 1 for a, b, j in zip(row, random, joint, strict=True)) / t
    assert m.hat_forgetting_ratio(row, random, joint) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert m.hat_forgetting_ratio(joint, random, joint) == 0
    assert m.hat_forgetting_ratio(random, random, joint) == -1
    losses = ([-s for s in v] for v in (row, random, joint))
    assert m.hat_forgetting_ratio(*losses) == m.hat_forgetting_ratio(row, random, joint)


@unhurried
@given(finals=rectangle)
def test_disparity(finals: dict[str, list[float]]) -> None:
    spread = {task: max(v) - min(v) for task, v in finals.items()}
    assert m.opd(finals) == spread
    assert m.mopd(finals) == max(spread.values())
    assert m.aopd(finals) == pytest.approx(sum(spread.values()) / len(spread), rel=1e-9, abs=1e-9)
    assert 0 <= m.aopd(finals) <= m.mopd(finals)
    assert m.opd({task: v[::-1] for task, v in finals.items()}) == spread
    assert m.mopd({task: [v[0]] * len(v) for task, v in finals.items()}) == 0


def test_one_task_or_one_order_is_undefined() -> None:
    for metric in COMPARE:
        assert math.isnan(metric([[90.0]]))
    assert math.isnan(m.fwt_gem([[90.0]], [None]))
    assert math.isnan(m.transfer_vs_independent([[90.0]], [90.0]))
    assert math.isnan(m.aopd({"a": [1.0], "b": [2.0]}))
    assert math.isnan(m.mopd({"a": [1.0]}))
    found = json.loads(json.dumps(m.summary([[90.0]]), allow_nan=False))
    assert found == {"average_accuracy": 90.0, "bwt_gem": None, "forgetting_chaudhry": None}


@pytest.mark.parametrize(
    ("metric", "needed"),
    [
        (m.average_accuracy, {(2, 0), (2, 1), (2, 2)}),
        (m.average_accuracy_triangle, {(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)}),
        (m.bwt_gem, {(0, 0), (1, 1), (2, 0), (2, 1)}),
        (m.bwt_triangle, {(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)}),
        (m.forgetting_chaudhry, {(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)}),
        (m.forgetting_avalanche, {(0, 0), (1, 1), (2, 0), (2, 1)}),
        (lambda r: m.fwt_gem(r, [1, 1, 1]), {(0, 1), (1, 2)}),
        (lambda r: m.transfer_vs_independent(r, [1, 1, 1]), {(1, 1), (2, 2)}),
    ],
)
def test_only_the_entries_a_formula_reads_must_be_there(
    metric: Callable[[torch.Tensor], float], needed: set[tuple[int, int]]
) -> None:
    for i in range(3):
        for j in range(3):
            r = torch.arange(9.0).view(3, 3).index_put((torch.tensor(i), torch.tensor(j)), torch.tensor(math.nan))
            if (i, j) in needed:
                with pytest.raises(ValueError, match=rf"R\[{i}, {j}\]"):
                    metric(r)
            else:
                assert math.isfinite(metric(r))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: m.summary([]), r"\(0, 0\), at least one task"),
        (lambda: m.summary([[1.0], [2.0, 3.0]]), r"matrix of shape \(2, 2\), None where not measured"),
        (lambda: m.summary(torch.zeros(2, 3)), r"\(2, 2\), at least one task, found \(2, 3\)"),
        (lambda: m.summary(torch.zeros(2)), r"found \(2,\)"),
        (lambda: m.fwt_gem([[1, 1], [1, 1]], [1]), r"baseline of shape \(2,\)"),
        (lambda: m.fwt_gem([[1, 1], [1, 1]], [1, None]), r"baseline at \[1\], found NaN"),
        (lambda: m.hat_forgetting_ratio([1, 2], [0, 2], [3, 2]), r"equal at \[1\]"),
        (lambda: m.hat_forgetting_ratio([], [], []), "at least one task"),
        (lambda: m.opd({}), "at least one task, found none"),
        (lambda: m.opd({"a": [1, 2], "b": [1]}), r"finals\['b'\] of shape \(2,\)"),
        (lambda: m.opd({"a": [1, None]}), r"finals\['a'\] at \[1\]"),
    ],
)
def test_errors_say_what_was_expected(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_reads_any_tensor_and_leaves_it_alone() -> None:
    r = torch.tensor([[0.5, math.nan], [0.25, 1.0]], dtype=torch.bfloat16, requires_grad=True)
    before = r.detach().clone()
    assert m.summary(r) == {"average_accuracy": 0.625, "bwt_gem": -0.25, "forgetting_chaudhry": 0.25}
    assert torch.equal(r.nan_to_num(), before.nan_to_num())
    assert m.average_accuracy(torch.tensor([[1, 0], [1, 0]])) == 0.5
