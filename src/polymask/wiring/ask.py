"""Ask a network, not its graph: which unit of which layer feeds which column, and what arrives as zero."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polymask.wiring.doubt import doubted
from polymask.wiring.probe import LAYERS, Probe, axis_of
from polymask.wiring.table import ANY, NONE, Feed, Wiring

NAN = float("nan")
Columns = dict[str, Tensor]
Reach = dict[str, Columns]
"""Site -> reader -> the columns that it reaches without passing another site."""


@dataclass
class _Question:
    """A network under examination.

    Args:
        probe: the perturbed copy.
        layers: the layers whose rows and columns are asked for, in the model's order.
        norms: the norms that can be masked again.
        readers: all whose input is watched -> axis of their columns.
        size: module -> how many units it has.
    """

    probe: Probe
    layers: list[str]
    norms: list[str]
    readers: dict[str, int]
    size: dict[str, int]
    notes: dict[str, str] = field(default_factory=dict)

    def shut(self, paths: Iterable[str]) -> dict[str, Tensor]:
        return {path: torch.zeros(self.size[path]) for path in paths}

    def reach(self, sources: Iterable[str], gates: Iterable[str]) -> Reach:
        """Where each source's units arrive, the other gates being shut."""
        shut, found = self.shut(gates), {}
        for path in sources:
            nan = torch.full((self.size[path],), NAN)
            logits, seen = self.probe.run({**shut, path: nan}, self.readers)
            found[path] = {reader: at for reader, at in seen.items() if at.any()}
            if logits.isnan().any():
                found[path][""] = torch.ones(1, dtype=torch.bool)
        return found

    def zeros(self, gates: Mapping[str, Tensor]) -> Columns:
        """The columns that arrive as exactly zero under some masks, on two inputs."""
        found: Columns = {}
        for _ in range(2):
            self.probe.redraw()
            for reader, busy in self.probe.run(gates, self.readers, lambda x: x != 0)[1].items():
                found[reader] = found.get(reader, torch.ones_like(busy)) & ~busy
        return found


def ask(model: nn.Module, example: Any, head: str, masked: Iterable[str]) -> Wiring:
    """Find the sites of a network and what they shut.

    A layer's units are masked at its own output, or at that of the BatchNorm which alone reads it. A layer becomes a
    site only if some later column is fed by one of its units, unmixed, and arrives as exactly zero when that unit and
    whatever else feeds the column is masked; so a residual stream before a LayerNorm, or queries and keys, do not.

    Args:
        model: a plain network; it stays as it is.
        example: an input that it accepts.
        head: the name of its head.
        masked: the weights that a method gates.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> found = ask(net, torch.zeros(1, 4), "2", ["0.weight"])
    >>> found.sites, found.rows, found.feeds["2"][0].units
    ({'0': -1}, {'0': '0'}, tensor([0, 1, 2]))
    """
    question = _prepared(model, example, head, masked)
    sites, rows = _candidates(question, head)
    while True:
        wiring = _wired(question, sites, {layer: site for layer, site in rows.items() if site in sites})
        # What mixes goes first: queries and keys hide that a value's units stay apart.
        kept = _useful(wiring, lambda feeds: torch.ones_like(feeds[0].units, dtype=torch.bool))
        kept = kept if len(kept) < len(sites) else _useful(wiring, _single)
        if len(kept) == len(sites):
            return doubted(wiring, question.probe)
        sites = [site for site in sites if site in kept]


def _prepared(model: nn.Module, example: Any, head: str, masked: Iterable[str]) -> _Question:
    probe, names = Probe(model, example), set(masked)
    own = {path: module for path, module in probe.modules.items() if module._parameters and path != ""}
    own.update({"": probe.model} if probe.model._parameters else {})
    probe.model.train()
    learning = probe.called(own)
    probe.model.eval()
    answering = probe.called(own)
    called = [path for path in own if learning.get(path) and answering.get(path)]
    layers = [p for p in called if isinstance(own[p], LAYERS) and (f"{p}.weight".lstrip(".") in names or p == head)]
    norms = [p for p in called if any("Norm" in cls.__name__ for cls in type(own[p]).__mro__) and _affine(own[p])]
    size = {path: own[path].weight.shape[0] for path in (*layers, *norms)}
    readers = {path: axis_of(own[path]) for path in (*layers, *norms)}
    question = _Question(probe, layers, norms, readers, size)
    for path in own:
        if path not in called and isinstance(own[path], LAYERS):
            question.notes[path] = "its module is not called"
    return question


def _affine(norm: nn.Module) -> bool:
    weight = norm._parameters.get("weight")
    return weight is not None and weight.ndim == 1


def _candidates(question: _Question, head: str) -> tuple[list[str], dict[str, str]]:
    """Every layer but the head, masked at its output or at the BatchNorm that alone reads it."""
    inner = [path for path in question.layers if path != head]
    reach = question.reach(inner, [*inner, *question.norms])
    sources: dict[str, list[str]] = {}
    for path, arrived in reach.items():
        for reader in arrived:
            sources.setdefault(reader, []).append(path)
    rows = {}
    for path in inner:
        (only, *others) = reach[path] or [""]
        rows[path] = only if not others and sources.get(only) == [path] and _folds(question, path, only) else path
    return list(dict.fromkeys(rows.values())), rows


