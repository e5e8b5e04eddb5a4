"""The board's page: a line an arm, bounds of paired differences, and a picture of accuracy over bytes."""

from __future__ import annotations

import json
import runpy
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from _board import ARMS, HERE, RESULTS, STREAMS, chosen, place

HEADER = (
    "arm",
    "accuracy, %",
    "bytes a task",
    "masks alone",
    "against {best}",
    "trains",
    "CPU s a task",
    "GB",
    "ms a text",
)
HIDDEN, CLASSES = 384, 4
SMALL = 10_000
PAIRS: Mapping[str, str | None] = {
    "units, a scale a tensor": None,
    "units, a scale a tensor, 8 bits": "units, a scale a tensor",
    "units, a scale a row": "LoRA r1, head's rate",
    "LoRA r1, head's rate": "LoRA r1",
    "weights, a scale a tensor": "weights",
    "units": "linear probe",
    "HAT in adapters": "LoRA r4, head's rate",
}
"""Arm -> what it is set beside; None: the best other of ``SMALL`` bytes at most."""
LABELS = ("bytes a task", "accuracy, %")
PICTURE = """![Accuracy over bytes a task](board.svg)

The line joins the arms that none of fewer bytes answers as well as; "+ row" is "a scale a row", lines at a point are
deviations over seeds."""
TEXT = """# What accuracy does a kilobyte a task buy?

One frozen MiniLM-L6 and three tasks of the 20 Newsgroups, each to tell four neighbouring groups apart by the first 48
tokens of a post without its header; 400 posts train, 400 others validate, 4 epochs of AdamW in batches of 16, the
best by validation. Every arm had four tries of its most sensitive knob on another such task, by validation; IA3, VeRA
and UniLoRA, which were best at the highest of theirs, a fifth above it. All tries are in benchmarks/board/A. Then each
ran here with {seeds} seeds.

Masks of the encoder learn beside a head whose rate the linear probe chose ({head_rate:g}). PEFT's arms have one rate
for all that learns, as it is used, which validated best below that; "head's rate" names those whose head has the
probe's: where it was not tried, more may be had. {missing}

Bytes are those of the file that a task adds, its head ({head:,} bytes in 32 bits) and the names of its tensors too, of
which masks and scales alone stand beside them: a bank's of ours, `adapter_model.safetensors` of PEFT's, which of
TinyLoRA holds its frozen factors too; the adapters of HAT are every task's and counted in none.

Bounds are of 95 %, of how many points an arm lies above another over the same {texts:,} test texts, not over seeds:
that it lies above or below, or within 2 points (the lower one is above -2), is said where the bounds of every seed by
itself say so. The table sets each beside the one that validated best on the other task of those of at most 10 kB:
{best}.

Seconds are a core's own, ours with banks and proofs; they and the latencies were taken while other runs shared the
machine. Ours answer baked into a plain network, PEFT's through its layers: one that it can merge costs a plain
network's time too. This page is made by `python benchmarks/board.py --write docs/board.md` from `benchmarks/board/B`.

"""


