"""Point 9 of the contract: several processes that train together know the same and forget nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from tests.contract import drive, processes
from tests.contract.conftest import EVERY


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found of every method."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.multiprocessing.spawn(processes.work, (request.param, str(folder)), nprocs=processes.PROCESSES)
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(processes.PROCESSES)]


@pytest.mark.parametrize("name", list(EVERY))
def test_processes_keep_the_frozen_and_agree(found: list[dict[str, Any]], name: str) -> None:
    for results in found:
        assert not isinstance(results[name], str), results[name]
    one, other = (results[name] for results in found)
    assert not drive.differing(one["known"], other["known"])
    assert not drive.differing(one["after"], other["after"])
    before, after, exact = one["before"]["a"], one["after"]["a"], one["exact"]
    assert torch.isfinite(after).all()
    if exact is True:
        assert torch.equal(before, after)
    elif exact is None:
        assert not torch.equal(before, after)
    else:
        assert (before - after).abs().max() <= exact