def _folds(question: _Question, layer: str, norm: str) -> bool:
    """Whether a BatchNorm keeps a layer's units apart and answers 0 where its affine part is 0."""
    module = question.probe.modules[norm]
    if not isinstance(module, nn.modules.batchnorm._BatchNorm) or question.size.get(norm) != question.size[layer]:
        return False
    if norm not in question.norms:
        return False
    dead = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in dead.parameters():
            parameter.zero_()
        shape = (2, question.size[layer], *[3] * {"BatchNorm2d": 2, "BatchNorm3d": 3}.get(_kind(module), 0))
        return not bool(dead(torch.randn(shape, generator=question.probe.draw)).any())


def _kind(module: nn.Module) -> str:
    return next(
        cls.__name__
        for cls in type(module).__mro__
        if cls.__name__.startswith("BatchNorm") and "Act" not in cls.__name__
    )


def _wired(question: _Question, sites: list[str], rows: dict[str, str]) -> Wiring:
    reach = question.reach(sites, sites)
    feeds = _feeds(question, sites, reach)
    echoes: dict[str, int] = {}
    while True:
        zeros = question.zeros(question.shut([*sites, *echoes]))
        more = {
            norm: axis_of(question.probe.modules[norm])
            for norm in question.norms
            if norm not in sites
            and norm not in echoes
            and norm in feeds
            and zeros[norm].all()
            and _single(feeds[norm]).all()
        }
        if not more:
            break
        echoes.update(more)
    fed = {reader: torch.stack([feed.units != NONE for feed in each]).any(0) for reader, each in feeds.items()}
    free = {reader: ~(zeros[reader] & fed[reader]) for reader in feeds}
    kept = {reader: each for reader, each in feeds.items() if reader in question.layers or reader in echoes}
    groups = {path: getattr(question.probe.modules[path], "groups", 1) for path in kept}
    return Wiring(
        {site: axis_of(question.probe.modules[site]) for site in sites},
        {site: question.size[site] for site in sites},
        rows,
        kept,
        {reader: free[reader] for reader in kept},
        echoes,
        {path: count for path, count in groups.items() if count > 1},
        question.notes,
    )


def _single(feeds: tuple[Feed, ...]) -> Tensor:
    """The columns that some unit feeds, and no site by more than one."""
    units = torch.stack([feed.units for feed in feeds])
    return (units >= 0).any(0) & (units != ANY).all(0)


def _useful(wiring: Wiring, which: Callable[[tuple[Feed, ...]], Tensor]) -> set[str]:
    """The sites of which some unit, unmixed, shuts a column of a layer; of columns that pass a test."""
    found: set[str] = set()
    for reader, each in wiring.feeds.items():
        if reader in wiring.echoes:
            continue
        closed = ~wiring.free[reader] & which(each)
        found.update(feed.site for feed in each if ((feed.units >= 0) & closed).any())
    return found


def _feeds(question: _Question, sites: list[str], reach: Reach) -> dict[str, tuple[Feed, ...]]:
    """Unit by unit: sites whose columns do not overlap are asked together, the bits of their units painted."""
    feeds: dict[str, list[Feed]] = {}
    shut = question.shut(sites)
    for together in _apart(sites, reach):
        bits = max(question.size[site] - 1 for site in together).bit_length() or 1
        planes: dict[int, list[Columns]] = {0: [], 1: []}
        for bit in range(bits):
            for wanted in (1, 0):
                painted = {s: _plane(question.size[s], bit, wanted) for s in together}
                planes[wanted].append(question.probe.run({**shut, **painted}, question.readers)[1])
        for site in together:
            for reader, columns in reach[site].items():
                if reader:
                    ones, zeros = ([seen[reader] for seen in planes[wanted]] for wanted in (1, 0))
                    feeds.setdefault(reader, []).append(Feed(site, _spell(ones, zeros, columns)))
    return {reader: tuple(each) for reader, each in feeds.items()}


def _plane(size: int, bit: int, wanted: int) -> Tensor:
    marked = (torch.arange(size) >> bit) & 1 == wanted
    return torch.where(marked, torch.tensor(NAN), torch.tensor(0.0))


def _spell(ones: list[Tensor], zeros: list[Tensor], columns: Tensor) -> Tensor:
    """Which unit the bits of a column spell; ``ANY`` where two disagree."""
    one, zero = torch.stack(ones), torch.stack(zeros)
    unit = (one.long() << torch.arange(len(ones))[:, None]).sum(0)
    clear = (one ^ zero).all(0)
    return torch.where(columns, torch.where(clear, unit, ANY), NONE)


def _apart(sites: list[str], reach: Reach) -> list[list[str]]:
    """Sites in as few groups as a greedy choice finds, no column reached by two of a group."""
    groups: list[tuple[list[str], Columns]] = []
    for site in sites:
        arrives = {reader: at for reader, at in reach[site].items() if reader}
        free = (
            group for group in groups if not any((group[1][r] & at).any() for r, at in arrives.items() if r in group[1])
        )
        members, taken = next(free, ([], {}))
        if not members:
            groups.append((members, taken))
        members.append(site)
        for reader, at in arrives.items():
            taken[reader] = taken[reader] | at if reader in taken else at
    return [members for members, _ in groups]
