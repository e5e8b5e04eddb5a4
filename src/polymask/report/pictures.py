"""The pictures of a report, each from plain numbers to one ``svg`` element: matrices, curves, dots, bars, masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polymask.report.labels import number, shortened
from polymask.report.table import human_bytes
from polymask.report.svg import ACCENT, INK, LINE, PAPER, SERIES, SOFT, WIDTH, drawing, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = NDArray[np.float64]
DEEP = 0.7
"""The shade from which on a number in a square is written in the colour of the page."""

MARKERS = "osD^vPX*"
MASK = (0.23, 0.51, 0.89)
"""The colour of an entry that a mask reads: between light and dark, as an image cannot follow the page."""


def heatmap(
    ident: str,
    alt: str,
    values: Numbers,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    dots: NDArray[np.bool_] | None = None,
    limits: tuple[float, float] = (0.0, 1.0),
    row_name: str = "",
    column_name: str = "",
) -> str:
    """A matrix as squares, the stronger the larger; few are numbered, and those of ``dots`` have a dot in the corner."""
    tall, wide = values.shape
    side = (WIDTH - 110) / wide
    with drawing(90 + tall * min(side, 34)) as figure:
        axes = figure.subplots()
        known = np.argwhere(np.isfinite(values))
        shades = _shades(values, limits)
        _squares(axes, known, [(ACCENT, shades[i, j]) for i, j in known])
        if wide <= 10 and tall <= 30:
            for i, j in known:
                ink, x = PAPER if shades[i, j] > DEEP else INK, float(values[i, j])
                text = f"{x:.3f}" if abs(x) <= 1 and wide <= 8 else number(x, 2)
                axes.text(j, i, text, color=ink, ha="center", va="center", fontsize=10)
        if dots is not None:
            for ink, those in ((PAPER, dots & (shades > DEEP)), (INK, dots & (shades <= DEEP))):
                i, j = np.nonzero(those)
                axes.plot(j + 0.34, i - 0.34, ".", color=ink, markersize=4 if wide <= 20 else 2, clip_on=False)
        axes.set(xlim=(-0.5, wide - 0.5), ylim=(tall - 0.5, -0.5), xlabel=column_name, ylabel=row_name)
        _ticks(axes, columns, rows)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        return to_svg(figure, ident, alt)


def matrices(ident: str, alt: str, values: Mapping[str, Numbers], limits: tuple[float, float]) -> str:
    """Several matrices side by side in the same shades, without numbers."""
    wide = min(4, len(values))
    tall = math.ceil(len(values) / wide)
    with drawing(tall * (WIDTH / wide + 14)) as figure:
        grid = figure.subplots(tall, wide, squeeze=False).flatten()
        for axes, (name, one) in zip(grid, values.items(), strict=False):
            known, shades = np.argwhere(np.isfinite(one)), _shades(one, limits)
            _squares(axes, known, [(ACCENT, shades[i, j]) for i, j in known])
            axes.set(xlim=(-0.5, len(one) - 0.5), ylim=(len(one) - 0.5, -0.5), xticks=[], yticks=[], aspect="equal")
            axes.spines[:].set(visible=True, color=LINE)
            axes.set_title(shortened(name, 14), fontsize=10, loc="left")
        for axes in grid[len(values) :]:
            axes.set_visible(False)
        return to_svg(figure, ident, alt)


def _shades(values: Numbers, limits: tuple[float, float]) -> Numbers:
    low, high = limits
    return 0.06 + 0.94 * np.clip((values - low) / ((high - low) or 1.0), 0, 1)


def _squares(axes: Axes, places: NDArray[np.int64], faces: Sequence[tuple[str, float]]) -> None:
    from matplotlib.collections import PolyCollection

    corners = np.array([(-0.48, -0.48), (0.48, -0.48), (0.48, 0.48), (-0.48, 0.48)])
    axes.add_collection(
        PolyCollection([corners + (j, i) for i, j in places], facecolors=list(faces), linewidths=0, clip_on=False)
    )


def _ticks(axes: Axes, columns: Sequence[str], rows: Sequence[str] = ()) -> None:
    """Names at the axes: all of them if they fit, else some."""
    for axis, names, room in ((axes.xaxis, columns, 12), (axes.yaxis, rows, 30)):
        if names:
            step = -(-len(names) // room)
            axis.set_ticks(range(0, len(names), step), [shortened(one, 16) for one in names[::step]])
    if columns and (len(columns) > 6 or max(map(len, columns)) * min(len(columns), 12) > 50):
        axes.tick_params(axis="x", rotation=45)
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")


def curves(
    ident: str,
    alt: str,
    lines: Mapping[str, tuple[Numbers, Numbers]],
    *,
    columns: Sequence[str] = (),
    bands: Mapping[str, tuple[Numbers, Numbers]] | None = None,
    levels: Mapping[str, float] | None = None,
    strong: str | None = None,
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
        labels: what the axes are called.
        height: in CSS pixels, without the legend.
    """
    plain = [name for name in lines if name != strong]
    few = len(plain) <= len(SERIES)
    entries = (len(plain) if few else 1) + len(levels or {}) + (strong is not None)
    with drawing(height + 15 * math.ceil(entries / 2)) as figure:
        axes = figure.subplots()
        axes.grid(axis="y")
        for place, name in enumerate(plain):
            x, y = lines[name]
            colour = SERIES[place] if few else ACCENT
            how: dict[str, Any] = {"marker": MARKERS[place % len(MARKERS)], "markersize": 4} if few else {}
            how |= {} if few else {"alpha": 0.2 + 0.6 * place / len(plain)}
            label = shortened(name, 24) if few else "" if place else "one task each, later ones stronger"
            axes.plot(x, y, color=colour, linewidth=1.4, label=label or None, **how)
            if bands and name in bands:
                axes.fill_between(x, *bands[name], color=colour, alpha=0.15, linewidth=0)
        if strong is not None:
            axes.plot(*lines[strong], color=INK, linewidth=2.4, label=strong)
        _levels(axes, levels or {})
        _ticks(axes, columns)
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.margins(y=0.08)
        _legend(figure, axes)
        return to_svg(figure, ident, alt)


