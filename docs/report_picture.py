"""Pictures of a report as an SVG file alone: python docs/report_picture.py runs/demo/report.html docs/demo.svg."""

from __future__ import annotations

import re
import sys
from pathlib import Path

SHOWN = ("matrices-picture", "bytes-picture")
"""What is shown of a comparison, side by side, unless ids follow on the command line."""

GAP, MOST = 24, 150_000
SPACE = 'xmlns="http://www.w3.org/2000/svg"'


def alone(page: str, idents: tuple[str, ...] = SHOWN) -> str:
    """Pictures of a page side by side, with the page's colours for the light and for the dark.

    Args:
        page: the page's HTML.
        idents: the ids of the pictures; of a run's page for example ``matrix-picture`` and ``masks-picture``.

    Returns:
        The text of an SVG file.

    Raises:
        ValueError: if the page has no picture of that id; the message lists those it has.
    """
    parts, x, height = [], 0.0, 0.0
    for ident in idents:
        found = re.search(rf'<svg viewBox="0 0 ([\d.]+) ([\d.]+)" id="{re.escape(ident)}".*?</svg>', page, re.DOTALL)
        if found is None:
            known = ", ".join(re.findall(r'<svg viewBox="[^"]*" id="([^"]*)"', page))
            raise ValueError(f"expected one of the pictures {known or '(none)'}, found {ident!r}")
        wide, tall = float(found[1]), float(found[2])
        parts.append(found[0].replace("<svg ", f'<svg x="{x:g}" y="0" width="{wide:g}" height="{tall:g}" ', 1))
        x, height = x + wide + GAP, max(height, tall)
    colours = "".join(re.findall(r":root \{.*?\}|@media \(prefers-color-scheme: dark\) \{.*?\}\s*\}", page, re.DOTALL))
    style = f"{colours} text {{ font-family: sans-serif; }} * {{ stroke-linejoin: round; }}"
    box = f'viewBox="0 0 {x - GAP:g} {height:g}" width="{x - GAP:g}" height="{height:g}"'
    return f"<svg {SPACE} {box}><style>{style}</style>{''.join(parts)}</svg>\n"


if __name__ == "__main__":
    source, target, *wanted = sys.argv[1:]
    text = alone(Path(source).read_text(), tuple(wanted) or SHOWN)
    if len(text) > MOST:
        sys.exit(f"expected a picture of at most {MOST:,} bytes, found {len(text):,}: choose fewer")
    Path(target).write_text(text)
