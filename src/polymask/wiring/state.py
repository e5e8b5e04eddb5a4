"""The sites that are left while a network is asked, and all that is known of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from polymask.wiring.probe import axis_of, shut
from polymask.wiring.question import Columns, Question, Reach
from polymask.wiring.table import ANY, NONE, Feed, Wiring

DRAWS, FEW = 8, 2
"""How often parameters and input are drawn to see what is zero: at last, and while sites are still being dropped."""


@dataclass
class State:
    """The sites that are left, and what is known of them.

    Args:
        question: the network.
        rows: layer -> where its units are masked.
        sites: these, without those that were dropped.
        reach: what is known of where they arrive.
        units: and of which units arrive there: of columns that may be shut.
    """

    question: Question
    rows: dict[str, str]
    sites: list[str]
    reach: Reach = field(default_factory=dict)
    units: Reach = field(default_factory=dict)

    def keep(self, kept: set[str]) -> None:
        """Drop the other sites, and what was known of sites that reach through them."""
        gone = {site for site in self.sites if site not in kept}
        gone |= {layer for layer, site in self.rows.items() if site in gone}
        self.question.idle -= gone
        self.sites = [site for site in self.sites if site in kept]
        self.reach = {site: at for site, at in self.reach.items() if site in kept and not gone & at.keys()}
        self.units = {site: at for site, at in self.units.items() if site in self.reach}

    def wiring(self, draws: int) -> Wiring:
        """What the sites feed and shut; those that shut no column of a layer are dropped before more is asked."""
        while True:
            unknown = [site for site in self.sites if site not in self.reach]
            self.reach.update(self.question.reach(unknown, self.sites))
            fed = self._fed()
            echoes, closed = self._echoes(fed, set(self.question.norms), FEW)
            shutting = {
                site
                for reader, each in fed.items()
                for site, at in each.items()
                if reader in self.question.layers and (at & closed[reader]).any()
            }
            if len(shutting) == len(self.sites):
                break
            self.keep(shutting)
        self._spell(fed, closed)
        feeds = {
            reader: tuple(
                Feed(site, self.units[site].get(reader, torch.where(at, ANY, NONE))) for site, at in e.items()
            )
            for reader, e in fed.items()
        }
        clear = {norm for norm in echoes if single(feeds[norm]).all()}
        if draws > FEW or len(clear) < len(echoes):
            echoes, closed = self._echoes(fed, clear, draws)
        return self._table(feeds, echoes, closed)

    def _fed(self) -> dict[str, Columns]:
        """Reader -> the sites that arrive there, and at which columns."""
        fed: dict[str, Columns] = {}
        for site in self.sites:
            for reader, at in self.reach[site].items():
                if reader and self._reads(reader, at):
                    fed.setdefault(reader, {})[site] = at
        return fed

    def _reads(self, reader: str, at: Tensor) -> bool:
        """Whether what arrived at a reader are its weight's columns."""
        module = self.question.probe.modules[reader]
        columns, *_ = module.weight.shape[1:] or module.weight.shape
        return len(at) == int(columns) * int(getattr(module, "groups", 1) if module.weight.ndim > 1 else 1)

    def _spell(self, fed: dict[str, Columns], closed: Columns) -> None:
        """Ask for the units that feed the columns that are shut, where they are not yet known."""
        wanted: Reach = {}
        for reader, each in fed.items():
            for site, at in each.items():
                if reader not in self.units.setdefault(site, {}) and (at & closed[reader]).any():
                    wanted.setdefault(site, {})[reader] = at
        for site, units in self.question.units(list(wanted), self.sites, wanted).items():
            self.units[site].update(units)

    def _table(self, feeds: dict[str, tuple[Feed, ...]], echoes: list[str], closed: Columns) -> Wiring:
        question, modules = self.question, self.question.probe.modules
        feeds = {reader: each for reader, each in feeds.items() if reader in question.layers or reader in echoes}
        groups = {path: getattr(modules[path], "groups", 1) for path in feeds if path in question.layers}
        return Wiring(
            sites={site: axis_of(modules[site]) for site in self.sites},
            sizes={site: question.size[site] for site in self.sites},
            rows={layer: site for layer, site in self.rows.items() if site in self.sites},
            feeds=feeds,
            free={reader: ~closed[reader] for reader in feeds},
            echoes={norm: axis_of(modules[norm]) for norm in echoes},
            groups={path: count for path, count in groups.items() if count > 1},
            notes=question.notes,
        )

    def _echoes(self, fed: dict[str, Columns], norms: set[str], draws: int) -> tuple[list[str], Columns]:
        """The norms to be masked again, and of all readers the columns that are shut by what feeds them."""
        norms = {norm for norm in norms if norm in fed and norm not in self.sites}
        echoes: list[str] = []
        while True:
            closed = self._closed(fed, echoes, FEW)
            more = sorted(norm for norm in norms if norm not in echoes and closed[norm].all())
            if more:
                echoes += more
                continue
            closed = self._closed(fed, echoes, draws) if draws > FEW else closed
            wrong = {norm for norm in echoes if not closed[norm].all()}
            if not wrong:
                return echoes, closed
            norms, echoes = norms - wrong, []

    def _closed(self, fed: dict[str, Columns], echoes: list[str], draws: int) -> Columns:
        """The columns that arrive as zero while all is shut; unless one that the same sites feed sometimes does not."""
        zero, sometimes = self.question.zeros(shut(self.question.size, [*self.sites, *echoes]), draws)
        closed: Columns = {}
        for reader, each in fed.items():
            at = torch.stack(list(each.values()))
            by = (at * (1 << torch.arange(len(at)) % 62)[:, None]).sum(0)
            doubtful = torch.isin(by, by[sometimes[reader]].unique())
            closed[reader] = zero[reader] & at.any(0) & ~doubtful
        return closed


def single(feeds: tuple[Feed, ...]) -> Tensor:
    """The columns that some unit feeds, and no site by more than one."""
    units = torch.stack([feed.units for feed in feeds])
    return (units >= 0).any(0) & (units != ANY).all(0)