def _levels(axes: Axes, levels: Mapping[str, float]) -> None:
    for place, (name, height) in enumerate(levels.items()):
        style = ((0, (1, 2)), (0, (5, 2)), (0, (7, 2, 1, 2)), (0, (3, 1)))[place % 4]
        axes.axhline(height, color=SOFT, linewidth=1.4, linestyle=style, label=f"{name}: {number(height)}")


def _legend(figure: Any, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    if len(handles) > 1:
        figure.legend(handles, names, loc="outside upper left", ncols=2, borderaxespad=0.2, handlelength=1.8)


def panels(
    ident: str, alt: str, lines: Mapping[str, tuple[Numbers, Numbers]], *, labels: tuple[str, str] = ("", "")
) -> str:
    """A small panel a line, all on the same axes; at most a dozen."""
    wide = 3
    tall = math.ceil(len(lines) / wide)
    with drawing(36 + 88 * tall) as figure:
        grid = figure.subplots(tall, wide, sharex=True, sharey=True, squeeze=False).flatten()
        for axes, (name, (x, y)) in zip(grid, lines.items(), strict=False):
            axes.grid(axis="y")
            axes.plot(x, y, color=ACCENT, linewidth=1.4, marker="." if len(x) == 1 else None)
            axes.set_title(shortened(name), fontsize=10, loc="left")
        for axes in grid[len(lines) :]:
            axes.set_visible(False)
        figure.supxlabel(labels[0], fontsize=11)
        figure.supylabel(labels[1], fontsize=10)
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
    with drawing(50 + 20 * len(names) + 15 * math.ceil(entries / 2)) as figure:
        axes, y = figure.subplots(), np.arange(len(names))
        axes.grid(axis="x")
        for place, (name, values) in enumerate((steps or {}).items()):
            colour = SERIES[(place + 1) % len(SERIES)]
            axes.plot(values, y, linestyle="", marker="|", markersize=13, markeredgewidth=2, color=colour, label=name)
        for place, (name, values) in enumerate(series.items()):
            full = place == len(series) - 1
            how = {"markerfacecolor": ACCENT if full else PAPER, "markersize": 6 if full else 9}
            axes.plot(values, y, linestyle="", marker="o", markeredgecolor=ACCENT, label=name, **how)
        _strokes(axes, levels or {})
        _rows(axes, names, label)
        _legend(figure, axes)
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
        _strokes(axes, levels or {})
        _rows(axes, list(series), label)
        _legend(figure, axes)
        return to_svg(figure, ident, alt)


def _strokes(axes: Axes, levels: Mapping[str, float]) -> None:
    for name, x in levels.items():
        axes.axvline(x, color=SOFT, linestyle=(0, (1, 2)), linewidth=1.4)
        axes.annotate(f" {name} {number(x)}", (x, 1.0), xycoords=("data", "axes fraction"), fontsize=10, va="bottom")


def bars(ident: str, alt: str, names: Sequence[str], values: Numbers, *, label: str = "") -> str:
    """A bar of bytes a name, and a dashed line at their mean."""
    with drawing(50 + 18 * len(names) + 18) as figure:
        axes = figure.subplots()
        axes.grid(axis="x")
        axes.barh(np.arange(len(names)), np.nan_to_num(values), color=ACCENT, height=0.7)
        if np.isfinite(values).any():
            _strokes(axes, {"mean": float(np.nanmean(values))})
        _rows(axes, names, label)
        axes.xaxis.set_major_formatter(lambda x, _: human_bytes(round(x)) if x >= 0 else "")
        return to_svg(figure, ident, alt)


def _rows(axes: Axes, names: Sequence[str], label: str) -> None:
    axes.set_ylim(len(names) - 0.4, -0.6)
    _ticks(axes, (), names)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(label)
    axes.margins(x=0.06)
    low, high = axes.dataLim.intervalx
    if low == high == 0:
        # Around nothing but 0 an axis would invent a scale.
        axes.set(xlim=(-1, 1), xticks=[0])


def scatter(
    ident: str,
    alt: str,
    points: Mapping[str, tuple[float, float, float]],
    *,
    levels: Mapping[str, float] | None = None,
    labels: tuple[str, str] = ("", ""),
) -> str:
    """Named points over bytes, logarithmic; name -> bytes, y, and the deviation of y."""
    with drawing(320 + 15 * math.ceil((len(points) + len(levels or {})) / 2)) as figure:
        axes = figure.subplots()
        axes.grid()
        axes.set_xscale("log")
        _byte_axis(axes, [x for x, _, _ in points.values()])
        for place, (name, (x, y, deviation)) in enumerate(points.items()):
            colour, marker = SERIES[place % len(SERIES)], MARKERS[(place + place // len(SERIES)) % len(MARKERS)]
            axes.errorbar(
                x, y, deviation, fmt=marker, color=colour, markersize=7, capsize=3, label=shortened(name, 24)
            )
        _levels(axes, levels or {})
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.margins(0.08)
        _legend(figure, axes)
        return to_svg(figure, ident, alt)


def _byte_axis(axes: Axes, sizes: Sequence[float]) -> None:
    """Five ticks at most, at 1, 2 or 5 times a power of ten."""
    low, high = math.log10(min(sizes)), math.log10(max(sizes))
    steps = (1, 2, 5) if high - low < 1.5 else (1,)
    places = [step * 10**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    inside = [x for x in places if low - 0.15 <= math.log10(x) <= high + 0.15]
    axes.set_xticks(inside[:: -(-len(inside) // 5)] if inside else [min(sizes)])
    axes.xaxis.set_major_formatter(lambda x, _: human_bytes(round(x)).replace(".00", "").replace(".0 ", " "))
    axes.minorticks_off()


def mask_images(ident: str, alt: str, images: Mapping[str, Numbers]) -> str:
    """Masks, or their means over blocks, as images: an entry is the stronger the more of it is read."""
    wide = min(3, len(images))
    tall, side = math.ceil(len(images) / wide), WIDTH / wide
    height = sum(
        max(24.0, min(side, side * image.shape[0] / image.shape[1])) + 26 for image in list(images.values())[::wide]
    )
    with drawing(height) as figure:
        grid = figure.subplots(tall, wide, squeeze=False).flatten()
        for axes, (name, image) in zip(grid, images.items(), strict=False):
            pixels = np.empty((*image.shape, 4))
            pixels[..., :3], pixels[..., 3] = MASK, 0.08 + 0.92 * np.clip(image, 0, 1)
            axes.imshow(pixels, interpolation="none", aspect="auto" if image.shape[0] < 9 else "equal")
            axes.set_title(shortened(name, 20), fontsize=10, loc="left")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color=LINE)
        for axes in grid[len(images) :]:
            axes.set_visible(False)
        return to_svg(figure, ident, alt)
