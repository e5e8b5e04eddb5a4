"""Pictures of values by name: curves over tasks or epochs, dots, spreads over seeds, bars, points over bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymask.report.axes import (
    DASHES,
    add_legend,
    count_on,
    draw_levels,
    draw_strokes,
    height_of_row,
    name_rows,
    name_ticks,
    set_bytes,
)
from polymask.report.labels import shortened
from polymask.report.svg import ACCENT, INK, PAPER, SERIES, drawing, to_svg
from polymask.report.table import human_bytes

Numbers = NDArray[np.float64]
MARKERS = "osD^vPX*"


def curves(
    ident: str,
    alt: str,
    lines: Mapping[str, tuple[Numbers, Numbers]],
    *,
    columns: Sequence[str] = (),
    bands: Mapping[str, tuple[Numbers, Numbers]] | None = None,
    levels: Mapping[str, float] | None = None,
    strong: str | None = None,
    many: str = "",
    labels: tuple[str, str] = ("", ""),
    height: float = 250,
) -> str:
    """Lines over tasks or epochs: few in colours of their own, many in one that grows stronger; levels are dashed.

    Args:
        ident: the picture's id.
        alt: what it shows.
        lines: name -> its x and y.
        columns: names of the places on the x axis.
        bands: name -> the lower and the upper end around its line.
        levels: name -> the height of a dashed line across.
        strong: the line that is drawn in ink.
        many: what all others are called together where they are too many for colours of their own; empty: colours
            come again, dashed.
        labels: what the axes are called.
        height: in CSS pixels, without the legend.
    """
    plain = [name for name in lines if name != strong]
    few = len(plain) <= len(SERIES) or not many
    entries = (len(plain) if few else 1) + len(levels or {}) + (strong is not None)
    with drawing(height + 15 * math.ceil(entries / 2)) as figure:
        axes = figure.subplots()
        axes.grid(axis="y")
        for place, name in enumerate(plain):
            x, y = lines[name]
            colour = SERIES[place % len(SERIES)] if few else ACCENT
            style = "--" if few and place >= len(SERIES) else "-"
            how: dict[str, Any] = {"marker": MARKERS[place % len(MARKERS)], "markersize": 4} if few else {}
            how |= {} if few else {"alpha": 0.2 + 0.6 * place / len(plain)}
            label = shortened(name, 24) if few else None if place else many
            axes.plot(x, y, color=colour, linestyle=style, linewidth=1.4, label=label, **how)
            if bands and name in bands:
                axes.fill_between(x, *bands[name], color=colour, alpha=0.15, linewidth=0)
        if strong is not None:
            axes.plot(*lines[strong], color=INK, linewidth=2.4, label=strong)
        draw_levels(axes, levels or {})
        name_ticks(axes, columns)
        if not columns:
            count_on(axes)
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.margins(y=0.08)
        add_legend(figure, axes)
        return to_svg(figure, ident, alt)


def panels(
    ident: str,
    alt: str,
    names: Sequence[str],
    lines: Sequence[tuple[Numbers, Numbers]],
    *,
    labels: tuple[str, str] = ("", ""),
) -> str:
    """A small panel a line, all on the same axes; at most a dozen."""
    wide = 3
    tall = math.ceil(len(lines) / wide)
    with drawing(36 + 88 * tall) as figure:
        grid = figure.subplots(tall, wide, sharex=True, sharey=True, squeeze=False).flatten()
        for axes, name, (x, y) in zip(grid, names, lines, strict=False):
            axes.grid(axis="y")
            axes.plot(x, y, color=ACCENT, linewidth=1.4, marker="." if len(x) == 1 else None)
            axes.set_title(shortened(name, 15), fontsize=10, loc="left")
            count_on(axes)
        for axes in grid[len(lines) :]:
            axes.set_visible(False)
        figure.supxlabel(labels[0], fontsize=11)
        figure.supylabel(labels[1], fontsize=11)
        return to_svg(figure, ident, alt)


def dots(
    ident: str,
    alt: str,
    names: Sequence[str],
    series: Mapping[str, Numbers],
    *,
    levels: Mapping[str, float] | None = None,
    steps: Mapping[str, Numbers] | None = None,
    label: str = "",
) -> str:
    """A row a name and a mark for each series in it; ``steps`` are short upright strokes, ``levels`` lines over all."""
    entries = len(series) + len(steps or {})
    with drawing(50 + height_of_row(len(names)) * len(names) + 15 * math.ceil(entries / 2)) as figure:
        axes, y = figure.subplots(), np.arange(len(names))
        axes.grid(axis="x")
        for place, (name, values) in enumerate((steps or {}).items()):
            colour = SERIES[(place + 1) % len(SERIES)]
            axes.plot(values, y, linestyle="", marker="|", markersize=13, markeredgewidth=2, color=colour, label=name)
        for place, (name, values) in enumerate(series.items()):
            full = place == len(series) - 1
            how: dict[str, Any] = {"markerfacecolor": ACCENT if full else PAPER, "markersize": 6 if full else 9}
            axes.plot(values, y, linestyle="", marker="o", markeredgecolor=ACCENT, label=name, **how)
        draw_strokes(axes, levels or {})
        name_rows(axes, names, label)
        add_legend(figure, axes)
        return to_svg(figure, ident, alt)


def spreads(
    ident: str, alt: str, series: Mapping[str, Numbers], *, levels: Mapping[str, float] | None = None, label: str = ""
) -> str:
    """A row a name: every value as a ring, their mean as a stroke, and a bar of one deviation to each side."""
    with drawing(50 + 22 * len(series) + (14 if levels else 0)) as figure:
        axes = figure.subplots()
        axes.grid(axis="x")
        for place, values in enumerate(series.values()):
            known = values[np.isfinite(values)]
            if len(known):
                mean, deviation = known.mean(), known.std(ddof=1) if len(known) > 1 else 0.0
                axes.plot([mean - deviation, mean + deviation], [place] * 2, color=ACCENT, linewidth=6, alpha=0.25)
                axes.plot(known, [place] * len(known), "o", markerfacecolor="none", markeredgecolor=ACCENT)
                axes.plot(mean, place, "|", color=INK, markersize=14, markeredgewidth=2)
        draw_strokes(axes, levels or {})
        name_rows(axes, list(series), label)
        add_legend(figure, axes)
        return to_svg(figure, ident, alt)


def bars(ident: str, alt: str, names: Sequence[str], values: Numbers, *, label: str = "") -> str:
    """A bar of bytes a name, and a dashed line at their mean."""
    with drawing(68 + height_of_row(len(names), 18) * len(names)) as figure:
        axes = figure.subplots()
        axes.grid(axis="x")
        axes.barh(np.arange(len(names)), np.nan_to_num(values), color=ACCENT, height=0.7)
        if np.isfinite(values).any():
            draw_strokes(axes, {"mean": float(np.nanmean(values))}, lambda x: human_bytes(round(x)))
        name_rows(axes, names, label)
        axes.xaxis.set_major_formatter(lambda x, _: human_bytes(round(x)) if x >= 0 else "")
        return to_svg(figure, ident, alt)


def scatter(
    ident: str,
    alt: str,
    points: Mapping[str, tuple[float, float, float]],
    *,
    levels: Mapping[str, float] | None = None,
    labels: tuple[str, str] = ("", ""),
    front: Sequence[str] = (),
) -> str:
    """Named points over bytes, logarithmic; name -> bytes, y, and the deviation of y; a line through those in front."""
    with drawing(320 + 15 * math.ceil((len(points) + len(levels or {})) / 2)) as figure:
        axes = figure.subplots()
        axes.grid()
        axes.set_xscale("log")
        set_bytes(axes, [x for x, _, _ in points.values()])
        for place, (name, (x, y, deviation)) in enumerate(points.items()):
            colour, marker = SERIES[place % len(SERIES)], MARKERS[(place + place // len(SERIES)) % len(MARKERS)]
            axes.errorbar(x, y, deviation, fmt=marker, color=colour, markersize=7, capsize=3, label=shortened(name, 24))
        if front:
            x, y = zip(*(points[name][:2] for name in front), strict=True)
            axes.plot(x, y, color=INK, linewidth=1.0, linestyle=DASHES[0], drawstyle="steps-post", zorder=0)
        draw_levels(axes, levels or {})
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.margins(0.08)
        add_legend(figure, axes)
        return to_svg(figure, ident, alt)
