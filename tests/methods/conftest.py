"""What only one method promises is asked in pairs: by default each optimizer or density meets a backbone in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.contract import drive

TURNS: dict[str, list[Any]] = {"optimizer": list(drive.OPTIMIZERS), "density": []}
"""What goes round, and in which order it does; densities as a test lists them."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the rest of the product of backbones and what goes round ``full``."""
    here = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    for what, order in TURNS.items():
        met: dict[str, tuple[list[str], list[Any]]] = {}
        pairs = [(item, given) for item in here if {"backbone", what} <= (given := _given(item)).keys()]
        for item, given in pairs:
            backbones, values = met.setdefault(item.nodeid.partition("[")[0], ([], [*order]))
            backbones += [given["backbone"]] if given["backbone"] not in backbones else []
            values += [given[what]] if given[what] not in values else []
        for item, given in pairs:
            backbones, values = met[item.nodeid.partition("[")[0]]
            if given["backbone"] != backbones[values.index(given[what]) % len(backbones)]:
                item.add_marker("full")


def _given(item: pytest.Item) -> dict[str, Any]:
    return item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
