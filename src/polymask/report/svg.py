"""A matplotlib figure as SVG for inside a page: scalable, in its colours, without ids, styles or links of its own."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 400
"""The width of a picture in CSS pixels: on a telephone its text is hardly smaller than it was drawn."""

INK, SOFT, LINE, PAPER, ACCENT = "#1c222b", "#5a6472", "#d5dae1", "#fcfcfb", "#1f5fbf"
SERIES = ("#1e60c0", "#b34700", "#0b7a56", "#9b3d96", "#8a6a00", "#c2255c", "#0b7285", "#5b5bd6")
COLOURS = {INK: "ink", SOFT: "soft", LINE: "line", PAPER: "paper", ACCENT: "accent"} | {
    colour: f"series-{place}" for place, colour in enumerate(SERIES)
}
"""A colour as it is drawn -> the CSS variable that stands for it in the page, which a dark page sets otherwise."""

_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@contextmanager
def drawing(height: float, width: float = WIDTH) -> Iterator[Figure]:
    """A figure of some CSS pixels, in the style of all of them; nothing of matplotlib's state is left changed."""
    log = logging.getLogger("matplotlib")
    level = log.level
    # Where no cache can be written it says so at its import, which nobody who wants a page can do anything about.
    log.setLevel(logging.ERROR)
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure

        with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
            yield Figure((width / 72, height / 72), dpi=72, layout="constrained")
    finally:
        log.setLevel(level)


def to_svg(figure: Figure, ident: str, alt: str) -> str:
    """The figure as an ``svg`` element, in the same bytes for the same numbers.

    Args:
        figure: from ``drawing``, whose context is still open.
        ident: the element's id; every id inside begins with it, so that a page may hold many.
        alt: what the picture shows, for who does not see it.

    >>> with drawing(100) as figure:
    ...     _ = figure.subplots().plot([1, 2], color=ACCENT)
    ...     text = to_svg(figure, "line", 'a "line"')
    >>> text[:75], "var(--accent)" in text, "http" in text
    ('<svg viewBox="0 0 400 100" id="line" role="img" aria-label="a &quot;line&qu', True, False)
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": ident}):
        # A name in a script that the measuring font lacks is shown by the browser's.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(buffer.getvalue())
    return _serialise(root, ident, alt)


def _serialise(root: ElementTree.Element, ident: str, alt: str) -> str:
    for parent in root.iter():
        for child in [one for one in parent if one.tag.rpartition("}")[2] in ("metadata", "style")]:
            parent.remove(child)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    used = {word for one in root.iter() for value in one.attrib.values() for word in re.findall(r"#([\w-]+)", value)}
    for one in root.iter():
        one.tag, one.tail = one.tag.rpartition("}")[2], None
        one.text = one.text if one.text and one.text.strip() else None
        one.attrib = {
            key: value for name, raw in one.attrib.items() for key, value in _attribute(name, raw, used, ident)
        }
    root.attrib = {"viewBox": f"0 0 {width:g} {height:g}", "id": ident, "role": "img", "aria-label": alt}
    return ElementTree.tostring(root, "unicode")


def _attribute(name: str, value: str, used: set[str], ident: str) -> Iterator[tuple[str, str]]:
    """An attribute as the page wants it, or none."""
    name = name.rpartition("}")[2]
    if name == "id":
        # Ids that nothing refers to are matplotlib's names of its own parts.
        if value in used:
            yield name, f"{ident}-{value}"
    elif name == "href":
        yield name, f"#{ident}-{value[1:]}" if value.startswith("#") else value
    elif name in ("d", "points", "transform", "x", "y", "width", "height"):
        yield name, re.sub(r"(\.\d\d)\d+", r"\1", value)
    else:
        value = re.sub(r"opacity: (\d\.\d\d)\d+", r"opacity: \1", re.sub(r"url\(#", f"url(#{ident}-", value))
        value = re.sub(r"#[0-9a-f]{6}\b", lambda found: _variable(found[0]), value)
        yield name, re.sub(r"(font: [\d.]+px) [^;]*", r"\1 sans-serif", value)


def _variable(colour: str) -> str:
    return f"var(--{COLOURS[colour]})" if colour in COLOURS else colour