def runs() -> dict[str, list[dict[str, Any]]]:
    """Arm -> what was measured of it on B, a seed each; arms without any are left out."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted((RESULTS / "B").glob("*.json")):
        one = json.loads(file.read_text())
        found.setdefault(one["run_info"]["experiment_name"].partition("/")[2], []).append(one)
    return {arm: found[arm] for arm in ARMS if arm in found}


def by_text(several: list[dict[str, Any]]) -> list[float]:
    """How often each text was answered rightly, over seeds."""
    tasks = several[0]["hits"]
    return [mean(one["hits"][task][place] for one in several) for task in tasks for place in range(len(tasks[task]))]


def bounds(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> tuple[float, float]:
    """The 95 % bounds of how much better one arm answers the same texts, in points of 100."""
    differences = [100 * (a - b) for a, b in zip(by_text(ours), by_text(theirs), strict=True)]
    error = 1.96 * stdev(differences) / len(differences) ** 0.5
    return mean(differences) - error, mean(differences) + error


def tries(arm: str) -> float:
    """The best validation accuracy of an arm on A."""
    return float(json.loads(place("A", arm, chosen(arm), 0).read_text())["valid accuracy"])


def figures(several: list[dict[str, Any]]) -> dict[str, float]:
    """The means over seeds of one arm."""
    about = [one["train_info"] for one in several]
    tasks = len(STREAMS["B"])
    return {
        "accuracy": 100 * mean(one["test accuracy"] for one in several),
        "bytes": mean(one["file_size"] for one in about),
        "masks": mean(one["parts"].get("masks", 0) for one in several),
        "trains": mean(one["num_trainable_params"] for one in about),
        "seconds": mean(one["train_time"] for one in about) / tasks,
        "memory": mean(one["memory_max"] for one in about) / 1e9,
        "latency": mean(one["latency_ms"] for one in several),
    }


def write_page(path: Path) -> None:
    """Write the page, and its picture beside it."""
    found = runs()
    if not found:
        raise SystemExit("expected results of phase B, found none: board.py --phase B first")
    said = {arm: figures(several) for arm, several in found.items()}
    texts = len(by_text(next(iter(found.values()))))
    parts = [table(found, said), PICTURE, "## What it shows", claims(found, said)]
    about = {"texts": texts, "seeds": len(next(iter(found.values()))), "head": 4 * (HIDDEN + 1) * CLASSES}
    missing = [arm for arm in ARMS if arm not in found]
    told = f"Not attempted: {'; '.join(missing)}." if missing else "No arm is missing."
    text = TEXT.format(**about, head_rate=chosen("linear probe"), best=best_of(said, SMALL), missing=told)
    path.write_text(text + "\n\n".join(parts) + "\n")
    path.with_name("board.svg").write_text(picture(found, said))


def best_of(said: dict[str, dict[str, float]], most: float, but: str = "") -> str:
    """The arm that validates best on A of those of so many bytes a task at most, but one; an arm of its own tries."""
    small = [arm for arm, one in said.items() if one["bytes"] <= most and arm != but and ARMS[arm].like is None]
    return max(small, key=tries)


def claims(found: dict[str, list[dict[str, Any]]], said: dict[str, dict[str, float]]) -> str:
    """What was to be shown or refuted, a line each: it is, or it is not shown."""
    lines = []
    for arm, other in PAIRS.items():
        if arm not in said or (other is not None and other not in said):
            continue
        against = other or best_of(said, SMALL, arm)
        which = against if other else f"the best other of at most 10 kB, {against}"
        low, high = bounds(found[arm], found[against])
        lines.append(
            f"- {arm} ({said[arm]['bytes']:,.0f} bytes) beside {which} ({said[against]['bytes']:,.0f}): {low:+.1f} to "
            f"{high:+.1f} points, {verdict(found[arm], found[against])}."
        )
    return "\n".join(lines)


def verdict(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """What every seed by itself shows."""
    several = [bounds([a], [b]) for a, b in zip(ours, theirs, strict=False)]
    above, below = all(low > 0 for low, _ in several), all(high < 0 for _, high in several)
    found = "above it" if above else "below it" if below else "no difference is shown"
    return f"{found}; within 2 points: {'shown' if all(low > -2 for low, _ in several) else 'not shown'}"


def table(found: dict[str, list[dict[str, Any]]], said: dict[str, dict[str, float]]) -> str:
    """A line an arm, the smallest first."""
    best = best_of(said, SMALL)
    rows = [tuple(name.format(best=best) for name in HEADER), tuple(":--" for _ in HEADER)]
    for arm, one in sorted(said.items(), key=lambda pair: pair[1]["bytes"]):
        low, high = bounds(found[arm], found[best]) if arm != best else (0.0, 0.0)
        against = "-" if arm == best else f"{low:+.1f} to {high:+.1f}"
        scores = [100 * run["test accuracy"] for run in found[arm]]
        spread = f" ± {stdev(scores):.1f}" if len(scores) > 1 else ""
        rows.append(
            (
                arm,
                f"{one['accuracy']:.1f}{spread}",
                f"{one['bytes']:,.0f}",
                f"{one['masks']:,.0f}" if one["masks"] else "-",
                against,
                f"{one['trains']:,.0f}",
                f"{one['seconds']:.0f}",
                f"{one['memory']:.1f}",
                f"{one['latency']:.1f}",
            )
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def picture(found: dict[str, list[dict[str, Any]]], said: dict[str, dict[str, float]]) -> str:
    """Accuracy over bytes, with the deviation over seeds."""
    import polymask
    from polymask.report.charts import scatter

    points = {}
    for arm, several in found.items():
        scores = [100 * one["test accuracy"] for one in several]
        points[short(arm)] = (said[arm]["bytes"], mean(scores), stdev(scores) if len(scores) > 1 else 0.0)
    leads = leading(said)
    alt = f"Accuracy over bytes a task of {len(said)} arms; {', '.join(leads)} lead."
    text = scatter("board", alt, points, labels=LABELS, front=[short(arm) for arm in leads])
    style = Path(polymask.__file__).parent / "pages" / "page.css"
    alone = runpy.run_path(str(HERE.parent / "docs" / "report_picture.py"))["alone"]
    made: str = alone(style.read_text() + text, ("board",))
    return made


def short(arm: str) -> str:
    """An arm's name where there is little room."""
    return arm.replace(", a scale a ", " + ")


def leading(said: dict[str, dict[str, float]]) -> list[str]:
    """The arms that none of fewer bytes answers as well as."""
    front, highest = [], 0.0
    for arm in sorted(said, key=lambda arm: (said[arm]["bytes"], -said[arm]["accuracy"])):
        if said[arm]["accuracy"] > highest:
            highest = said[arm]["accuracy"]
            front.append(arm)
    return front
