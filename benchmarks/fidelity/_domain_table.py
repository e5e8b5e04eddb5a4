"""The table of all methods and ways of asking, for machines and for people, and how unknown inputs are refused."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from _asked import TOGETHER, TRAINED, Asked
from _confused import REFUSED, Truth, curve, figures
from _domains import DOMAINS, NOISE, NOVEL, PERMUTED

from polymask.report.table import markdown

Found = Mapping[str, Sequence[tuple[Asked, Truth]]]
"""Method -> what was asked, and what is true, of every seed."""


def table(found: Found, chosen: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row for every method and way: means over seeds, in %, milliseconds and bytes."""
    rows: list[dict[str, Any]] = []
    for name, seeds in found.items():
        for way in seeds[0][0].by_way:
            each = [figures(way, asked.by_way[way], asked.labels, truth) for asked, truth in seeds]
            row: dict[str, Any] = {"method": name, "way": way, "best": way == chosen[name]}
            row |= {key: mean(one[key] for one in each) for key in each[0]}
            rows.append(row | {"bytes of a task": mean(asked.size for asked, _ in seeds)})
    return rows


def in_short(row: Mapping[str, Any]) -> dict[str, object]:
    """A row for people: single images and batches side by side, and kinds of unknown inputs."""

    def said(*keys: str) -> str:
        values = [row.get(key, float("nan")) for key in keys]
        return "-" if any(value != value for value in values) else " / ".join(f"{value:.1f}" for value in values)

    def by_kind(key: str) -> str:
        return said(*(f"{key}, {kind}" for kind in (NOVEL, PERMUTED, NOISE)))

    return {
        "method": row["method"],
        "way": f"**{row['way']}**" if row["best"] else row["way"],
        f"domain, 1 / {TOGETHER}": said("domain", f"domain of {TOGETHER}"),
        "of each domain": said(*(f"found, {name}" for name in DOMAINS)),
        f"inside Tiny ImageNet, 1 / {TOGETHER}": said("task", f"task of {TOGETHER}"),
        "task given": said("given"),
        f"domain found, 1 / {TOGETHER}": said("domain found", f"domain found of {TOGETHER}"),
        f"task found, 1 / {TOGETHER}": said("task found", f"task found of {TOGETHER}"),
        "AUROC: classes / permuted / noise": by_kind("AUROC"),
        "kept": said("kept"),
        "refused: classes / permuted / noise": by_kind("refused"),
        "ms": said("ms"),
        "bytes": f"{row['bytes']:,.0f}",
    }


def publish(found: Found, chosen: Mapping[str, str], folder: Path) -> str:
    """Write which-domain.csv, .md and -refused.csv; the text of the second."""
    rows = table(found, chosen)
    _write_csv(folder / "which-domain.csv", rows)
    text = markdown([in_short(row) for row in rows])
    (folder / "which-domain.md").write_text(text + "\n")
    accepted: list[dict[str, Any]] = [{"refused": share} for share in REFUSED]
    for name, seeds in ((name, seeds) for name, seeds in found.items() if name != TRAINED):
        curves = [curve(chosen[name], asked.by_way[chosen[name]]) for asked, _ in seeds]
        for row, values in zip(accepted, zip(*curves, strict=True), strict=True):
            row[f"{name}, {chosen[name]}"] = mean(values)
    _write_csv(folder / "which-domain-refused.csv", accepted)
    return text


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _short(value) for key, value in row.items()})


def _short(value: object) -> object:
    if not isinstance(value, float):
        return value
    return "" if value != value else f"{value:.6g}"
