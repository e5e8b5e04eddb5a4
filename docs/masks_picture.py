"""Draw docs/masks.svg: one network, and what each of three tasks reads of it through its mask."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

LAYERS, TASKS, KEPT = (3, 5, 5, 2), ("task 1", "task 2", "task 3"), 0.42
WIDTH, HEIGHT, TOP, SIDE = 250, 210, 34, 25
STYLE = """
text { font: 15px system-ui, sans-serif; fill: #24292f; text-anchor: middle }
.small { font-size: 12px; fill: #57606a }
line { stroke: #8c959f; stroke-width: 1; opacity: .45 }
circle { fill: #ffffff; stroke: #57606a; stroke-width: 1.5 }
.on1 { stroke: #0969da; stroke-width: 2.2; opacity: 1 }
.on2 { stroke: #bc4c00; stroke-width: 2.2; opacity: 1 }
.on3 { stroke: #1a7f37; stroke-width: 2.2; opacity: 1 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 }
  circle { fill: #0d1117; stroke: #9198a1 }
  .on1 { stroke: #58a6ff } .on2 { stroke: #f0883e } .on3 { stroke: #3fb950 }
}
"""
Point = tuple[float, float]


def units(left: float) -> list[list[Point]]:
    """Where each layer's units stand, in a panel that begins at ``left``."""
    across = (WIDTH - 2 * SIDE) / (len(LAYERS) - 1)
    gap = (HEIGHT - TOP - 50) / max(LAYERS)
    middle = TOP + (HEIGHT - TOP - 40) / 2
    return [
        [(left + SIDE + i * across, middle + (j - (count - 1) / 2) * gap) for j in range(count)]
        for i, count in enumerate(LAYERS)
    ]


def panel(left: float, title: str, below: str, marked: set[int], task: int) -> str:
    """The network once; ``marked`` are the weights, by number, that a task reads."""
    places = units(left)
    edges = [pair for a, b in itertools.pairwise(places) for pair in itertools.product(a, b)]
    rows = [f'<text x="{left + WIDTH / 2:.0f}" y="20">{title}</text>']
    for number, ((x1, y1), (x2, y2)) in sorted(enumerate(edges), key=lambda edge: edge[0] in marked):
        kind = f' class="on{task}"' if number in marked else ""
        rows.append(f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}"{kind}/>')
    rows += [f'<circle cx="{x:.0f}" cy="{y:.0f}" r="6"/>' for layer in places for x, y in layer]
    rows.append(f'<text class="small" x="{left + WIDTH / 2:.0f}" y="{HEIGHT - 8}">{below}</text>')
    return "\n".join(rows)


def picture() -> str:
    """The whole picture."""
    draw = random.Random(3)
    count = sum(a * b for a, b in itertools.pairwise(LAYERS))
    masks = [set(draw.sample(range(count), round(KEPT * count))) for _ in TASKS]
    shown = ["".join("1" if i in mask else "0" for i in range(20)) + "…" for mask in masks]
    panels = [panel(0, "one network", "weights, kept once", set(), 0)]
    panels += [
        panel(WIDTH * (i + 1), title, bits, mask, i + 1)
        for i, (title, bits, mask) in enumerate(zip(TASKS, shown, masks, strict=True))
    ]
    size = f'viewBox="0 0 {WIDTH * (len(TASKS) + 1)} {HEIGHT}"'
    says = "One network; each of three tasks reads its own weights of it, and is stored as a bit for each weight"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><title>{says}</title><style>{STYLE}</style>'
    return "\n".join([head, *panels, "</svg>", ""])


if __name__ == "__main__":
    (Path(__file__).parent / "masks.svg").write_text(picture())
