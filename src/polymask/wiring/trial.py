"""Try what a network takes: each other value, flag, length and batch size once, and hear what it then does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from polymask.calling import call, logits_of
from polymask.wiring.hearing import Overheard, same, spoken
from polymask.wiring.inputs import REFUSED, Inputs, Setting, Taken
from polymask.wiring.sizes import Sizes, candidates, one_row, resized
from polymask.wiring.values import Way, beside, beyond, louder, of_fractions, others, ranges

SETTINGS, NEW, DULL = 24, 12, 2
"""How many sizes are taken; how many settings are asked for more often; how many sizes of an axis are tried in a row
that the network refuses or answers as others."""
WORK, LEAST, READ = 4, 1 << 20, 4
"""How much more all sizes together may cost than the base one; what may be spent in any case, in numbers made; how
many entries of a parameter are read in the time in which one number is made."""
OFTEN = 3


@dataclass(frozen=True)
class Trial:
    """What a network did with an input.

    Args:
        x: the input.
        heard: its operations.
        called: its modules that were called.
    """

    x: Any
    heard: Overheard
    called: frozenset[str]

    @property
    def signature(self) -> int:
        """The same wherever it did the same."""
        return hash((tuple(self.heard.operations), self.called))


def explored(model: nn.Module, inputs: Inputs) -> Taken:
    """All that a network takes, as far as it is tried.

    Args:
        model: in evaluation mode; it may be called.
        inputs: of which it is given some.
    """
    explorer = Explorer(model, inputs)
    own = [(path, module) for path, module in model.named_modules() if module._parameters or module._buffers]
    hooks = [m.register_forward_pre_hook(lambda *_, path=path: explorer.now.add(path)) for path, m in own]
    try:
        return explorer.explored()
    finally:
        for hook in hooks:
            hook.remove()


class Explorer:
    """Finds out what a network takes, and where it then does something else.

    Args:
        model: a network in evaluation mode that may be called.
        inputs: of which it is given some.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self.model, self.inputs, self.taken = model, inputs, Taken(settings=[])
        self.signatures: set[int] = set()
        self.called: set[str] = set()
        self.now: set[str] = set()
        self.hints = spoken(model)

    def explored(self) -> Taken:
        """All that it takes."""
        self.first = self._base()
        for place, leaf in enumerate(self.inputs.leaves):
            if leaf is None:
                self._masks(place)
            elif not isinstance(leaf, Tensor):
                self._flags(place, leaf)
            elif leaf.is_floating_point():
                self._fractions(place, leaf)
            elif not leaf.is_complex():
                self._integers(place, leaf)
        self._sizes()
        self.taken.settings.sort(key=lambda setting: -setting.often)
        return self.taken

    @property
    def thresholds(self) -> set[float]:
        """All that it was heard to compare with, and the numbers of its own code."""
        return self.first.heard.thresholds | {float(hint) for hint in self.hints if not isinstance(hint, str)}

    def _base(self) -> Trial:
        """The first trial: of one row, or of the example as it is where the network takes no single row."""
        for sizes in (one_row(self.inputs.shapes), {}):
            self.taken.base = sizes
            trial = self.tried(Setting(sizes))
            if trial is not None:
                self._keep(Setting(sizes), trial)
                return trial
        call(self.model, self.inputs.example)
        raise ValueError("expected a network that answers the same example every time, found one that refuses it")

    @torch.no_grad()
    def tried(self, setting: Setting) -> Trial | None:
        """What the network does with an input; None if it refuses it."""
        x, self.now = self.inputs.of(setting, pinned=True), set()
        try:
            with torch.random.fork_rng(devices=[]), Overheard() as heard:
                logits_of(call(self.model, x))
        except REFUSED:
            return None
        return Trial(x, heard, frozenset(self.now))

    def takes(self, pins: Mapping[int, Way], only_new: bool = False) -> bool:
        """Whether the network takes other values, at its base sizes or at those of the example."""
        for sizes in dict.fromkeys((tuple(self.taken.base.items()), ())):
            trial = self.tried(setting := Setting(dict(sizes), pins))
            if trial is not None:
                if not only_new or trial.signature not in self.signatures:
                    self._keep(setting, trial)
                return True
        return False

    def _keep(self, setting: Setting, trial: Trial) -> None:
        new = trial.signature not in self.signatures and 0 < len(self.signatures) < NEW
        self.signatures.add(trial.signature)
        if new:
            self.taken.unlike.append(trial.x)
        if self.called and not trial.called <= self.called:
            self.taken.apart.append(trial.x)
        self.called |= trial.called
        self.taken.settings.append(replace(setting, often=OFTEN if new else 1))

    def _fractions(self, place: int, leaf: Tensor) -> None:
        self.taken.ways[place] = of_fractions(leaf, self.thresholds)
        for way in louder(self.thresholds):
            self.takes({place: way}, only_new=True)

    def _flags(self, place: int, leaf: Any) -> None:
        ways = [way for way in others(leaf, self.hints) if self.takes({place: way}, isinstance(leaf, int | float))]
        if ways:
            self.taken.ways[place] = [Way("given"), *ways]

    def _masks(self, place: int) -> None:
        """What is not given may be a mask of rows and places."""
        shapes = {shape[:2]: at for at, shape in self.inputs.shapes.items() if len(shape) > 1}
        for at, dtype in product(shapes.values(), (torch.long, torch.bool)):
            way = Way("beside", at, points=(dtype,))
            before = len(self.taken.settings)
            if self.takes({place: way}, only_new=True) and len(self.taken.settings) > before:
                self.taken.ways[place] = [Way("given"), way]
                return

    def _integers(self, place: int, leaf: Tensor) -> None:
        compared = self.first.heard.compared(self._based(place))
        wide = ranges(leaf, self._tables(place), compared, self.thresholds)
        within = next((way for way in wide if self._holds(place, way)), None)
        ways = [way for way in beside(within, leaf) if self.takes({place: way})]
        for way in beyond(within, leaf, self.hints):
            self.takes({place: way}, only_new=True)
        loose = [way for way in ways if way.kind != "always"]
        self.taken.ways[place] = [Way("given"), *([within, within] if within else []), *loose]

    def _holds(self, place: int, way: Way) -> bool:
        """Whether a range is taken: its largest value alone, and some of three draws."""
        top = Way("always", points=(way.high,))
        return self.tried(Setting(self.taken.base, {place: top})) is not None and any(
            self.takes({place: way}) for _ in range(3)
        )

    def _based(self, place: int) -> Tensor:
        return resized(self.inputs.leaves[place], place, self.taken.base)

    def _tables(self, place: int) -> set[int]:
        """The sizes of the tables in which a leaf is looked up, as it is or after some work."""
        heard, leaf = self.first.heard, self._based(place)
        direct = {size for size, index in heard.tables if same(index, leaf)}
        if direct or not heard.tables:
            return direct
        other = self.tried(Setting(self.taken.base, {place: Way("always", points=(0 if leaf.any() else 1,))}))
        if other is None:
            return {size for size, _ in heard.tables}
        pairs = zip(heard.tables, other.heard.tables, strict=False)
        return {size for (size, index), (_, changed) in pairs if not same(index, changed)}

    def _measures(self) -> list[int]:
        """Sizes that may matter: of tables, and around what the network's own code compares with."""
        tables = {module.num_embeddings for module in self.model.modules() if isinstance(module, nn.Embedding)}
        tables |= {size for size, _ in self.first.heard.tables}
        said = {int(hint) + step for hint in self.hints if not isinstance(hint, str) for step in (0, 1)}
        return [*sorted(tables), *sorted(said, reverse=True)]

    def _sizes(self) -> None:
        inputs, base = self.inputs, self.taken.base
        still = sum(parameter.numel() for parameter in self.model.parameters()) / READ
        per_cell = self.first.heard.work / inputs.cells(base)
        budget = max(WORK * (still + self.first.heard.work), LEAST)
        self.taken.most = max(2 * inputs.cells(base), LEAST / max(per_cell, 1))
        dull: dict[object, int] = {}
        count = 0
        for group, size, hinted in candidates(inputs.shapes, self._measures()):
            sizes: Sizes = {**base, **dict.fromkeys(group, size)}
            if (dull.get(group, 0) >= DULL and not hinted) or sizes == base or inputs.cells(sizes) > self.taken.most:
                continue
            cost = still + per_cell * inputs.cells(sizes)
            if count >= SETTINGS or budget < cost:
                break
            trial = self.tried(Setting(sizes))
            if trial is None or trial.signature in self.signatures:
                dull[group] = dull.get(group, 0) + 1
            else:
                dull[group] = 0
            if trial is None:
                continue
            budget -= cost
            count += 1
            self._keep(Setting(sizes), trial)
