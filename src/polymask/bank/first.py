"""The first commit of a bank: a base, and no task yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polymask.bank.base import axes_of, base_digest, describe_base, table_of, values_of, write_base
from polymask.bank.head import Head, State, write_head
from polymask.bank.probe import write_batch
from polymask.bank.store import COMMIT, as_json
from polymask.sites.plugs import describe_plugs
from polymask.sites.table import Sites


def create_head(path: Path, sites: Sites, told: State, kind: State, asked: State | None, batch: Any) -> Head:
    """Write a bank that has no task yet.

    Args:
        path: the bank's folder.
        sites: the attached model.
        told: how the tasks are learned and the network is built.
        kind: how the base is kept: kind, drawn tensors and their seeds.
        asked: the probe, from ``make_probe``.
        batch: the user's own batch for it, if there is one.
    """
    values = values_of(sites)
    base = describe_base(kind, values, base_digest(kind, values))
    write_base(path, base, values)
    write_batch(path, batch)
    about: State = {
        **told,
        "sites": table_of(sites),
        "units": axes_of(sites),
        "wiring": sites.wiring.to_json() if sites.wiring.sites else None,
        "base": base,
        "probe": asked,
        "owners": {"file": None, "planes": {}, "added": {}},
        "learner": None,
        "held": None,
        "removed": [],
        **({"plugged": plugs} if (plugs := describe_plugs(sites.model)) else {}),
    }
    return write_head(path, Head(as_json(about, "the bank's json"), {}))


def refuse_another(path: Path) -> None:
    """Raise a FileExistsError if there is a bank already."""
    if (path / COMMIT).exists():
        raise FileExistsError(f"expected no bank at {path}, found one: Bank.open it, or choose another folder")
