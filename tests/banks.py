"""Banks by hand: a small network with BatchNorm and records made without any method."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymask.bank.bank import Bank
from polymask.builder import Builder
from polymask.lock import LOCK
from polymask.nets.mlp import MLP
from polymask.parts.pack import Packed, pack, pack_owners, unpack
from polymask.parts.seeds import generator
from polymask.parts.sparse import sparsify
from polymask.sites.table import Role, Sites, attach, bake
from polymask.task import Meta, TaskRecord, activate, reads

ARGS: dict[str, Any] = {"inputs": 12, "hidden": [16, 8], "outputs": 5, "norm": True}
BUILDER = Builder("polymask.nets.mlp:MLP", ARGS)
WEIGHTS = ("body.1.weight", "body.4.weight")
EXAMPLE = torch.linspace(-2, 2, 24).view(2, 12)


def network(seed: int = 0) -> nn.Module:
    """The network of ``BUILDER``, seeded."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MLP(12, (16, 8), 5, norm=True)


def roles(model: nn.Module) -> dict[str, Role]:
    """Weights masked, their biases frozen, norms and head private."""
    table = {}
    for name in (*dict(model.named_parameters()), *dict(model.named_buffers())):
        if name in WEIGHTS:
            table[name] = Role("masked", "a matrix")
        elif name.startswith(("body.1.", "body.4.")):
            table[name] = Role("frozen", "a bias")
        else:
            table[name] = Role("private", "a norm" if name.startswith("body") else "the head")
    return table


def attached(seed: int = 0, dtype: torch.dtype = torch.float32) -> Sites:
    """The network with its sites."""
    model = network(seed).to(dtype)
    return attach(model, roles(model))


def private(sites: Sites, task: str, outputs: int) -> dict[str, Tensor]:
    """Norms and a head of a task's own."""
    found = {}
    for name in sites.names("private"):
        old = sites.tensor(name)
        shape = (outputs, *old.shape[1:]) if name.startswith("head") else old.shape
        value = torch.rand(shape, generator=generator(task, name)) + 0.5
        found[name] = value.to(old.dtype)
    return found


def record(
    sites: Sites,
    task: str,
    outputs: int = 3,
    *,
    masks: dict[str, Packed] | None = None,
    delta: bool = False,
    exact: bool | float | None = True,
    **meta: Any,
) -> TaskRecord:
    """A record with random masks unless they are given."""
    if masks is None:
        shapes = {name: sites.tensor(name).shape for name in WEIGHTS}
        masks = {name: pack(torch.rand(s, generator=generator(task, name)) < 0.5) for name, s in shapes.items()}
    deltas = {}
    if delta:
        value = torch.zeros(sites.tensor(WEIGHTS[0]).shape)
        value[0, 1], value[2, 3] = 0.25, -1.0
        deltas[WEIGHTS[0]] = sparsify(value)
    found = reads(sites, {name: unpack(packed) for name, packed in masks.items()})
    about = Meta(task, "by hand", outputs, exact, **meta)
    return TaskRecord(masks, deltas, private(sites, task, outputs), found, about)


def nested(sites: Sites, count: int) -> Iterator[TaskRecord]:
    """PackNet by hand: every task takes a part of what is free, the free rest changes, and a record is given."""
    owner = {name: torch.zeros(sites.tensor(name).shape, dtype=torch.uint8) for name in WEIGHTS}
    for code in range(1, count + 1):
        masks = {}
        for name, plane in owner.items():
            free, fresh = plane == 0, torch.randn(plane.shape, generator=generator(name, code))
            sites.write(name, torch.where(free, fresh, sites.base(name)))
            plane[free & (torch.rand(plane.shape, generator=generator(code, name)) < 0.3)] = code
            masks[name] = pack_owners(plane, code, code)
        yield record(sites, f"task {code}", 1 + code, masks=masks)


def make(path: Path, sites: Sites | None = None, **options: Any) -> tuple[Bank, Sites]:
    """An empty bank, and the sites behind it."""
    sites = attached() if sites is None else sites
    options = {"builder": BUILDER, "example": EXAMPLE, "head": "head", **options}
    return Bank.create(path, sites, method="by hand", **options), sites


def filled(path: Path) -> Bank:
    """A bank with every kind of file: a base, records, planes, a learner, a probe batch and its logits."""
    bank, sites = make(path, probe={"x": EXAMPLE})
    shapes = {name: sites.tensor(name).shape for name in WEIGHTS}
    plane = {name: torch.randint(0, 3, s, generator=generator(name), dtype=torch.uint8) for name, s in shapes.items()}
    owned = {name: pack_owners(codes, 2, 2) for name, codes in plane.items()}
    bank.commit({"a": record(sites, "a", 3, delta=True), "b": record(sites, "b", 4, masks=owned)}, sites)
    bank.commit({"c": record(sites, "c", 2)}, sites, learner={"step": 3, "scores": {"w": torch.ones(4)}})
    return bank


def answer(sites: Sites, one: TaskRecord, x: Tensor = EXAMPLE) -> Tensor:
    """The logits of a record on the model it was made on."""
    activate(sites, one)
    return logits(bake(sites.model), x)


@torch.no_grad()
def logits(plain: nn.Module, x: Tensor = EXAMPLE) -> Tensor:
    """The logits of a plain model."""
    found: Tensor = plain(x)
    return found


def on_disk(path: Path) -> dict[str, bytes]:
    """Every file of a folder but the lock, which holds nothing."""
    return {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.name != LOCK}


def flat(sizes: dict[str, Any]) -> int:
    """All bytes that a bank reports."""
    return sum(sum(value.values()) if isinstance(value, dict) else value for value in sizes.values())


def same_record(a: TaskRecord, b: TaskRecord) -> bool:
    """Whether two records are equal to the bit."""
    pairs = [(a.private[name], b.private[name]) for name in a.private]
    pairs += [(unpack(a.masks[name]), unpack(b.masks[name])) for name in a.masks]
    pairs += [(a.deltas[name].index, b.deltas[name].index) for name in a.deltas]
    pairs += [(a.deltas[name].value, b.deltas[name].value) for name in a.deltas]
    whole = (a.meta, a.reads, list(a.private), list(a.masks)) == (b.meta, b.reads, list(b.private), list(b.masks))
    return whole and all(torch.equal(x, y) and x.dtype == y.dtype for x, y in pairs)
