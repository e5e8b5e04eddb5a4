"""Draw docs/inference.svg: how often an image's task is found among many, and which unknown images are accepted."""

from __future__ import annotations

import csv
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path

import polymask
from polymask.report.axes import add_legend
from polymask.report.charts import MARKERS
from polymask.report.svg import SERIES, SOFT, drawing, to_svg

STYLE = Path(polymask.__file__).parent / "pages" / "page.css"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "fidelity" / "results"
FOUND, ACCEPTED = RESULTS / "supsup-inference-250-by-tasks.csv", RESULTS / "which-domain-refused.csv"


def columns(path: Path) -> dict[str, list[float]]:
    """The columns of a file of numbers."""
    if not path.is_file():
        raise SystemExit(
            f"expected {path.name} in {path.parent}, found none: measure it first, see benchmarks/README.md"
        )
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def lines(ident: str, data: Mapping[str, Sequence[float]], labels: tuple[str, str], chance: bool = False) -> str:
    """A picture with a line for every column over the first one."""
    (_, x), *rest = data.items()
    with drawing(330) as figure:
        axes = figure.subplots()
        axes.grid()
        for place, (name, y) in enumerate(rest):
            axes.plot(x, y, marker=MARKERS[place], markersize=4, color=SERIES[place], label=name)
        if chance:
            axes.set_xscale("log")
            axes.set_xticks(x, [f"{count:,.0f}" for count in x])
            axes.minorticks_off()
            axes.plot(x, [100 / count for count in x], ":", color=SOFT, label="chance")
        axes.set(xlabel=labels[0], ylabel=labels[1], ylim=(-3, 103))
        add_legend(figure, axes)
        return to_svg(figure, ident, f"{labels[1]} over {labels[0]}, for {', '.join(name for name, _ in rest)}.")


def draw() -> str:
    """The text of the picture."""
    alone = runpy.run_path(str(Path(__file__).with_name("report_picture.py")))["alone"]
    found = lines("found", columns(FOUND), ("tasks", "single images whose task is found, %"), chance=True)
    accepted = lines("accepted", columns(ACCEPTED), ("known images refused, %", "unknown images accepted, %"))
    text: str = alone(STYLE.read_text() + found + accepted, ("found", "accepted"))
    return text


if __name__ == "__main__":
    (Path(__file__).parent / "inference.svg").write_text(draw())
