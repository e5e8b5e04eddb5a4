"""Axes of pictures: names that fit, dashed lines with their numbers, bytes on a logarithmic scale, a legend above."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from polymask.report.labels import number, shortened
from polymask.report.svg import SOFT
from polymask.report.table import human_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = ((0, (1, 2)), (0, (5, 2)), (0, (7, 2, 1, 2)), (0, (3, 1)))


def height_of_row(count: int, most: float = 20) -> float:
    """The height of each of so many rows, in CSS pixels: many are closer together."""
    return min(most, max(7.0, 420 / max(count, 1)))


def name_ticks(
    axes: Axes, columns: Sequence[str], rows: Sequence[str] = (), height: float = 20, width: float = 30
) -> None:
    """Names at the axes: all of them if they fit, else some.

    Args:
        axes: where.
        columns: the names of columns.
        rows: the names of rows.
        height: of a row, in CSS pixels.
        width: of a column.
    """
    wide, tall = max(1, int(min(12, len(columns) * width / 16))), max(1, int(len(rows) * height / 14))
    for axis, names, room in ((axes.xaxis, columns, wide), (axes.yaxis, rows, tall)):
        if names:
            step = -(-len(names) // room)
            axis.set_ticks(range(0, len(names), step), [shortened(one, 16) for one in names[::step]])
    if columns and (len(columns) > 6 or max(map(len, columns)) * min(len(columns), 12) > 50):
        axes.tick_params(axis="x", rotation=45)
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")


def draw_levels(axes: Axes, levels: Mapping[str, float]) -> None:
    """Dashed lines across, named in the legend."""
    for place, (name, height) in enumerate(levels.items()):
        style = DASHES[place % len(DASHES)]
        axes.axhline(height, color=SOFT, linewidth=1.4, linestyle=style, label=f"{name}: {number(height)}")


def add_legend(figure: Figure, axes: Axes) -> None:
    """A legend above, unless there is nothing to tell apart."""
    handles, names = axes.get_legend_handles_labels()
    if len(handles) > 1:
        figure.legend(handles, names, loc="outside upper left", ncols=2, borderaxespad=0.2, handlelength=1.8)


def draw_strokes(axes: Axes, levels: Mapping[str, float], say: Callable[[float], str] = number) -> None:
    """Dashed lines upwards, named above."""
    for name, x in levels.items():
        axes.axvline(x, color=SOFT, linestyle=DASHES[0], linewidth=1.4)
        axes.annotate(f" {name} {say(x)}", (x, 1.0), xycoords=("data", "axes fraction"), fontsize=10, va="bottom")


def name_rows(axes: Axes, names: Sequence[str], label: str) -> None:
    """A row a name, the first on top."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    name_ticks(axes, (), names, height_of_row(len(names)))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(label)
    axes.margins(x=0.06)
    low, high = axes.dataLim.intervalx
    if low == high == 0:
        # Around nothing but 0 an axis would invent a scale.
        axes.set(xlim=(-1, 1), xticks=[0])


def count_on(axes: Axes) -> None:
    """Whole numbers along the x axis."""
    from matplotlib.ticker import MaxNLocator

    low, high = axes.get_xlim()
    if high - low < 1:
        axes.set_xlim(low - 0.5, high + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def set_bytes(axes: Axes, sizes: Sequence[float]) -> None:
    """Five ticks at most, at 1, 2 or 5 times a power of ten."""
    low, high = math.log10(min(sizes)), math.log10(max(sizes))
    steps = (1, 2, 5) if high - low < 1.5 else (1,)
    places = [step * 10**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    inside = [x for x in places if low - 0.15 <= math.log10(x) <= high + 0.15]
    axes.set_xticks(inside[:: -(-len(inside) // 5)] if inside else [min(sizes)])
    axes.xaxis.set_major_formatter(lambda x, _: human_bytes(round(x)).replace(".00", "").replace(".0 ", " "))
    axes.minorticks_off()
