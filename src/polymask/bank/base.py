"""The network behind a bank: how it is built, the table of its sites, and the base that all its tasks read."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymask.bank.store import read_tensors, write_tensors
from polymask.parts.draw import signed_constant
from polymask.sites.table import BASE, Role, Sites, attach
from polymask.sites.trace import is_marked, places
from polymask.task import fingerprint
from polymask.wiring import Wiring

Table = list[dict[str, Any]]


@dataclass(frozen=True)
class Builder:
    """How the network is built. A builder is code that runs: open banks of those you trust, or bring the network.

    Args:
        name: "package.module:function", importable wherever the bank is opened.
        args: the function's keyword arguments, as JSON.
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """Call the function; the global random state is put back.

        Raises:
            ValueError: if there is no such function, or it returns no module.

        >>> Builder("torch.nn:Linear", {"in_features": 2, "out_features": 1}).build()
        Linear(in_features=2, out_features=1, bias=True)
        """
        package, _, leaf = self.name.partition(":")
        try:
            # What a script or a notebook defines has no name elsewhere.
            function = getattr(importlib.import_module("" if package == "__main__" else package), leaf)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"expected a builder 'package.module:function' that can be imported, found {self.name!r} ({error}): "
                "install its package, or bring the network yourself as base="
            ) from error
        with torch.random.fork_rng([]):
            built = function(**self.args)
        if not isinstance(built, nn.Module):
            raise ValueError(f"expected a module from the builder {self.name!r}, found {type(built).__name__}")
        return built


def table_of(sites: Sites, before: Table | None = None) -> Table:
    """The table of a model's sites as JSON: name, role, dtype, and the shape that the network is built with.

    Args:
        sites: the attached model.
        before: the bank's table, whose shapes stay: a layer that grew is built as it was, then given its new tensor.

    Raises:
        ValueError: if the tensors are not those of the bank's table.
    """
    shapes = {line["name"]: line["shape"] for line in before or ()}
    table: Table = []
    for name, role in sites.roles.items():
        live = sites.tensor(name)
        shape = None if role.kind == "private" else shapes.get(name) or list(sites.built[name])
        about = {"kind": role.kind, "why": role.why, "held": role.held}
        table.append({"name": name, **about, "dtype": _short(live.dtype), "shape": shape})
    if before is not None and _kinds(table) != _kinds(before):
        changed = sorted({name for name, _ in set(_kinds(table)) ^ set(_kinds(before))})
        raise ValueError(
            f"expected the tensors of the bank's network, found {', '.join(changed)} added, gone or of another dtype: "
            "create a new bank for another network"
        )
    return table


def check_network(module: nn.Module, table: Table, units: Mapping[str, int]) -> None:
    """Raise a ValueError that names the first tensor or layer in which a module is not the network of a table."""
    if any(is_marked(part) for part in module.modules()):
        raise ValueError("expected a plain network, found one with sites: detach() it first")
    where = places(module)
    for line in table:
        name = line["name"]
        if name not in where:
            raise ValueError(f"expected a tensor {name!r} in the network, found none: this is another network")
        live = where[name][0].tensor()
        found, expected = (_short(live.dtype), list(live.shape)), (line["dtype"], line["shape"] or list(live.shape))
        if found != expected:
            raise ValueError(
                f"expected {name!r} to be {expected[0]} of shape {expected[1]}, found {found[0]} of shape {found[1]}: "
                "build the network with the sizes and the dtype that the bank was made with"
            )
    known = {line["name"] for line in table}
    extra = [name for name, spots in where.items() if name not in known and spots[0].trains]
    extra += sorted(set(units) - {name for name, _ in module.named_modules()})
    if extra:
        raise ValueError(f"expected the bank's network, found another: they differ in {', '.join(extra)}")


def write_base(folder: Path, base: Mapping[str, Any], sites: Sites) -> dict[str, Any]:
    """Write the base where it is stored, and note the fingerprints of what is not.

    Args:
        folder: the bank's folder.
        base: what the bank says of its base: kind, drawn tensors and their seeds, digest and fingerprints if known.
        sites: the attached model.

    Returns:
        What the bank says of it now.

    Raises:
        RuntimeError: while a task is open.
        ValueError: if a tensor is not what its seed draws, or a base that is not stored has changed.
    """
    if sites.opened:
        raise RuntimeError(
            f"expected no open task, found {min(sites.opened)!r} in training: end() or abandon() it first"
        )
    values = {name: sites.base(name).cpu() for name in sites.names(*BASE)}
    for name, seed in base["drawn"].items():
        if name not in values:
            raise ValueError(
                f"expected drawn tensors of the base, found {name!r}: a private tensor lies in its records"
            )
        if fingerprint(_drawn(values[name], seed, name)) != fingerprint(values[name]):
            raise ValueError(
                f"expected {name!r} to be the signed constant of seed {seed}, found other values: store it instead"
            )
    kept = {name: value for name, value in values.items() if name not in base["drawn"]}
    unstored = base["drawn"] if base["kind"] == "stored" else values
    prints = {name: fingerprint(values[name]) for name in unstored}
    if changed := [name for name in base.get("prints", ()) if base["prints"][name] != prints.get(name)]:
        raise ValueError(
            f"expected the base as it was when the bank was created, found {changed[0]!r} changed: a base that learns "
            "cannot be kept as a fingerprint, create the bank with base='stored'"
        )
    digest = write_tensors(folder, kept) if base["kind"] == "stored" and kept else None
    return {"kind": base["kind"], "digest": digest, "drawn": dict(base["drawn"]), "prints": prints}


def restore(
    folder: Path,
    base: Mapping[str, Any],
    table: Table,
    units: Mapping[str, int],
    module: nn.Module,
    wiring: Wiring | None = None,
) -> Sites:
    """Attach a table to a plain network and give it the base; all is checked before the network is touched.

    Args:
        folder: the bank's folder.
        base: what the bank says of its base.
        table: the table of its sites.
        units: module name -> axis, of layers whose units are masked.
        module: the network; changed in place, left in evaluation mode.
        wiring: what those units feed, if that was noted.

    Raises:
        ValueError: if it is another network, or another base than the one that the tasks were learned on.
    """
    check_network(module, table, units)
    live = {name: spots[0].tensor() for name, spots in places(module).items()}
    values = read_tensors(folder, base["digest"]) if base["digest"] else {}
    values |= {name: _drawn(live[name], seed, name) for name, seed in base["drawn"].items()}
    for name, was in base["prints"].items():
        if (found := fingerprint(values.get(name, live[name]))) != was:
            way = "use the torch that drew it" if name in base["drawn"] else "bring the backbone of these tasks"
            raise ValueError(f"expected {name!r} of the base to have the fingerprint {was}, found {found}: {way}")
    sites = attach(
        module, {line["name"]: Role(line["kind"], line["why"], line["held"]) for line in table}, units, wiring
    )
    for name, value in values.items():
        sites.put(name, value)
    module.eval()
    return sites


def _drawn(like: Tensor, seed: int, name: str) -> Tensor:
    return signed_constant(like.shape, seed, name).to(like.dtype)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _kinds(table: Table) -> list[tuple[str, str]]:
    return [(line["name"], line["dtype"]) for line in table]
