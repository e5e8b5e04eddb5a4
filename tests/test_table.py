"""Tables that line up, byte counts that keep three digits, deviations that hide no missing run."""

from __future__ import annotations

import math
import re
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polymask.report.table import human_bytes, markdown, mean_std, table

unhurried = settings(deadline=None)
cells = st.one_of(st.none(), st.text(max_size=6), st.integers(), st.floats(), st.booleans())
some_rows = st.lists(st.dictionaries(st.sampled_from("abcd"), cells, min_size=1), min_size=1, max_size=5)


@unhurried
@given(rows=some_rows)
def test_plain_columns_start_where_the_rule_does(rows: list[dict[str, object]]) -> None:
    header, rule, *body = table(rows).split("\n")
    assert len(body) == len(rows)
    assert set(rule) <= {"-", " "}
    assert header.split() == list(dict.fromkeys(key for row in rows for key in row))
    for line in (header, *body):
        gaps = [i for i, c in enumerate(rule) if c == " "]
        assert len(line) <= len(rule)
        assert not "".join(line[i : i + 1] for i in gaps).strip()


@unhurried
@given(rows=some_rows)
def test_markdown_is_rectangular(rows: list[dict[str, object]]) -> None:
    lines = markdown(rows).split("\n")
    assert len({len(line) for line in lines}) == 1
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_columns_choose_and_order() -> None:
    rows = [{"a": 1, "b": 2.0, "c": "x"}]
    assert table(rows, ["c", "b"], ".1f") == "c    b\n-  ---\nx  2.0"
    assert table([], ["a", "bc"]) == "a  bc\n-  --"
    assert markdown([], ["a"]) == "| a  |\n| :- |"


def test_missing_nan_and_negative_zero() -> None:
    rows: list[dict[str, object]] = [{"x": math.nan, "y": None, "z": -0.0, "w": -math.inf}, {"v": True}]
    assert table(rows).split("\n")[2].split() == ["-", "-", "0.000", "-inf", "-"]
    assert table(rows).split("\n")[3].split() == ["-", "-", "-", "-", "True"]


def test_a_cell_cannot_break_its_table() -> None:
    rows = [{"a|b": "x\ny|z"}]
    assert table(rows).split("\n")[2] == "x y|z"
    assert markdown(rows).split("\n")[2] == r"| x y\|z |"


def test_what_cannot_be_shown_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one column"):
        table([])
    with pytest.raises(KeyError, match=r"\['acc'\]; there are \['accuracy'\]"):
        markdown([{"accuracy": 1}], ["accuracy", "acc"])
    with pytest.raises(ValueError, match="at least 0, found -1"):
        human_bytes(-1)
    with pytest.raises(ValueError, match="at least one run"):
        mean_std([])


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9994, "9.99 kB"),
        (9996, "10.0 kB"),
        (425_000, "425 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (2_931_250, "2.93 MB"),
        (93_800_000, "93.8 MB"),
        (5_900_000_000, "5.90 GB"),
    ],
)
def test_human_bytes(n: int, text: str) -> None:
    assert human_bytes(n) == text


@unhurried
@given(n=st.integers(0, 10**20))
def test_human_bytes_is_within_its_three_digits(n: int) -> None:
    number, unit = human_bytes(n).split()
    value = float(number) * 1000 ** ("B", "kB", "MB", "GB", "TB", "PB", "EB").index(unit)
    assert value == pytest.approx(n, rel=0.0051)
    assert float(number) < 1000
    assert n < 1000 or len(number.replace(".", "")) == 3


@unhurried
@given(values=st.lists(st.floats(0, 100), min_size=2, max_size=5))
def test_mean_std(values: list[float]) -> None:
    assert mean_std(values, ".3f") == f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"
    assert mean_std([*values, math.nan]) == mean_std([None, *values]) == "-"
