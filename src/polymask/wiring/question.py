"""What can be asked of a network under examination, and the question of who feeds whom."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations, islice
from math import comb

import torch
from torch import Tensor, nn

from polymask.wiring.paint import LAYERS, PaintedCopy, axis_of, nonzero_columns, nonzero_number_columns, zeros_for
from polymask.wiring.table import ANY, NONE

NAN = float("nan")
FINITE = 100.0
"""How large finite paint is."""
OTHERS = 12
"""Under how many other inputs a source is looked for that arrives nowhere."""
Columns = dict[str, Tensor]
Reach = dict[str, Columns]
"""Site -> reader -> the columns that it reaches without passing another site; the reader "" is the network's answer."""
Units = dict[str, Columns]
"""Site -> reader -> which of its units feeds each column."""


@dataclass
class Question:
    """A network under examination.

    Args:
        network: the perturbed copy.
        layers: the layers whose rows and columns are asked for, in the model's order.
        norms: the norms that can be masked again.
        readers: all whose input is watched -> axis of their columns.
        size: module -> how many units it has.
        notes: layer -> why something of it is left conservative.
        idle: layers whose own output does not matter while gates are shut, as the norm after them is a gate.
        unsure: readers of which finite paint may not decide what feeds them.
        decided_by_finite: those of which it did.
        searched: the sources that were looked for under other inputs.
    """

    network: PaintedCopy
    layers: list[str]
    norms: list[str]
    readers: dict[str, int]
    size: dict[str, int]
    notes: dict[str, str] = field(default_factory=dict)
    idle: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)
    decided_by_finite: set[str] = field(default_factory=set)
    searched: set[str] = field(default_factory=set)

    def follow_paint(self, gates: Iterable[str], paint: Mapping[str, Tensor]) -> tuple[bool, Columns]:
        """Whether paint arrives at the answer, and at which columns, the other gates being shut."""
        values = {**zeros_for(self.size, gates), **paint}
        answered, found = False, dict[str, Tensor]()
        for x in self.network.followed_inputs:
            logits, seen = self.network.run(values, self.readers, idle=self.idle, x=x)
            answered |= bool(logits.isnan().any())
            found = _united(found, seen)
        return answered, found

    def reach(self, sources: Iterable[str], gates: Iterable[str]) -> Reach:
        """Where each source's units arrive, the other gates being shut."""
        gates = list(gates)
        found: Reach = {}
        for path in sources:
            answered, seen = self.follow_paint(gates, {path: torch.full((self.size[path],), NAN)})
            found[path] = {reader: at for reader, at in seen.items() if at.any()}
            if answered:
                found[path][""] = torch.ones(1, dtype=torch.bool)
        return found

    def find_other_inputs(self, sources: Iterable[str], gates: Iterable[str]) -> bool:
        """Follow paint under more inputs, if there are such that let sources arrive that otherwise arrive nowhere."""
        found, gates = False, list(gates)
        for path in sources:
            if path not in self.searched:
                self.searched.add(path)
                values = {**zeros_for(self.size, gates), path: torch.full((self.size[path],), NAN)}
                found |= self._find_other_input(values)
        return found

    def _find_other_input(self, values: Mapping[str, Tensor]) -> bool:
        """Whether some other input lets paint arrive, which is then asked under from now on."""
        for _ in range(OTHERS):
            other = self.network.inputs.next_accepted(
                lambda x: self.network.run(values, self.readers, idle=self.idle, x=x)
            )
            if other and (other[1][0].isnan().any() or any(at.any() for at in other[1][1].values())):
                self.network.extra_inputs.append(other[0])
                return True
        return False

    def finite_reach(self, source: str, gates: Iterable[str], readers: Collection[str]) -> Columns:
        """The columns of some readers at which what arrives depends on a source's finite values, other gates shut.

        A softmax spreads NaN over all that it weighs, whether it is of weight there or not.
        """
        values, size = zeros_for(self.size, gates), self.size[source]
        draws = [torch.randn(size, generator=self.network.draw) * FINITE for _ in range(3)]
        paints = [draws[0].abs(), -draws[1].abs(), draws[2]]
        found: Columns = {}
        for x in self.network.followed_inputs:
            before = self.network.inputs_of({**values, source: torch.zeros(size)}, self.readers, readers, self.idle, x)
            for paint in paints:
                after = self.network.inputs_of({**values, source: paint}, self.readers, readers, self.idle, x)
                found = _united(found, {reader: (before[reader] != at).any(0) for reader, at in after.items()})
        return found

    def units(self, sources: list[str], gates: Iterable[str], reach: Reach) -> Units:
        """Which unit of each source feeds each of the columns named in ``reach``.

        Sources whose columns do not overlap are asked together; every unit is painted in another half of some rounds.
        """
        gates = list(gates)
        found: Units = {}
        for together in _without_overlap(sources, reach):
            codes = codes_of(max(self.size[source] for source in together))
            rounds = []
            for code in codes:
                paint = {s: torch.where(code[: self.size[s]], NAN, 0.0) for s in together}
                rounds.append(self.follow_paint(gates, paint)[1])
            for source in together:
                found[source] = {}
                for reader, columns in reach[source].items():
                    unit = _spell(torch.stack([seen[reader] for seen in rounds]), codes)
                    unit = unit.masked_fill(unit >= self.size[source], ANY)
                    found[source][reader] = torch.where(columns, unit, NONE)
        return found

    def zero_columns(self, gates: Mapping[str, Tensor], draws: int) -> tuple[Columns, Columns]:
        """The columns that arrive as exactly zero in all of some draws, and those that do in some but not in others."""
        count: Columns = {}
        for _ in range(draws):
            self.network.redraw()
            found = Columns()
            for x in self.network.followed_inputs:
                found = _united(found, self.network.run(gates, self.readers, nonzero_columns, x=x)[1])
            other = self.network.inputs.next_accepted(
                lambda x: self.network.run(gates, self.readers, nonzero_number_columns, x=x)[1]
            )
            for reader, at in _united(found, other[1] if other else {}).items():
                count[reader] = count.get(reader, 0) + at.long()
        never = {reader: times == 0 for reader, times in count.items()}
        return never, {reader: (times > 0) & (times < draws) for reader, times in count.items()}


