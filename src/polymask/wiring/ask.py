"""Ask a network, not its graph: which unit of which layer feeds which column, and what arrives as zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polymask.wiring.doubt import doubted
from polymask.wiring.fold import rows_of
from polymask.wiring.probe import Probe, axis_of, shut
from polymask.wiring.question import Columns, Question, Reach, Units, prepared
from polymask.wiring.table import ANY, NONE, Feed, Wiring

DRAWS, FEW = 8, 2
"""How often parameters and input are drawn to see what is zero: at last, and while sites are still being dropped."""
CRASHES = (IndexError, RuntimeError, ValueError, ArithmeticError, AssertionError)
"""What a network raises when it is asked for the NaN-th row of a table."""


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
    question = prepared(model, example, head, masked)
    return doubted(_found(question, head), question.probe)


def _found(question: Question, head: str) -> Wiring:
    """The wiring, where need be without the layers whose NaN the network does not survive."""
    try:
        return _settled(question, rows_of(question, head))
    except CRASHES:
        inner = [path for path in question.layers if path != head]
        fragile = [path for path in inner if _crashes(question, path)]
        question.notes.update(dict.fromkeys(fragile, "the network fails where this layer's units are NaN"))
        question.idle = set()
    try:
        # Unmasked, they are on nobody's way; and nothing is folded, as that too was asked with their NaN.
        return _settled(question, {path: path for path in inner if path not in fragile})
    except CRASHES as error:
        note = f"the network fails where units are NaN: {error}"
        return Wiring(notes={**question.notes, **dict.fromkeys(inner, note)})


def _crashes(question: Question, path: str) -> bool:
    try:
        question.reach([path], [])
    except CRASHES:
        return True
    return False


def _settled(question: Question, rows: dict[str, str]) -> Wiring:
    """Sites are dropped until all that are left shut something."""
    question.idle = {layer for layer, site in rows.items() if site != layer}
    state, draws = _State(question, rows, list(dict.fromkeys(rows.values()))), FEW
    while True:
        wiring = state.wiring(draws)
        # What mixes goes first: queries and keys hide that a value's units stay apart.
        kept = _useful(wiring, lambda feeds: torch.ones_like(feeds[0].units, dtype=torch.bool))
        kept = kept if len(kept) < len(state.sites) else _useful(wiring, single)
        if len(kept) < len(state.sites):
            state.keep(kept)
        elif draws == DRAWS:
            return wiring
        else:
            draws = DRAWS


@dataclass
class _State:
    """The sites that are left, and what is known of them.

    Args:
        question: the network.
        rows: layer -> where its units are masked.
        sites: these, without those that were dropped.
    """

    question: Question
    rows: dict[str, str]
    sites: list[str]
    reach: Reach = field(default_factory=dict)
    units: Units = field(default_factory=dict)

    def keep(self, kept: set[str]) -> None:
        """Drop the other sites, and what was known of sites that reach through them."""
        gone = {site for site in self.sites if site not in kept}
        gone |= {layer for layer, site in self.rows.items() if site in gone}
        self.question.idle -= gone
        self.sites = [site for site in self.sites if site in kept]
        self.reach = {site: at for site, at in self.reach.items() if site in kept and not gone & at.keys()}

    def wiring(self, draws: int) -> Wiring:
        """What the sites feed and shut."""
        unknown = [site for site in self.sites if site not in self.reach]
        found = self.question.reach(unknown, self.sites)
        self.reach.update(found)
        self.units.update(self.question.units(unknown, self.sites, found))
        feeds: dict[str, list[Feed]] = {}
        for site in self.sites:
            for reader, units in self.units[site].items():
                feeds.setdefault(reader, []).append(Feed(site, units))
        return self._table({reader: tuple(each) for reader, each in feeds.items() if self._reads(reader, each)}, draws)

    def _reads(self, reader: str, feeds: list[Feed]) -> bool:
        """Whether what arrived at a reader are its weight's columns."""
        module = self.question.probe.modules[reader]
        columns = module.weight.shape[1] * getattr(module, "groups", 1) if module.weight.ndim > 1 else module.weight
        return len(feeds[0].units) == (columns if isinstance(columns, int) else len(columns))

    def _table(self, feeds: dict[str, tuple[Feed, ...]], draws: int) -> Wiring:
        question = self.question
        echoes, closed = self._echoes(feeds, draws)
        feeds = {reader: each for reader, each in feeds.items() if reader in question.layers or reader in echoes}
        modules = question.probe.modules
        groups = {path: getattr(modules[path], "groups", 1) for path in feeds}
        rows = {layer: site for layer, site in self.rows.items() if site in self.sites}
        return Wiring(
            sites={site: axis_of(modules[site]) for site in self.sites},
            sizes={site: question.size[site] for site in self.sites},
            rows=rows,
            feeds=feeds,
            free={reader: ~closed[reader] for reader in feeds},
            echoes={norm: axis_of(modules[norm]) for norm in echoes},
            groups={path: count for path, count in groups.items() if count > 1},
            notes=question.notes,
        )

    def _echoes(self, feeds: dict[str, tuple[Feed, ...]], draws: int) -> tuple[list[str], Columns]:
        """The norms to be masked again, and of all readers the columns that are shut by what feeds them."""
        norms = [norm for norm in self.question.norms if norm in feeds and norm not in self.sites]
        norms = [norm for norm in norms if single(feeds[norm]).all()]
        echoes: list[str] = []
        while True:
            closed = self._closed(feeds, echoes, FEW)
            more = [norm for norm in norms if norm not in echoes and closed[norm].all()]
            echoes += more
            if more:
                continue
            closed = self._closed(feeds, echoes, draws) if draws > FEW else closed
            wrong = {norm for norm in echoes if not closed[norm].all()}
            if not wrong:
                return echoes, closed
            norms = [norm for norm in norms if norm not in wrong]
            echoes = []

    def _closed(self, feeds: Mapping[str, tuple[Feed, ...]], echoes: list[str], draws: int) -> Columns:
        """The columns that arrive as zero while all is shut; unless one that the same sites feed sometimes does not."""
        zero, sometimes = self.question.zeros(shut(self.question.size, [*self.sites, *echoes]), draws)
        closed: Columns = {}
        for reader, each in feeds.items():
            fed = torch.stack([feed.units != NONE for feed in each])
            by = (fed * (1 << torch.arange(len(fed)) % 62)[:, None]).sum(0)
            doubtful = torch.isin(by, by[sometimes[reader]].unique())
            closed[reader] = zero[reader] & fed.any(0) & ~doubtful
        return closed


def single(feeds: tuple[Feed, ...]) -> Tensor:
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
