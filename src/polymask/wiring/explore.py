"""Try what a network takes: each other value, flag, length and batch size once, and see what it then does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from polymask.calling import call, logits_of
from polymask.copies.operations import OperationLog, constants_of, same_numbers
from polymask.wiring.inputs import REFUSED, Inputs, InputSpace, Setting
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
class Response:
    """What a network did with an input.

    Args:
        x: the input.
        log: its operations.
        called: its modules that were called.
    """

    x: Any
    log: OperationLog
    called: frozenset[str]

    @property
    def signature(self) -> int:
        """The same wherever it did the same."""
        return hash((tuple(self.log.operations), self.called))


def explore(model: nn.Module, inputs: Inputs) -> InputSpace:
    """All that a network takes, as far as it is tried.

    Args:
        model: in evaluation mode; it may be called.
        inputs: of which it is given some.
    """
    explorer = Explorer(model, inputs)
    own = [(path, module) for path, module in model.named_modules() if module._parameters or module._buffers]
    hooks = [m.register_forward_pre_hook(lambda *_, path=path: explorer.now.add(path)) for path, m in own]
    try:
        return explorer.explore()
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
        self.model, self.inputs, self.space = model, inputs, InputSpace(settings=[])
        self.signatures: set[int] = set()
        self.called: set[str] = set()
        self.now: set[str] = set()
        self.hints = constants_of(model)

    def explore(self) -> InputSpace:
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
        self.space.settings.sort(key=lambda setting: -setting.often)
        return self.space

    @property
    def thresholds(self) -> set[float]:
        """All that it was seen to compare with, and the numbers of its own code."""
        return self.first.log.thresholds | {float(hint) for hint in self.hints if not isinstance(hint, str)}

    def _base(self) -> Response:
        """The first response: to one row, or to the example as it is where the network takes no single row."""
        for sizes in (one_row(self.inputs.shapes), {}):
            self.space.base = sizes
            response = self.response_to(Setting(sizes))
            if response is not None:
                self._keep(Setting(sizes), response)
                return response
        call(self.model, self.inputs.example)
        raise ValueError("expected a network that answers the same example every time, found one that refuses it")

    @torch.no_grad()
    def response_to(self, setting: Setting) -> Response | None:
        """What the network does with an input; None if it refuses it."""
        x, self.now = self.inputs.make(setting, pinned=True), set()
        try:
            with torch.random.fork_rng(devices=[]), OperationLog() as log:
                logits_of(call(self.model, x))
        except REFUSED:
            return None
        return Response(x, log, frozenset(self.now))

    def takes(self, pins: Mapping[int, Way], only_new: bool = False) -> bool:
        """Whether the network takes other values, at its base sizes or at those of the example."""
        for sizes in dict.fromkeys((tuple(self.space.base.items()), ())):
            response = self.response_to(setting := Setting(dict(sizes), pins))
            if response is not None:
                if not only_new or response.signature not in self.signatures:
                    self._keep(setting, response)
                return True
        return False

    def _keep(self, setting: Setting, response: Response) -> None:
        new = response.signature not in self.signatures and 0 < len(self.signatures) < NEW
        self.signatures.add(response.signature)
        if new:
            self.space.other_behaviour.append(response.x)
        if self.called and not response.called <= self.called:
            self.space.other_modules.append(response.x)
        self.called |= response.called
        self.space.settings.append(replace(setting, often=OFTEN if new else 1))

    def _fractions(self, place: int, leaf: Tensor) -> None:
        self.space.ways[place] = of_fractions(leaf, self.thresholds)
        for way in louder(self.thresholds):
            self.takes({place: way}, only_new=True)

    def _flags(self, place: int, leaf: Any) -> None:
        ways = [way for way in others(leaf, self.hints) if self.takes({place: way}, isinstance(leaf, int | float))]
        if ways:
            self.space.ways[place] = [Way("given"), *ways]

    def _masks(self, place: int) -> None:
        """What is not given may be a mask of rows and places."""
        shapes = {shape[:2]: at for at, shape in self.inputs.shapes.items() if len(shape) > 1}
        for at, dtype in product(shapes.values(), (torch.long, torch.bool)):
            way = Way("beside", at, points=(dtype,))
            before = len(self.space.settings)
            if self.takes({place: way}, only_new=True) and len(self.space.settings) > before:
                self.space.ways[place] = [Way("given"), way]
                return

    def _integers(self, place: int, leaf: Tensor) -> None:
        compared = self.first.log.compared(self._at_base(place))
        wide = ranges(leaf, self._tables(place), compared, self.thresholds)
        within = next((way for way in wide if self._holds(place, way)), None)
        ways = [way for way in beside(within, leaf) if self.takes({place: way})]
        for way in beyond(within, leaf, self.hints):
            self.takes({place: way}, only_new=True)
        loose = [way for way in ways if way.kind != "always"]
        self.space.ways[place] = [Way("given"), *([within, within] if within else []), *loose]

    def _holds(self, place: int, way: Way) -> bool:
        """Whether a range is taken: its largest value alone, and some of three draws."""
        top = Way("always", points=(way.high,))
        return self.response_to(Setting(self.space.base, {place: top})) is not None and any(
            self.takes({place: way}) for _ in range(3)
        )

    def _at_base(self, place: int) -> Tensor:
        return resized(self.inputs.leaves[place], place, self.space.base)

    def _tables(self, place: int) -> set[int]:
        """The sizes of the tables in which a leaf is looked up, as it is or after some work."""
        log, leaf = self.first.log, self._at_base(place)
        direct = {size for size, index in log.tables if same_numbers(index, leaf)}
        if direct or not log.tables:
            return direct
        other = self.response_to(Setting(self.space.base, {place: Way("always", points=(0 if leaf.any() else 1,))}))
        if other is None:
            return {size for size, _ in log.tables}
        pairs = zip(log.tables, other.log.tables, strict=False)
        return {size for (size, index), (_, changed) in pairs if not same_numbers(index, changed)}

    def _measures(self) -> list[int]:
        """Sizes that may matter: of tables, and around what the network's own code compares with."""
        tables = {module.num_embeddings for module in self.model.modules() if isinstance(module, nn.Embedding)}
        tables |= {size for size, _ in self.first.log.tables}
        said = {int(hint) + step for hint in self.hints if not isinstance(hint, str) for step in (0, 1)}
        return [*sorted(tables), *sorted(said, reverse=True)]

    def _sizes(self) -> None:
        inputs, base = self.inputs, self.space.base
        still = sum(parameter.numel() for parameter in self.model.parameters()) / READ
        per_cell = self.first.log.work / inputs.cells(base)
        budget = max(WORK * (still + self.first.log.work), LEAST)
        self.space.most = max(2 * inputs.cells(base), LEAST / max(per_cell, 1))
        dull: dict[object, int] = {}
        count = 0
        for group, size, hinted in candidates(inputs.shapes, self._measures()):
            sizes: Sizes = {**base, **dict.fromkeys(group, size)}
            if (dull.get(group, 0) >= DULL and not hinted) or sizes == base or inputs.cells(sizes) > self.space.most:
                continue
            cost = still + per_cell * inputs.cells(sizes)
            if count >= SETTINGS or budget < cost:
                break
            response = self.response_to(Setting(sizes))
            if response is None or response.signature in self.signatures:
                dull[group] = dull.get(group, 0) + 1
            else:
                dull[group] = 0
            if response is None:
                continue
            budget -= cost
            count += 1
            self._keep(Setting(sizes), response)