def make_question(network: PaintedCopy, head: str, masked: Iterable[str], unsure: Collection[str] = ()) -> Question:
    """See which layers and norms of a network are at work both in learning and in answering.

    Args:
        network: its painted copy.
        head: the name of its head.
        masked: the weights that a method gates.
        unsure: the layers of which finite paint may not decide what feeds them.
    """
    names = set(masked)
    own = {
        path: module for path, module in network.modules.items() if isinstance(module._parameters.get("weight"), Tensor)
    }
    kinds = {path: module for path, module in own.items() if isinstance(module, LAYERS) or _is_norm(module)}
    size = {path: own[path].weight.shape[0] for path in kinds}
    network.model.train()
    learning = network.modules_called(size)
    network.model.eval()
    answering = network.modules_called(size)
    called = [path for path in kinds if learning.get(path) and answering.get(path)]
    layers = [p for p in called if isinstance(own[p], LAYERS) and (f"{p}.weight".lstrip(".") in names or p == head)]
    norms = [p for p in called if not isinstance(own[p], LAYERS)]
    readers = {path: axis_of(own[path]) for path in (*layers, *norms)}
    question = Question(network, layers, norms, readers, {path: size[path] for path in readers}, unsure={*unsure})
    for path, module in kinds.items():
        if isinstance(module, LAYERS) and path not in called:
            question.notes[path] = "its module is not called"
    return question


def _united(one: Columns, other: Columns) -> Columns:
    """The columns of either."""
    return {**one, **{reader: one[reader] | at if reader in one else at for reader, at in other.items()}}


def _is_norm(module: nn.Module) -> bool:
    weight = module._parameters["weight"]
    return weight is not None and weight.ndim == 1 and any("Norm" in cls.__name__ for cls in type(module).__mro__)


def codes_of(count: int) -> Tensor:
    """A code for each of so many units, shape (rounds, count): of any two, each has a round that the other lacks.

    So what two units feed together never looks like one unit (Sperner 1928: half of the rounds each).

    >>> codes_of(3).long()
    tensor([[1, 1, 0],
            [1, 0, 1],
            [0, 1, 1]])
    """
    rounds = next(n for n in range(2, 64) if comb(n, n // 2 + n % 2) >= count)
    chosen = list(islice(combinations(range(rounds), rounds // 2 + rounds % 2), count))
    codes = torch.zeros(rounds, count, dtype=torch.bool)
    codes[torch.tensor(chosen).T, torch.arange(count)] = True
    return codes


def _spell(seen: Tensor, codes: Tensor) -> Tensor:
    """Which unit the rounds in which a column was painted spell; ``ANY`` where they spell none."""
    weigh = 1 << torch.arange(len(codes))[:, None]
    meaning = torch.full((1 << len(codes),), ANY)
    meaning[(codes * weigh).sum(0)] = torch.arange(codes.shape[1])
    return meaning[(seen * weigh).sum(0)]


def _without_overlap(sites: list[str], reach: Reach) -> list[list[str]]:
    """Sites in as few groups as a greedy choice finds, no column reached by two of a group."""
    groups: list[tuple[list[str], Columns]] = []
    for site in sites:
        arrives = reach[site]
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
