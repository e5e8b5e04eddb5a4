"""The network behind a bank: the table of its sites, and the base that all its tasks read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymask.bank.store import digest_of, read_tensors, write_shared, write_tensors
from polymask.parts.draw import signed_constant
from polymask.parts.narrow import narrow, widen
from polymask.sites.marks import is_marked
from polymask.sites.table import BASE, Role, Sites, attach
from polymask.sites.trace import places
from polymask.task import fingerprint
from polymask.wiring import Wiring

Table = list[dict[str, Any]]
HOST_BYTES = 1 << 20
"""From this size on what never learns has a file of its own."""


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


def axes_of(sites: Sites) -> dict[str, int]:
    """Module name -> axis, of the layers whose units are masked."""
    return {name: site.axis for name, site in sites.units.items()}


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


def values_of(sites: Sites) -> dict[str, Tensor]:
    """The base as it is, on the CPU.

    Raises:
        RuntimeError: while a task is open.
    """
    if sites.opened:
        raise RuntimeError(
            f"expected no open task, found {min(sites.opened)!r} in training: end() or abandon() it first"
        )
    return {name: sites.base(name).cpu() for name in sites.names(*BASE)}


def base_digest(base: Mapping[str, Any], values: Mapping[str, Tensor]) -> str | None:
    """The digest of what a base's file is to hold; None if that is nothing."""
    kept = _stored(base, values)
    return digest_of(kept) if kept else None


def describe_base(base: Mapping[str, Any], values: Mapping[str, Tensor], digest: str | None) -> dict[str, Any]:
    """What a bank says of a base, with the fingerprints of what no file holds; nothing is written.

    Args:
        base: what the bank says of its base: kind, drawn tensors and their seeds, digest and fingerprints if known.
        values: from ``values_of``.
        digest: from ``base_digest``.

    Raises:
        ValueError: if a tensor is not what its seed draws, or a base that is not stored has changed.
    """
    for name, seed in base["drawn"].items():
        if name not in values:
            raise ValueError(
                f"expected drawn tensors of the base, found {name!r}: a private tensor lies in its records"
            )
        if fingerprint(_drawn(values[name], seed, name)) != fingerprint(values[name]):
            raise ValueError(
                f"expected {name!r} to be the signed constant of seed {seed}, found other values: store it instead"
            )
    kept, host = _own(base, values), _host(base, values)
    prints = {name: fingerprint(values[name]) for name in values if name not in kept}
    if changed := [name for name in base.get("prints", ()) if base["prints"][name] != prints.get(name)]:
        raise ValueError(
            f"expected the base as it was when the bank was created, found {changed[0]!r} changed: a base that learns "
            "cannot be kept as a fingerprint or as a host, create the bank with base='stored' and host=()"
        )
    found = {"kind": base["kind"], "digest": digest, "drawn": dict(base["drawn"]), "prints": prints}
    found |= {"owned": base["owned"]} if "owned" in base else {}
    if not host:
        return found
    return {**found, "host": {"names": sorted(host), "digest": base["host"].get("digest") or digest_of(host)}}


def write_base(folder: Path, base: Mapping[str, Any], values: Mapping[str, Tensor]) -> None:
    """Write the files of a base that ``describe_base`` describes; that of its host is shared with other banks."""
    if base["digest"]:
        write_tensors(folder, _stored(base, values), base["digest"])
    if "host" in base:
        write_shared(folder, _host(base, values), base["host"]["digest"])


def host_of(sites: Sites, names: Collection[str], kind: str) -> dict[str, Any]:
    """What a bank says of the part of its base that never learns, if that is large enough for a file of its own."""
    found = [name for name in sites.names(*BASE) if name in names]
    size = sum(sites.base(name).numel() * sites.base(name).element_size() for name in found)
    return {"host": {"names": found}} if kind == "stored" and size >= HOST_BYTES else {}


def files_of_base(base: Mapping[str, Any]) -> list[str]:
    """The digests of the files that hold a base."""
    return [digest for digest in (base["digest"], base.get("host", {}).get("digest")) if digest]


