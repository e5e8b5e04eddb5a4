"""The sites that are left while a network is asked, and all that is known of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from polymask.wiring.paint import axis_of, zeros_for
from polymask.wiring.question import Columns, Question, Reach
from polymask.wiring.table import ANY, NONE, Feed, Wiring

DRAWS, FEW = 8, 2
"""How often parameters and input are drawn to see what is zero: at last, and while sites are still being dropped."""


@dataclass
class Search:
    """The sites that are left, and what is known of them.

    A norm that is masked again as its input is stands between its sources and what reads it, as a source of its own.

    Args:
        question: the network.
        rows: layer -> where its units are masked.
        sites: these, without those that were dropped.
        echoes: the norms that are masked again.
        barred: the norms that cannot be.
        reach: what is known of where sites and echoes arrive.
        units: and of which units arrive there: of columns that may be shut.
        asked: sources and readers of which it was asked whether finite paint arrives.
    """

    question: Question
    rows: dict[str, str]
    sites: list[str]
    echoes: list[str] = field(default_factory=list)
    barred: set[str] = field(default_factory=set)
    reach: Reach = field(default_factory=dict)
    units: Reach = field(default_factory=dict)
    asked: set[tuple[str, str]] = field(default_factory=set)

    @property
    def sources(self) -> list[str]:
        """All that is masked."""
        return [*self.sites, *self.echoes]

    def keep_only(self, kept: set[str]) -> None:
        """Drop the other sites; norms that echo are looked for anew."""
        gone = {site for site in self.sites if site not in kept}
        gone |= {layer for layer, site in self.rows.items() if site in gone}
        self.question.idle -= gone
        self.sites = [site for site in self.sites if site in kept]
        gone |= {*self.echoes}
        self.echoes = []
        self._forget(gone)

    def _forget(self, changed: set[str]) -> None:
        """Forget what is known of sources that are no more, and of those that reach what now is one, or was."""
        kept = {source: at for source, at in self.reach.items() if source in self.sources and not changed & at.keys()}
        self.reach = {source: at for source, at in kept.items() if source not in changed}
        self.units = {source: at for source, at in self.units.items() if source in self.reach}
        self.asked = {(source, reader) for source, reader in self.asked if source in self.reach}

    def wiring(self, draws: int) -> Wiring:
        """What the sites feed and shut; those that shut no column of a layer are dropped before more is asked."""
        while True:
            unknown = [source for source in self.sources if source not in self.reach]
            self.reach.update(self.question.reach(unknown, self.sources))
            if self.question.find_other_inputs([path for path in unknown if not self.reach[path]], self.sources):
                self._forget({*self.sources})
                continue
            fed = self._fed()
            closed = self._closed(fed, FEW)
            if self._echo(fed, closed):
                continue
            shutting = with_sources_of_echoes(
                {
                    source
                    for reader, each in fed.items()
                    for source, at in each.items()
                    if reader in self.question.layers and (at & closed[reader]).any()
                },
                {echo: fed[echo] for echo in self.echoes},
            )
            if not shutting >= {*self.sites}:
                self.keep_only(shutting)
                continue
            self._spell(fed, closed)
            if self._drop_nan_only(fed, closed):
                continue
            feeds = {reader: self._feeds(reader, each) for reader, each in fed.items()}
            closed = self._closed(fed, draws) if draws > FEW else closed
            wrong = {norm for norm in self.echoes if not (closed[norm].all() and from_one_unit(feeds[norm]).all())}
            if not wrong:
                return self._table(feeds, closed)
            self._bar(wrong)

    def _echo(self, fed: dict[str, Columns], closed: Columns) -> bool:
        """Take in the norms whose whole input arrives as zero; whether there are new ones."""
        norms = [norm for norm in self.question.norms if norm in fed and norm not in self.sources]
        new = [norm for norm in norms if norm not in self.barred and closed[norm].all()]
        self.echoes += new
        self._forget({*new})
        return bool(new)

    def _bar(self, norms: set[str]) -> None:
        self.barred |= norms
        self.echoes = [norm for norm in self.echoes if norm not in norms]
        self._forget({*norms})

    def _drop_nan_only(self, fed: dict[str, Columns], closed: Columns) -> bool:
        """Leave out sources whose NaN arrives all over columns that one unit of another feeds, but nothing finite does.

        So a value of an attention is not hidden by what only its softmax has spread; whether something was left out.
        """
        doubtful: dict[str, set[str]] = {}
        for reader, each in fed.items():
            if len(each) > 1 and reader not in self.question.unsure:
                for source, columns in self._spread(reader, each, closed[reader]).items():
                    if columns.any() and (source, reader) not in self.asked:
                        doubtful.setdefault(source, set()).add(reader)
        changed = False
        for source, readers in doubtful.items():
            self.asked |= {(source, reader) for reader in readers}
            for reader, at in self.question.finite_reach(source, self.sources, readers).items():
                gone = self._spread(reader, fed[reader], closed[reader])[source] & ~at
                changed |= bool(gone.any())
                if gone.any():
                    self.question.decided_by_finite.add(reader)
                    self.reach[source][reader] = self.reach[source][reader] & ~gone
                    self.units[source].pop(reader)
        return changed

    def _spread(self, reader: str, each: Columns, closed: Tensor) -> Columns:
        """Source -> the shut columns that it feeds by more than one unit, while another feeds them by a single one."""
        units = {source: self.units[source].get(reader) for source in each}
        known = {source: unit for source, unit in units.items() if unit is not None}
        alone = torch.stack([unit >= 0 for unit in known.values()]).any(0) if known else closed & False
        return {source: (unit == ANY) & alone & closed for source, unit in known.items()}

    def _feeds(self, reader: str, each: Columns) -> tuple[Feed, ...]:
        known = {source: self.units[source].get(reader, torch.where(at, ANY, NONE)) for source, at in each.items()}
        return tuple(Feed(source, units) for source, units in known.items())

    def _fed(self) -> dict[str, Columns]:
        """Reader -> the sources that arrive there, and at which columns."""
        fed: dict[str, Columns] = {}
        for source in self.sources:
            for reader, at in self.reach[source].items():
                if reader and self._reads(reader, at):
                    fed.setdefault(reader, {})[source] = at
        return fed

    def _reads(self, reader: str, at: Tensor) -> bool:
        """Whether what arrived at a reader are its weight's columns."""
        module = self.question.network.modules[reader]
        columns, *_ = module.weight.shape[1:] or module.weight.shape
        return len(at) == int(columns) * int(getattr(module, "groups", 1) if module.weight.ndim > 1 else 1)

    def _spell(self, fed: dict[str, Columns], closed: Columns) -> None:
        """Ask for the units that feed the columns that are shut, where they are not yet known."""
        wanted: Reach = {}
        for reader, each in fed.items():
            for site, at in each.items():
                if reader not in self.units.setdefault(site, {}) and (at & closed[reader]).any():
                    wanted.setdefault(site, {})[reader] = at
        for site, units in self.question.units(list(wanted), self.sources, wanted).items():
            self.units[site].update(units)

    def _table(self, feeds: dict[str, tuple[Feed, ...]], closed: Columns) -> Wiring:
        question, modules = self.question, self.question.network.modules
        feeds = {reader: each for reader, each in feeds.items() if reader in question.layers or reader in self.echoes}
        groups = {path: getattr(modules[path], "groups", 1) for path in feeds if path in question.layers}
        return Wiring(
            sites={site: axis_of(modules[site]) for site in self.sites},
            sizes={site: question.size[site] for site in self.sites},
            rows={layer: site for layer, site in self.rows.items() if site in self.sites},
            feeds=feeds,
            free={reader: ~closed[reader] for reader in feeds},
            echoes={norm: axis_of(modules[norm]) for norm in self.echoes},
            groups={path: count for path, count in groups.items() if count > 1},
            notes=question.notes,
        )

    def _closed(self, fed: dict[str, Columns], draws: int) -> Columns:
        """The columns that arrive as zero while all is shut; unless one with the same sources sometimes does not."""
        zero, sometimes = self.question.zero_columns(zeros_for(self.question.size, self.sources), draws)
        closed: Columns = {}
        for reader, each in fed.items():
            at = torch.stack(list(each.values()))
            by = (at * (1 << torch.arange(len(at)) % 62)[:, None]).sum(0)
            doubtful = torch.isin(by, by[sometimes[reader]].unique())
            closed[reader] = zero[reader] & at.any(0) & ~doubtful
        return closed


def from_one_unit(feeds: tuple[Feed, ...]) -> Tensor:
    """The columns that some unit feeds, and no site by more than one."""
    units = torch.stack([feed.units for feed in feeds])
    return (units >= 0).any(0) & (units != ANY).all(0)


def with_sources_of_echoes(useful: set[str], echoes: Mapping[str, Collection[str]]) -> set[str]:
    """The sources that are of use, with those of every norm among them that is masked again.

    >>> sorted(with_sources_of_echoes({"n"}, {"n": ["a", "m"], "m": ["b"]}))
    ['a', 'b', 'm', 'n']
    """
    more = {source for echo, sources in echoes.items() if echo in useful for source in sources}
    return useful if more <= useful else with_sources_of_echoes(useful | more, echoes)
