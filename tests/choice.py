"""Which tests a run takes: the parts of ``make test-all``, and the examples that ``make test`` leaves out."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import pytest

PARTS: dict[str, tuple[tuple[str, ...], int]] = {
    "forgetting": (("tests/contract/test_forgetting.py",), 3),
    "resume": (("tests/contract/test_resume.py",), 3),
    "baking": (("tests/contract/test_baking.py",), 2),
    "units": (("tests/contract/test_units.py",), 2),
    "activation": (("tests/contract/test_activation.py",), 2),
    "models": (("tests/contract/test_models.py",), 2),
    "compile": (("tests/contract/test_compile.py",), 2),
    "verbs": (("tests/contract/test_verbs.py",), 1),
    "contract": (("tests/contract/",), 1),
    "methods": (("tests/methods/", "tests/parts/"), 1),
    "learning": (("tests/learning/", "tests/cli/"), 1),
    "removal": (("tests/test_removal.py",), 2),
    "rest": (("",), 3),
}
"""Name -> how the ids of its tests begin, and in how many it is cut. The first that fits a test has it, and the last
fits all, so that no test is in none or in two."""

NAMES = [name if count == 1 else f"{name}-{k}" for name, (_, count) in PARTS.items() for k in range(1, count + 1)]
"""The parts, as ``--part`` takes them."""

SLOW = ("docs/methods.md::", "docs/export.md::")
"""Examples that learn with every method, or export in every way, for half a minute: a page cannot say so itself."""

TOGETHER = (
    "tests/asking/test_loaded.py",  # asks one small run
    "tests/cli/test_ask.py",  # asks one small run
    "tests/contract/test_distributed.py",  # starts two processes, which learn with every method
    "tests/methods/test_ctr.py",  # learns three tasks of texts once
    "tests/texts/test_asking.py",  # asks one small run
    "tests/learning/test_orders.py",  # compares the same tasks under two orders
    "tests/learning/test_resume.py",  # compares with runs that were never stopped
    "tests/test_export.py",  # wakes the exporters of torch and ONNX
    "tests/test_pages.py",  # compares methods, for pages of them
    "tests/test_protocols.py",  # writes data sets
    "tests/test_wiring.py",  # asks each network who feeds whom
)
"""Files that make something dear once, so that a single one of the processes of ``pytest -n`` runs them."""


def part_of(nodeid: str) -> str:
    """The part that runs a test; of several of a name its id alone decides."""
    name, count = next((name, n) for name, (starts, n) in PARTS.items() if nodeid.startswith(starts))
    return name if count == 1 else f"{name}-{1 + zlib.crc32(nodeid.encode()) % count}"


def scope_of(nodeid: str) -> str:
    """What one process runs whole: a test, or all of a file that is to stay together."""
    file = nodeid.partition("::")[0]
    return file if file in TOGETHER else nodeid


def taken(items: Sequence[pytest.Item], part: str) -> list[pytest.Item]:
    """The tests of a part."""
    return [item for item in items if part_of(item.nodeid) == part]
