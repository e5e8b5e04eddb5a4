"""Point 9 of the contract: several processes that train together know the same and forget nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from tests.contract import drive, processes, zoo
from tests.contract.conftest import EVERY, FEW


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found of every method that is asked for, under every strategy."""
    here = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    names = list(dict.fromkeys(item.callspec.params["name"] for item in here))
    folder = tmp_path_factory.mktemp("distributed")
    # A copy of this process has imported everything already; a GPU's state cannot be copied.
    how = "fork" if zoo.DEVICE.type == "cpu" else "spawn"
    torch.multiprocessing.start_processes(
        processes.work, (names, str(folder)), nprocs=processes.PROCESSES, start_method=how
    )
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(processes.PROCESSES)]


@pytest.mark.parametrize("strategy", list(processes.STRATEGIES))
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FEW else pytest.mark.full) for n in EVERY])
def test_processes_keep_the_frozen_and_agree(found: list[dict[str, Any]], name: str, strategy: str) -> None:
    for results in found:
        assert not isinstance(results[strategy, name], str), results[strategy, name]
    one, other = (results[strategy, name] for results in found)
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


def test_what_one_process_harmed_all_refuse(tmp_path: Path) -> None:
    how = "fork" if zoo.DEVICE.type == "cpu" else "spawn"
    torch.multiprocessing.start_processes(
        processes.refuse, (str(tmp_path),), nprocs=processes.PROCESSES, start_method=how
    )
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(processes.PROCESSES))
    assert one[0].startswith("NotFinite: ")
    assert "found NaN or infinity in what another process trained: begin('a') again" in one[0]
    assert other[0].startswith("NotFinite: ")
    assert "in what another" not in other[0]
    assert one[2] == "AlteredNetwork: check(): another process found that what finished tasks read was changed"
    assert "has other values" in other[2]
    assert [*one[1::2], *other[1::2]] == [""] * 4
