"""Draw docs/apd-capacity.svg: what APD's permuted digits came to, accuracy and AOPD over capacity."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from statistics import mean, stdev

import polymask
from polymask.report.svg import SERIES, drawing, to_svg

STYLE = Path(polymask.__file__).parent / "pages" / "page.css"
RESULT = Path(__file__).parents[1] / "benchmarks" / "fidelity" / "results" / "apd-permuted-digits.json"
SWEPT = ("lambda2 0.01", "lambda2 1", "lambda2 100")


def draw() -> str:
    """The text of the picture: a point an arm, bars of one deviation over seeds, a line through the swept anchor."""
    alone = runpy.run_path(str(Path(__file__).with_name("report_picture.py")))["alone"]
    values = json.loads(RESULT.read_text())["values"]
    arms = [name.removesuffix(", capacity") for name in values if name.endswith(", capacity")]
    pictures = []
    for key, label in (("accuracy", "accuracy %"), ("AOPD", "AOPD, points")):
        with drawing(330) as figure:
            axes = figure.subplots()
            axes.grid()
            line = [(mean(values[f"{arm}, capacity"]), mean(values[f"{arm}, {key}"])) for arm in SWEPT]
            axes.plot(*zip(*line, strict=True), color=SERIES[0], linewidth=1)
            for place, arm in enumerate(arms):
                xs, ys = values[f"{arm}, capacity"], values[f"{arm}, {key}"]
                spread = {"xerr": stdev(xs), "yerr": stdev(ys) if len(ys) > 1 else None}
                colour = SERIES[0] if arm in SWEPT else SERIES[1 + place % (len(SERIES) - 1)]
                axes.errorbar(mean(xs), mean(ys), **spread, fmt="osD^vPX"[place], color=colour, capsize=3, label=arm)
            axes.set(xlabel="capacity %", ylabel=label)
            figure.legend(loc="outside lower left", ncols=2)
            pictures.append(to_svg(figure, key, f"{label} over capacity, for {', '.join(arms)}."))
    text: str = alone(STYLE.read_text() + "".join(pictures), ("accuracy", "AOPD"))
    return text


if __name__ == "__main__":
    (Path(__file__).parent / "apd-capacity.svg").write_text(draw())