def _host(base: Mapping[str, Any], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a base that never learns, if it has a file of its own."""
    return {name: values[name] for name in base.get("host", {}).get("names", ())}


def _own(base: Mapping[str, Any], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a base that lies in a file of the bank's own."""
    others = {*base["drawn"], *base.get("host", {}).get("names", ())}
    return {name: value for name, value in values.items() if name not in others and base["kind"] == "stored"}


def _stored(base: Mapping[str, Any], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same as it is stored: what belongs to tasks by rows in half precision, where that holds it exactly."""
    found, owned = _own(base, values), base.get("owned", ())
    for name in filter(found.__contains__, owned):
        found |= narrow(name, found.pop(name), 16)
    return found


def _read(folder: Path, base: Mapping[str, Any]) -> dict[str, Tensor]:
    """What the files of a base hold."""
    return widen({name: value for file in files_of_base(base) for name, value in read_tensors(folder, file).items()})


def read_base(folder: Path, base: Mapping[str, Any], table: Table) -> dict[str, Tensor]:
    """The base as committed, stored and drawn tensors.

    Args:
        folder: the bank's folder.
        base: what the bank says of its base.
        table: the table of its sites.

    Raises:
        ValueError: if the bank holds no more than its fingerprint, or another torch draws other tensors.
    """
    if base["kind"] != "stored":
        raise ValueError(
            f"expected a base in {folder}, found no more than its fingerprint: bring the backbone, as when it was made"
        )
    found = _read(folder, base)
    for line in table:
        if line["name"] in base["drawn"]:
            like = torch.empty(line["shape"], dtype=getattr(torch, line["dtype"]))
            found[line["name"]] = _drawn(like, base["drawn"][line["name"]], line["name"])
    _check_prints(base, found)
    return found


def bare_sites(table: Table, units: Mapping[str, int], wiring: Wiring | None, values: Mapping[str, Tensor]) -> Sites:
    """A table's sites on a base without its network: enough to say what a task reads, not to answer.

    Args:
        table: the table of a bank's sites.
        units: module name -> axis, of layers whose units are masked.
        wiring: what those units feed, if that is known.
        values: the base.
    """
    root = nn.Module()
    kinds = {line["name"]: line["kind"] for line in table if line["name"] in values}
    for name in kinds:
        path, _, leaf = name.rpartition(".")
        _inner(root, path).register_buffer(leaf, values[name])
    for path in units:
        _inner(root, path)
    return attach(root, {name: Role("frozen", kind) for name, kind in kinds.items()}, units, wiring)


def _inner(root: nn.Module, path: str) -> nn.Module:
    """The module at a path, made where there is none."""
    for step in path.split(".") if path else ():
        if step not in root._modules:
            root.add_module(step, nn.Module())
        root = root.get_submodule(step)
    return root


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
        wiring: what those units feed, if that is known.

    Raises:
        ValueError: if it is another network, or another base than the one that the tasks were learned on.
    """
    check_network(module, table, units)
    live = {name: spots[0].tensor() for name, spots in places(module).items()}
    values = _read(folder, base)
    values |= {name: _drawn(live[name], seed, name) for name, seed in base["drawn"].items()}
    _check_prints(base, {name: values.get(name, live[name]) for name in base["prints"]})
    sites = attach(
        module, {line["name"]: Role(line["kind"], line["why"], line["held"]) for line in table}, units, wiring
    )
    for name, value in values.items():
        sites.write(name, value)
    module.eval()
    return sites


def _check_prints(base: Mapping[str, Any], values: Mapping[str, Tensor]) -> None:
    for name, was in base["prints"].items():
        if (found := fingerprint(values[name])) != was:
            way = "use the torch that drew it" if name in base["drawn"] else "bring the backbone of these tasks"
            raise ValueError(f"expected {name!r} of the base to have the fingerprint {was}, found {found}: {way}")


def _drawn(like: Tensor, seed: int, name: str) -> Tensor:
    return signed_constant(like.shape, seed, name).to(like.dtype)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _kinds(table: Table) -> list[tuple[str, str]]:
    return [(line["name"], line["dtype"]) for line in table]
