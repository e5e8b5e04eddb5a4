"""A record that does not fit is refused in one sentence, before anything of the network is touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.banks import WEIGHTS, attached, make, record
from torch import nn

from polymask.parts.pack import Packed, pack, pack_block
from polymask.parts.sparse import Sparse, sparsify
from polymask.sites.table import Role, Sites, attach
from polymask.task import Meta, TaskRecord, activate, check_fits, reads

W = WEIGHTS[0]


def delta(shape: tuple[int, ...] = (16, 12), index: Any = (1, 2), value: Any = (0.5, 0.5)) -> dict[str, Sparse]:
    return {W: Sparse(shape, torch.tensor(index), torch.tensor(value))}


def private(**changed: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name.replace("__", "."): value for name, value in changed.items()}


def infinite(codec: str) -> Packed:
    gains = torch.full((16,), float("nan"))
    return pack_block((16, 12), gains) if codec == "block" else pack(gains[:, None].expand(16, 12).clone())


@pytest.mark.parametrize(
    ("part", "changed", "said"),
    [
        ("masks", {"no": pack(torch.ones(2) > 0)}, "a mask of 'no' that fits, found no such site"),
        ("masks", {W: pack(torch.ones(17, 12) > 0)}, "found shape (17, 12) for (16, 12)"),
        ("masks", {W: pack(torch.ones(16) > 0)}, "found shape (16,) for (16, 12)"),
        ("masks", {W: infinite("block")}, "found values that are not finite"),
        ("masks", {W: infinite("real")}, "found values that are not finite"),
        ("deltas", {"no": sparsify(torch.ones(2))}, "a correction of 'no' that fits, found no masked weight"),
        ("deltas", {"body.1.bias": sparsify(torch.ones(16))}, "found no masked weight of that name"),
        ("deltas", delta((12, 16)), "found shape (12, 16) for (16, 12)"),
        ("deltas", delta(index=(1, 192)), "found places from 1 to 192 among 192 entries"),
        ("deltas", delta(index=(-1, 2)), "found places from -1 to 2 among 192 entries"),
        ("deltas", delta(index=(1,)), "found (1,) places of int64 for values of shape (2,)"),
        ("deltas", delta(index=(1.0, 2.0)), "places of float32"),
        ("deltas", delta(value=(1, 2)), "found int64 for float32"),
        ("deltas", delta(value=(1.0, float("inf"))), "found values that are not finite"),
        ("private", {"no": torch.ones(2)}, "its own 'no' to fit, found no such tensor"),
        ("private", {W: torch.ones(16, 12)}, "found a tensor that all tasks share"),
        ("private", private(body__2__bias=torch.ones(1)), "its own 'body.2.bias' to fit, found shape (1,) for (16,)"),
        ("private", private(body__2__bias=torch.ones(17)), "found shape (17,) for (16,)"),
        ("private", private(body__2__bias=torch.ones(16, 1)), "found shape (16, 1) for (16,)"),
        ("private", private(head__bias=torch.ones(1)), "its own 'head.bias' to fit, found shape (1,) for (5,)"),
        ("private", private(head__weight=torch.ones(3, 4)), "its own 'head.weight' to fit, found shape (3, 4)"),
        ("private", private(body__2__bias=torch.ones(16).long()), "found int64 for float32"),
        ("private", private(body__2__bias=torch.full((16,), float("nan"))), "found values that are not finite"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, part: str, changed: Any, said: str) -> None:
    bank, sites = make(tmp_path / "bank")
    one = record(sites, "a")
    before = {name: value.clone() for name, value in sites.model.state_dict().items()}
    wrong = replace(one, **{part: {**getattr(one, part), **changed}})
    with pytest.raises(ValueError, match=r"expected of task 'a' .*another network, or a damaged record\?") as failure:
        activate(sites, wrong)
    assert said in str(failure.value)
    assert all(torch.equal(value, before[name]) for name, value in sites.model.state_dict().items())
    with pytest.raises(ValueError, match="expected"):
        bank.commit({"a": wrong}, sites)


def test_what_fits_goes_on_fitting() -> None:
    sites = attached()
    for outputs in (1, 3, 9):
        check_fits(sites, record(sites, "a", outputs, delta=True))
    check_fits(sites, record(attached(dtype=torch.bfloat16), "a"))  # served in another precision
    one = record(sites, "a")
    sites.write(W, torch.ones(20, 12))
    sites.write("body.1.bias", torch.ones(20))
    check_fits(sites, one)  # a mask of a layer that has grown since


def biased() -> Sites:
    """A masked layer whose bias is each task's own."""
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    kinds = {"0.weight": "masked", "0.bias": "private", "2.weight": "private", "2.bias": "private"}
    return attach(model, {name: Role(kind, "") for name, kind in kinds.items()})  # type: ignore[arg-type]


def test_a_bias_is_as_long_as_the_rows_that_the_task_reads() -> None:
    sites = biased()
    own = {name: sites.tensor(name).detach() for name in sites.names("private")}
    meta = Meta("a", "by hand", 2, True)

    def fits(rows: int, bias: int) -> bool:
        masks = {"0.weight": pack(torch.ones(rows, 4) > 0)}
        one = TaskRecord(masks, {}, {**own, "0.bias": torch.zeros(bias)}, reads(sites, {}), meta)
        try:
            check_fits(sites, one)
        except ValueError:
            return False
        return True

    assert (fits(16, 16), fits(16, 1), fits(16, 15), fits(16, 18)) == (True, False, False, False)
    sites.write("0.weight", torch.ones(20, 4))
    assert (fits(16, 16), fits(18, 18), fits(18, 20)) == (True, True, False)
