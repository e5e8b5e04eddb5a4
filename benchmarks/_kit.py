"""What a network drawn from the grammar is made of: its blocks, and the parts that their rules want."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import _rules as rules
from _blocks import ACTS, FUNCTIONS, ODD, Act, Block, Rule, norms

LONGEST = 16
STEPPED = ("tokens", "series", "series, time first", "series, masked")
"""The families whose inputs have steps."""
ANYWHERE: dict[Rule, str] = {
    rules.plain: "a f",
    rules.normed: "a n f",
    rules.normed_before: "n a f c",
    rules.normed_behind: "a f n",
    rules.residual: "a f c",
    rules.summed: "a c f g",
    rules.joined: "a f c:narrow g",
    rules.gated: "a c f",
    rules.weighed: "a c",
    rules.twice: "a f g",
    rules.tied: "a t:tied f g",
    rules.two_readers: "a c d f g",
    rules.halved: "w:wide",
    rules.maxout: "w:wide",
    rules.experts: "a c d f g",
    rules.dropped: "a f drop",
    rules.rolled: "a f",
    rules.opened: "a",
    rules.winner: "a c",
    rules.ordered: "a c f",
    rules.shifted: "a f gain",
    rules.squeezed: "a f",
    rules.narrowed: "a:thin f c:thick",
    rules.by_count: "a c f g",
    rules.by_size: "a c f g",
    rules.centred: "a f",
    rules.divided: "a c",
}
LAST: dict[Rule, str] = {
    rules.read_again: "a:even f",
    rules.read_past: "a:even f again",
    rules.raw: "a f weight",
    rules.woven: "a:even c:even",
}
"""Where channels are last, so that a layer is a matrix."""
STATE: dict[Rule, str] = {
    rules.centre: "a f mean",
    rules.counted: "a f steps",
    rules.queued: "a f queue",
    rules.peaked: "a f peak",
    rules.coded: "a codes",
    rules.remembered: "a f last",
    rules.numbered: "a f calls",
}
LAST_STATE: dict[Rule, str] = {rules.powered: "a:even f u"}
FLAG: dict[Rule, str] = {
    rules.expert: "a c f g",
    rules.any_expert: "a c f g",
    rules.scaled: "a c f",
    rules.lit: "a c f",
    rules.bright: "a c",
    rules.cut: "a c",
    rules.domain: "a n m:n f",
}
STEPS: dict[Rule, str] = {
    rules.positioned: "a c",
    rules.placed: "a f table",
    rules.attended: "q k v c",
    rules.heads: "mha",
    rules.recurrent: "rnn",
    rules.running: "a f",
    rules.delayed: "a c f g",
    rules.padded: "a c",
    rules.by_length: "a c f g",
}


@dataclass
class Kit:
    """Draws a network's parts; what it drew is noted in words.

    Args:
        draw: where all choices come from.
        family: what kind of input the network reads.
        d: the width between blocks.
        spatial: how many axes lie behind the channels; 0: channels are last.
    """

    draw: random.Random
    family: str
    d: int
    spatial: int
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        odd = ODD.get(self.spatial, ())
        self.odd = self.draw.choice(odd) if odd and self.draw.random() < 0.25 else None

    @property
    def axis(self) -> int:
        return 1 if self.spatial else -1

    @property
    def stepped(self) -> bool:
        return self.family in STEPPED and not self.spatial

    def layer(self, i: int, o: int) -> nn.Module:
        """A layer; now and then one that does more than its product."""
        if self.odd is not None and self.draw.random() < 0.5:
            self.words.append(self.odd.__name__)
            return self.odd(i, o, 3, padding=1) if self.spatial else self.odd(i, o)
        bias = self.draw.random() < 0.8
        if not self.spatial:
            return nn.Linear(i, o, bias)
        conv, turned = (nn.Conv1d, nn.ConvTranspose1d) if self.spatial == 1 else (nn.Conv2d, nn.ConvTranspose2d)
        kind = self.draw.choice(("3", "3", "1", "groups", "depthwise", "transposed"))
        if kind == "transposed" and self.draw.random() < 0.5:
            self.words.append(kind)
            return turned(i, o, 3, padding=1, bias=bias)
        if kind == "1":
            return conv(i, o, 1, bias=bias)
        groups = {"groups": 2, "depthwise": i}.get(kind, 1) if i % 2 == 0 == o % i else 1
        self.words += [kind] if groups > 1 else []
        return conv(i, o, 3, padding=1, bias=bias, groups=groups)

    def act(self) -> nn.Module:
        """An activation: half of them a ReLU, the others a module or a function."""
        if self.draw.random() < 0.4:
            return nn.ReLU()
        if self.draw.random() < 0.5:
            function = self.draw.choice(FUNCTIONS)
            self.words.append(function.__name__)
            return Act(function)
        name = self.draw.choice([name for name in ACTS if self.odd is None or "in place" not in name])
        self.words.append(name)
        return ACTS[name]()

    def norm(self) -> nn.Module:
        """A norm of all units."""
        known = norms(self.d, self.spatial, self.stepped)
        name = self.draw.choice(list(known))
        self.words.append(f"{name} norm")
        return known[name]()

    def part(self, kind: str, parts: dict[str, Any]) -> Any:
        """A block's part; tuples are buffers, with whether the state knows them."""
        d, quiet = self.d, self.draw.random() < 0.4
        if kind == "tied":
            twin = type(parts["a"])(d, d) if not self.spatial else parts["a"]
            if not self.spatial:
                twin.weight = parts["a"].weight
            return twin
        makers: dict[str, Callable[[], Any]] = {
            "layer": lambda: self.layer(d, d),
            "even": lambda: nn.Linear(d, d),
            "wide": lambda: self.layer(d, 2 * d),
            "narrow": lambda: self.layer(2 * d, d),
            "thin": lambda: self.layer(d, 3),
            "thick": lambda: self.layer(3, d),
            "act": self.act,
            "n": self.norm,
            "drop": lambda: nn.Dropout(0.3),
            "gain": lambda: nn.Parameter(torch.randn(d)),
            "weight": lambda: nn.Parameter(torch.randn(d, d) / d**0.5),
            "table": lambda: nn.Parameter(torch.randn(LONGEST, d)),
            "again": lambda: [parts["a"].weight],
            "mean": lambda: (torch.zeros(d), not quiet),
            "steps": lambda: (torch.zeros((), dtype=torch.long), not quiet),
            "queue": lambda: (torch.zeros(4, d), not quiet),
            "peak": lambda: (torch.ones(()), not quiet),
            "codes": lambda: (torch.randn(6, d), not quiet),
            "u": lambda: (torch.ones(d) / d**0.5, not quiet),
            "last": lambda: None,
            "calls": lambda: 0,
            "mha": lambda: nn.MultiheadAttention(d, 2, batch_first="time first" not in self.family),
            "rnn": lambda: self.draw.choice((nn.LSTM, nn.GRU))(d, d, batch_first="time first" not in self.family),
        }
        return makers[kind]()

    def block(self, rule: Rule, spec: str) -> Block:
        """A block by its rule; ``a`` to ``d``, ``q``, ``k`` and ``v`` are layers, ``f`` and ``g`` activations."""
        usual = {**dict.fromkeys("acdqkv", "layer"), "f": "act", "g": "act"}
        parts: dict[str, Any] = {}
        words, self.words = self.words, []
        for word in spec.split():
            name, _, kind = word.partition(":")
            parts[name] = self.part(kind or usual.get(name, name), parts)
        words.append(f"{rule.__name__}({', '.join(self.words)})")
        self.words = words
        return Block(rule, parts, self.axis)

    def body(self, flagged: bool) -> list[Block]:
        """One to five blocks; one reads the flag, if there is one."""
        pool = dict(ANYWHERE)
        pool |= {} if self.spatial else LAST
        state = STATE if self.spatial else STATE | LAST_STATE
        chosen = [self.draw.choice(list(pool.items())) for _ in range(self.draw.randint(1, 2))]
        if self.stepped and self.draw.random() < 0.8:
            chosen.append(self.draw.choice(list(STEPS.items())))
        if self.draw.random() < 0.3:
            chosen.append(self.draw.choice(list(state.items())))
        if flagged:
            chosen.append(self.draw.choice(list(FLAG.items())))
        self.draw.shuffle(chosen)
        return [self.block(rule, spec) for rule, spec in chosen]
