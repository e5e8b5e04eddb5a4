"""Pictures of matrices: squares that are the stronger the larger their entry, and masks as images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from polymask.report.axes import name_ticks
from polymask.report.labels import number, shortened
from polymask.report.svg import ACCENT, INK, LINE, PAPER, WIDTH, drawing, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = NDArray[np.float64]
DEEP = 0.7
"""The shade from which on a number in a square is written in the colour of the page."""

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
    """A matrix as squares, the stronger the larger; few are numbered, those of ``dots`` have a dot in the corner."""
    tall, wide = values.shape
    side = (WIDTH - 110) / wide
    height = min(34, max(side, 120 / tall))
    with drawing(90 + tall * height) as figure:
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
        name_ticks(axes, columns, rows, height, side)
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


def _shades(values: Numbers, limits: tuple[float, float]) -> Numbers:
    low, high = limits
    return 0.06 + 0.94 * np.clip((values - low) / ((high - low) or 1.0), 0, 1)


def _squares(axes: Axes, places: NDArray[np.int64], faces: Sequence[tuple[str, float]]) -> None:
    from matplotlib.collections import PolyCollection

    corners = np.array([(-0.48, -0.48), (0.48, -0.48), (0.48, 0.48), (-0.48, 0.48)])
    axes.add_collection(
        PolyCollection(
            [np.add(corners, (j, i)) for i, j in places], facecolors=list(faces), linewidths=0, clip_on=False
        )
    )
