"""The parts of a page: a section is a title, a sentence, pictures and the table behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from polymask.report.bins import MOST, bin_names, bins
from polymask.report.labels import number, printable, without_shared_start

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """A table as text.

    Args:
        caption: what it holds.
        columns: the heads.
        rows: the cells; the first of each row is its head.
        words: whether the cells are words, which may be broken, and not numbers.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Args:
        ident: its id.
        title: its heading.
        sentence: what to see in it, or why there is nothing to be seen.
        pictures: ``svg`` elements.
        table: the numbers behind them.
        is_open: whether the table is shown from the start.
    """

    ident: str
    title: str
    sentence: str
    pictures: Sequence[str] = ()
    table: Table | None = None
    is_open: bool = False


@dataclass(frozen=True)
class Page:
    """A whole page.

    Args:
        title: its title.
        summary: the sentence that says what came out.
        figures: name -> the few numbers that everybody looks for.
        sections: its parts.
        notes: what could not be read.
    """

    title: str
    summary: str
    figures: Mapping[str, str]
    sections: Sequence[Section]
    notes: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True)
class Shown:
    """Tasks as a picture shows them: each, or in bins of neighbours.

    Args:
        tasks: their names.
    """

    tasks: Sequence[str]

    @property
    def groups(self) -> list[range]:
        """The places in each bin."""
        return bins(len(self.tasks))

    @property
    def names(self) -> list[str]:
        """What is written at an axis."""
        return _told_apart(bin_names(without_shared_start([printable(one) for one in self.tasks]), self.groups, True))

    @property
    def full(self) -> list[str]:
        """What is written in a table."""
        return bin_names([printable(one) for one in self.tasks], self.groups)

    @property
    def binned(self) -> bool:
        """Whether a bin has several tasks."""
        return len(self.tasks) > MOST

    @property
    def note(self) -> str:
        """What a sentence adds where tasks are binned."""
        few = min(map(len, self.groups)) if self.binned else 0
        return (
            f" Of {len(self.tasks):,} tasks, {few} or more neighbours are shown as their mean." if self.binned else ""
        )


def _told_apart(names: Sequence[str]) -> list[str]:
    """Names of which no two are the same: those that came before get their place."""
    return [f"{one} ({place})" if one in names[:place] else one for place, one in enumerate(names)]


def as_number(found: object) -> float:
    """What a file says as a number; NaN where it says none.

    >>> as_number(1), as_number(None)
    (1.0, nan)
    """
    return float(found) if isinstance(found, int | float) else float("nan")


def number_table(caption: str, first: str, names: Sequence[str], columns: Mapping[str, Numbers]) -> Table:
    """A table of a column of names and columns of numbers."""
    rows = [[name, *(number(float(values[i])) for values in columns.values())] for i, name in enumerate(names)]
    return Table(caption, [first, *columns], rows)


def matrix_table(caption: str, corner: str, rows: Sequence[str], columns: Sequence[str], values: Numbers) -> Table:
    """A matrix as a table."""
    cells = [[name, *(number(float(value)) for value in values[i])] for i, name in enumerate(rows)]
    return Table(caption, [corner, *columns], cells)
