"""The parts of ``make test-all`` are together all tests, whatever is collected, and no test is run twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.choice import NAMES, PARTS, part_of, taken

ROOT = Path(__file__).parent.parent


def test_make_runs_every_part() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    (parts,) = (line.partition(":=")[2].split() for line in lines if line.startswith("PARTS :="))
    assert parts == NAMES


def test_every_collected_test_is_in_one_part(request: pytest.FixtureRequest) -> None:
    found = Counter(item.nodeid for name in NAMES for item in taken(request.session.items, name))
    assert found == Counter(item.nodeid for item in request.session.items)


def test_every_file_of_tests_is_in_a_part_and_no_part_is_empty() -> None:
    files = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/**/test_*.py")]
    assert {part_of(f"{file}::test[{k}]") for file in files for k in range(20)} == set(NAMES)
    for starts, _ in PARTS.values():
        assert all(any(file.startswith(start) for file in files) for start in starts)
