"""What only one method promises is asked under pairs: by default each optimizer meets one backbone, in turn."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contract import drive

OPTIMIZERS = list(drive.OPTIMIZERS)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the rest of the product backbone x optimizer ``full``."""
    backbones: dict[str, list[str]] = {}
    here = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    for item in here:
        given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if not {"backbone", "optimizer"} <= given.keys():
            continue
        met = backbones.setdefault(item.nodeid.partition("[")[0], [])
        if given["backbone"] not in met:
            met.append(given["backbone"])
    for item in here:
        met = backbones.get(item.nodeid.partition("[")[0], [])
        if met:
            given = item.callspec.params  # type: ignore[attr-defined]
            if given["backbone"] != met[OPTIMIZERS.index(given["optimizer"]) % len(met)]:
                item.add_marker("full")
