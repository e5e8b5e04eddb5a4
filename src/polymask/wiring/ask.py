"""Ask a network, not its graph: which unit of which layer feeds which column, and what arrives as zero."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polymask.wiring import cache
from polymask.wiring.crosscheck import Violations, cross_check
from polymask.wiring.norms import mask_points
from polymask.wiring.paint import PaintedCopy
from polymask.wiring.question import Question, make_question
from polymask.wiring.search import DRAWS, FEW, Search, from_one_unit, with_sources_of_echoes
from polymask.wiring.table import Feed, Wiring

CRASHES = (LookupError, RuntimeError, ValueError, ArithmeticError, AssertionError)
"""What a network raises when it is asked for the NaN-th row of a table."""


def ask(
    model: nn.Module, example: Any, head: str, masked: Iterable[str], later: Mapping[str, Tensor] | None = None
) -> Wiring:
    """Find the sites of a network and what they shut.

    A layer's units are masked at its own output, or at that of the BatchNorm which alone reads it. A layer becomes a
    site only if some later column is fed by one of its units, unmixed, and arrives as exactly zero when that unit and
    whatever else feeds the column is masked; so a residual stream before a LayerNorm, or queries and keys, do not.

    What was found of a network is remembered for the next of the same build, but cross-checked for each, more briefly.

    Args:
        model: a plain network; it stays as it is.
        example: an input that it accepts.
        head: the name of its head.
        masked: the weights that a method gates.
        later: buffers that a forward changes -> what they may look like later.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> found = ask(net, torch.zeros(1, 4), "2", ["0.weight"])
    >>> found.sites, found.rows, found.feeds["2"][0].units
    ({'0': -1}, {'0': '0'}, tensor([0, 1, 2]))
    """
    names = sorted(set(masked))
    with _one_thread():
        key = cache.key_of(model, example, head, names)
        known = cache.FOUND.get(key)
        network = PaintedCopy(model, example, space=known.space if known else None, later=later)
        # A wiring that was found of another network of the same build is asked for anew before it is given up.
        examination = _Examination(network, head, names, key)
        wiring = cross_check(
            known.wiring if known else examination.wiring(),
            network,
            examination.ask_again,
            known is not None and known.clean,
        )
        examination.keep(wiring)
        return wiring


@dataclass
class _Examination:
    """What a network is asked under, and what proved its wiring wrong so far.

    Args:
        network: its painted copy.
        head: the name of its head.
        names: the weights that a method gates.
        key: under which the answer is remembered.
        decided_by_finite: the layers of which finite paint decided what feeds them.
        unsure: those of which it may not.
        found: what this network itself was found to be, if it was asked.
    """

    network: PaintedCopy
    head: str
    names: list[str]
    key: Hashable | None
    decided_by_finite: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)
    found: Wiring | None = None

    def wiring(self) -> Wiring:
        """Ask, under all that is known by now."""
        question = make_question(self.network, self.head, self.names, self.unsure)
        found = _examine(question, self.head)
        self.decided_by_finite = question.decided_by_finite
        self.found = found
        return found

    def keep(self, checked: Wiring) -> None:
        """Remember what was found, before it was cross-checked, for the next of the same build."""
        if self.found is not None:
            clean = checked.notes == self.found.notes
            cache.FOUND.keep(self.key, cache.Found(self.found, self.network.inputs.space, clean))

    def ask_again(self, violations: Violations) -> Wiring | None:
        """Ask under the inputs that proved the wiring wrong as well, and by NaN alone where finite paint misled."""
        misled = self.decided_by_finite & violations.layers - self.unsure
        if self.found is not None and not misled and not violations.inputs:
            return None
        self.unsure |= misled
        self.network.extra_inputs += violations.inputs
        return self.wiring()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Most of the work is small, and threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _examine(question: Question, head: str) -> Wiring:
    """The wiring, where need be without the layers whose NaN the network does not survive."""
    inner = [path for path in question.layers if path != head]
    try:
        return _drop_idle_sites(question, mask_points(question, head))
    except CRASHES:
        fragile = {path for path in inner if _crashes(question, path)}
        question.notes.update(dict.fromkeys(sorted(fragile), "the network fails where this layer's units are NaN"))
        question.idle = set()
    try:
        # Unmasked, they are in nobody's way; and nothing is folded, as that too was asked with their NaN.
        return _drop_idle_sites(question, {path: path for path in inner if path not in fragile})
    except CRASHES as error:
        return Wiring(
            notes={**question.notes, **dict.fromkeys(inner, f"the network fails where units are NaN: {error}")}
        )


def _crashes(question: Question, path: str) -> bool:
    try:
        question.reach([path], [])
    except CRASHES:
        return True
    return False


def _drop_idle_sites(question: Question, rows: dict[str, str]) -> Wiring:
    """Sites are dropped until all that are left shut something."""
    question.idle = {layer for layer, site in rows.items() if site != layer}
    search, draws = Search(question, rows, list(dict.fromkeys(rows.values()))), FEW
    while True:
        wiring = search.wiring(draws)
        # What mixes goes first: queries and keys hide that a value's units stay apart.
        kept = _useful(wiring, lambda feeds: torch.ones_like(feeds[0].units, dtype=torch.bool))
        kept = kept if len(kept) < len(search.sites) else _useful(wiring, from_one_unit)
        if len(kept) < len(search.sites):
            search.keep_only(kept)
        elif draws == DRAWS:
            unmasked = [layer for layer in rows if layer not in wiring.rows and layer not in question.notes]
            question.notes.update(dict.fromkeys(unmasked, MIXED))
            return wiring
        else:
            draws = DRAWS


MIXED = "its units mix before another layer reads them, or do not arrive there as zero when masked"


def _useful(wiring: Wiring, which: Callable[[tuple[Feed, ...]], Tensor]) -> set[str]:
    """The sites of which some unit, unmixed, shuts a column of a layer; of columns that pass a test."""
    found: set[str] = set()
    for reader, each in wiring.feeds.items():
        if reader in wiring.echoes:
            continue
        closed = ~wiring.free[reader] & which(each)
        found.update(feed.site for feed in each if ((feed.units >= 0) & closed).any())
    return with_sources_of_echoes(
        found, {echo: [feed.site for feed in wiring.feeds[echo]] for echo in wiring.echoes}
    ) - {*wiring.echoes}
