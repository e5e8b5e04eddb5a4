"""What is known of a network's units: which mask reaches which row and column, and so what a task reads of a weight."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

NONE, ANY = -1, -2
"""A column that a site does not feed; one that it feeds by more than one of its units."""


@dataclass(frozen=True)
class Feed:
    """Which unit of one site feeds each column of a reader.

    Args:
        site: the site, or a norm that is masked again.
        units: for every column a unit, ``NONE`` or ``ANY``, shape (columns,).
    """

    site: str
    units: Tensor

    def per_column(self, values: Tensor) -> Tensor:
        """A value per unit as a value per column: 0 where the site feeds nothing, the largest where it mixes.

        >>> Feed("a", torch.tensor([1, NONE, ANY])).per_column(torch.tensor([2.0, 5.0]))
        tensor([5., 0., 5.])
        """
        padded = torch.cat([values, values.amax(0, keepdim=True), torch.zeros_like(values[:1])])
        # Counted from the end, -1 is the 0 and -2 the largest.
        return padded[self.units.to(values.device)]


@dataclass(frozen=True)
class Wiring:
    """Rows and columns of every weight whose layer was seen at work.

    Args:
        sites: module whose units are masked -> axis of the units in its output, counted as in torch.
        sizes: the same -> how many units.
        rows: layer -> site whose unit ``i`` shuts the layer's row ``i``; a layer that is not here has rows that are
            always live.
        feeds: reader -> what feeds its columns.
        free: reader -> the columns that are live whatever is masked, shape (columns,).
        echoes: norm -> axis, of norms that are masked again as their input is.
        groups: reader -> into how many groups a grouped convolution splits its columns.
        notes: layer -> why something of it was left conservative.
    """

    sites: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    rows: Mapping[str, str] = field(default_factory=dict)
    feeds: Mapping[str, tuple[Feed, ...]] = field(default_factory=dict)
    free: Mapping[str, Tensor] = field(default_factory=dict)
    echoes: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    def per_column(self, reader: str, values: Mapping[str, Tensor], always: float) -> Tensor:
        """A value per column: the largest over all that feed it, ``always`` where nothing can shut it.

        Args:
            reader: a layer of ``feeds``, or a norm of ``echoes``.
            values: site -> a value per unit: a mask, how often it was used.
            always: of a column that is always live.
        """
        sources = {feed.site: self._value(feed.site, values, always) for feed in self.feeds[reader]}
        known = {source: value for source, value in sources.items() if value is not None}
        parts = [feed.per_column(known[feed.site]) for feed in self.feeds[reader] if feed.site in known]
        free = self.free[reader]
        if not parts:
            like = next(iter(values.values()), torch.as_tensor([always]))
            return torch.full(free.shape, always, device=like.device).to(like.dtype)
        largest = torch.stack(parts).amax(0)
        top = torch.as_tensor(always, device=largest.device).to(largest.dtype)
        return torch.where(free.to(largest.device), top, largest)

    def _value(self, source: str, values: Mapping[str, Tensor], always: float) -> Tensor | None:
        if source in self.echoes:
            return self.per_column(source, values, always)
        return values.get(source)

    def per_entry(self, name: str, shape: torch.Size, values: Mapping[str, Tensor], always: float) -> Tensor:
        """``min(value of the row, value of the column)`` of every entry of a weight or bias; broadcasts to it.

        Under bool masks: the entries that a task reads (Serra et al. 2018, equation 2, by what really feeds a column).

        Args:
            name: of the tensor.
            shape: of the tensor.
            values: site -> a value per unit.
            always: the value of a row or column that nothing can shut.
        """
        path, _, leaf = name.rpartition(".")
        like = next(iter(values.values()), torch.as_tensor([always]))
        top = torch.as_tensor(always, device=like.device).to(like.dtype)
        if not shape:
            return top
        # Of what a layer has beside its weight and bias, nobody knows that row ``i`` is read by unit ``i`` alone.
        rowed = path in self.rows and leaf in ("weight", "bias") and len(values[self.rows[path]]) == shape[0]
        rows = values[self.rows[path]] if rowed else top.expand(shape[0])
        rows = rows.view(-1, *[1] * (len(shape) - 1))
        if leaf != "weight" or path not in self.feeds:
            return rows
        columns = self.per_column(path, values, always)
        if len(shape) < 2:
            return torch.minimum(rows, columns)
        groups = self.groups.get(path, 1)
        # Of a grouped convolution, row i reads the columns of its own group.
        per_row = columns.view(groups, 1, -1).expand(-1, shape[0] // groups, -1).reshape(shape[0], -1)
        per_row = per_row if groups > 1 else columns[None]
        return torch.minimum(rows, per_row.view(*per_row.shape, *[1] * (len(shape) - 2)))

    def echo_masks(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The masks of all echoes, from those of the sites."""
        return {norm: self.per_column(norm, values, 1.0) for norm in self.echoes}

    def describe(self, name: str) -> str:
        """In words, what shuts the rows and columns of a tensor, and why something of it is left conservative.

        >>> found = Wiring(
        ...     {"a": -1}, {"a": 1}, {"a": "a"}, {"b": (Feed("a", torch.tensor([0])),)}, {"b": torch.zeros(1)}
        ... )
        >>> found.describe("a.weight"), found.describe("b.weight")
        ('rows by a; columns always live', 'rows always live; columns by a')
        """
        path, _, leaf = name.rpartition(".")
        rows = f"rows by {self.rows[path]}" if path in self.rows else "rows always live"
        if leaf != "weight":
            return rows
        free, by = self.free.get(path), ", ".join(dict.fromkeys(feed.site for feed in self.feeds.get(path, ())))
        live = 0 if free is None else int(free.sum())
        always = f" ({live} of {len(free)} always live)" if free is not None and 0 < live < len(free) else ""
        closed = free is not None and live < len(free)
        columns = f"columns by {by}{always}" if closed else "columns always live"
        return "; ".join(filter(None, [rows, columns, self.notes.get(path)]))

    def with_rows(self, layers: Mapping[str, int]) -> Wiring:
        """The same, and some layers also masked at their own output, whose units shut their rows and nothing else.

        So may be masked what joins a stream: row ``i`` is read by nobody whose mask shuts unit ``i``.

        Args:
            layers: linear layer -> how many units it has; those that have a site stay as they are.

        >>> found = Wiring().with_rows({"up": 2})
        >>> found.sites, found.per_entry("up.weight", torch.Size([2, 1]), {"up": torch.tensor([True, False])}, True)
        ({'up': -1}, tensor([[ True],
                [False]]))
        """
        new = {layer: units for layer, units in layers.items() if layer not in self.rows}
        return replace(
            self,
            sites={**self.sites, **dict.fromkeys(new, -1)},
            sizes={**self.sizes, **new},
            rows={**self.rows, **{layer: layer for layer in new}},
            notes={layer: note for layer, note in self.notes.items() if layer not in new},
        )

    def only(self, sites: Collection[str]) -> Wiring:
        """The same with these sites alone; what others feed is live whatever is masked.

        >>> found = Wiring(
        ...     {"a": -1}, {"a": 1}, {"a": "a"}, {"b": (Feed("a", torch.tensor([0])),)}, {"b": torch.zeros(1)}
        ... )
        >>> found.only(["a"]).free["b"].tolist(), found.only([]).free["b"].tolist(), found.only([]).rows
        ([False], [True], {})
        """
        gone = {site for site in self.sites if site not in sites}
        free = {}
        for reader, each in self.feeds.items():
            lost = [feed.units != NONE for feed in each if feed.site in gone]
            free[reader] = torch.stack([self.free[reader].bool(), *lost]).any(0)
        return replace(
            self,
            sites={site: axis for site, axis in self.sites.items() if site not in gone},
            sizes={site: size for site, size in self.sizes.items() if site not in gone},
            rows={layer: site for layer, site in self.rows.items() if site not in gone},
            feeds={reader: tuple(f for f in each if f.site not in gone) for reader, each in self.feeds.items()},
            free=free,
        )

    def through_echoes(self) -> Wiring:
        """The same with every column followed through the norms that are masked again, back to the sites."""
        return replace(self, feeds={reader: tuple(self._origins(each)) for reader, each in self.feeds.items()})

    def _origins(self, feeds: Iterable[Feed]) -> Iterator[Feed]:
        for feed in feeds:
            if feed.site not in self.echoes:
                yield feed
                continue
            for origin in self._origins(self.feeds[feed.site]):
                units = origin.units[feed.units.clamp(min=0)]
                yield Feed(origin.site, torch.where(feed.units >= 0, units, feed.units))

    def to_json(self) -> dict[str, Any]:
        """As JSON: units as runs ``[first, count, width]``, a unit each ``width`` columns; -1 and -2 as they are."""
        return {
            "sites": dict(self.sites),
            "sizes": dict(self.sizes),
            "rows": dict(self.rows),
            "feeds": {name: [[f.site, to_runs(f.units.tolist())] for f in feeds] for name, feeds in self.feeds.items()},
            "free": {name: to_runs(free.long().tolist()) for name, free in self.free.items()},
            "echoes": dict(self.echoes),
            "groups": dict(self.groups),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Wiring:
        """Back from ``to_json``."""
        feeds = {name: tuple(Feed(site, from_runs(how)) for site, how in each) for name, each in found["feeds"].items()}
        free = {name: from_runs(how).bool() for name, how in found["free"].items()}
        plain = {key: dict(found[key]) for key in ("sites", "sizes", "rows", "echoes", "groups")}
        return cls(**plain, feeds=feeds, free=free)


def to_runs(values: list[int]) -> list[list[int]]:
    """Values as runs ``[first, count, width]``: ``count`` values from ``first`` upwards, each ``width`` times.

    >>> to_runs([0, 0, 1, 1, 2, 2, -1, -1, -1]), to_runs([3, 4, 5])
    ([[0, 3, 2], [-1, 1, 3]], [[3, 3, 1]])
    """
    blocks: list[list[int]] = []
    for value in values:
        if blocks and blocks[-1][0] == value:
            blocks[-1][1] += 1
        else:
            blocks.append([value, 1])
    out: list[list[int]] = []
    for value, width in blocks:
        follows = out and value >= 0 and out[-1][0] >= 0 and value == out[-1][0] + out[-1][1] and width == out[-1][2]
        if follows:
            out[-1][1] += 1
        else:
            out.append([value, 1, width])
    return out


def from_runs(found: list[list[int]]) -> Tensor:
    """Back from ``to_runs``.

    >>> from_runs([[0, 3, 2], [-1, 1, 3]])
    tensor([ 0,  0,  1,  1,  2,  2, -1, -1, -1])
    """
    parts = [torch.arange(first, first + count).repeat_interleave(width) for first, count, width in found]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)
