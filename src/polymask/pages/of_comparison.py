"""A comparison as sections: all methods with their spread over seeds, their bytes, their matrices side by side."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from polymask.learning.cost import read_cost
from polymask.pages.run import Numbers, Run, read_run
from polymask.pages.section import Page, Section, Shown, Table, matrix_table
from polymask.report.bins import bin_matrix, bin_means
from polymask.report.labels import counted, listed, number, printable
from polymask.report.pictures import curves, heatmap, matrices, scatter, spreads
from polymask.report.table import human_bytes, mean_std

Runs = Mapping[str, Sequence[Run]]
_FOLDER = re.compile(r"(.+)-(\d+)")


def run_folders(folder: Path) -> dict[str, list[Path]]:
    """Method -> the folders of its runs in the order of seeds; empty if the folder is no comparison."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = _FOLDER.fullmatch(place.name)
        if name and any((place / file).exists() for file in ("results.json", "config.yaml")):
            found.setdefault(name[1], []).append((int(name[2]), place))
    order = [name.replace(":", "-") for name in _order(folder)]
    ranked = sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))
    return {name: [place for _, place in sorted(found[name])] for name in ranked}


def _order(folder: Path) -> list[str]:
    """The methods as the table of the comparison lists them."""
    try:
        return [str(row["method"]) for row in json.loads((folder / "table.json").read_text())]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def comparison_page(folder: Path, places: Mapping[str, Sequence[Path]]) -> Page:
    """All that a comparison's folder says."""
    runs = {method: [read_run(place) for place in paths] for method, paths in places.items()}
    every = [run for several in runs.values() for run in several]
    metric = next((run.metric for run in every if run.results), "accuracy")
    seeds = max(map(len, runs.values()))
    tasks = max((run.tasks for run in every), key=len)
    streams = {str((run.results.get("stream") or {}).get("name", "a stream")) for run in every if run.results}
    notes = [f"{run.folder.name}: {problem}" for run in every for problem in run.problems]
    notes += [f"{run.folder.name} has not ended." for run in every if "average_accuracy" not in run.results]
    title = f"{counted(len(runs), 'method')} on {printable(listed(sorted(streams)) or 'a stream')}"
    figures = {"methods": str(len(runs)), "seeds": str(seeds), "tasks": f"{len(tasks):,}"}
    sections = [
        _table(runs, metric),
        _accuracy(runs, metric),
        _against_bytes(runs, metric),
        _forgetting(runs, metric),
        _matrices(runs, metric),
        _so_far(runs, metric, tasks),
        _per_task(runs, metric, tasks),
    ]
    return Page(title, _summary(runs, metric), figures, sections, notes)


def _values(runs: Sequence[Run], key: str) -> Numbers:
    found = [run.results.get(key) for run in runs]
    return np.array([value if isinstance(value, int | float) else np.nan for value in found], np.float64)


def _mean(values: Numbers) -> float:
    """The mean over seeds; NaN where one is missing."""
    return float(values.mean()) if len(values) else float("nan")


def _bytes(run: Run) -> float:
    """What a run takes on disk for all its tasks: what they share, and what each added."""
    sizes = run.results.get("bytes") or {}
    return float(sizes["backbone"] + sum(sizes["per_task"])) if sizes.get("per_task") else float("nan")


def _chance(runs: Runs) -> dict[str, float]:
    known = [run.chance for several in runs.values() for run in several if np.isfinite(run.chance).any()]
    return {"chance": float(np.nanmean(known[0]))} if known else {}


def _summary(runs: Runs, metric: str) -> str:
    means = {method: _mean(_values(several, "average_accuracy")) for method, several in runs.items()}
    drift = {method: _values(several, "max_logit_drift") for method, several in runs.items()}
    still = [method for method, values in drift.items() if len(values) and (values == 0).all()]
    moved = [method for method, values in drift.items() if (values > 0).any()]
    known = {method: mean for method, mean in means.items() if np.isfinite(mean)}
    if not known:
        return "No run has ended yet."
    best = max(known, key=lambda method: known[method])
    said = [f"The highest average {metric} is {number(known[best])} of {printable(best)}."]
    said += [f"Not a bit of a finished task's logits moved under {printable(listed(still))}."] if still else []
    said += [f"Logits moved under {printable(listed(moved))}."] if moved else []
    return " ".join(said)


def _table(runs: Runs, metric: str) -> Section:
    rows = []
    for method, several in runs.items():
        drift = _values(several, "max_logit_drift")
        sizes = [run.results["bytes"] for run in several if run.results.get("bytes")]
        each = [size for one in sizes for size in one.get("per_task", ())]
        costs = [read_cost(run.folder) for run in several]
        known = [cost for cost in costs if cost]
        rows.append(
            [
                printable(method),
                mean_std(list(_values(several, "average_accuracy")), ".4f"),
                mean_std(list(_values(several, "bwt_gem")), ".4f"),
                number(float(drift.max())),
                human_bytes(round(sum(each) / len(each))) if each else "–",
                human_bytes(sizes[0]["backbone"]) if sizes else "–",
                f"{known[0]['parameters']:,}" if known else "–",
                mean_std([cost["latency_ms"] for cost in known], ".2f") if known else "–",
                mean_std(list(_values(several, "seconds")), ".1f"),
            ]
        )
    heads = ["method", f"average {metric}", "bwt", "largest logit drift", "bytes per task", "shared bytes"]
    heads += ["parameters", "latency, ms", "seconds"]
    sentence = "Mean ± sample standard deviation over seeds; one seed has none."
    if known_cost := next((cost for several in runs.values() for run in several if (cost := read_cost(run.folder))), None):
        sentence += f" Latency: {known_cost['how']}."
    return Section("table", "All methods", sentence, (), Table("methods", heads, rows), is_open=True)


def _accuracy(runs: Runs, metric: str) -> Section:
    title = f"Average {metric} after the last task"
    series = {printable(method): _values(several, "average_accuracy") for method, several in runs.items()}
    if not any(np.isfinite(values).any() for values in series.values()):
        return Section("accuracy", title, "No run has ended yet.")
    sentence = (
        "A ring a seed, a stroke their mean, a bar one standard deviation to each side. What masks are measured against: "
        "linear probe from below, independent networks and joint training from above."
    )
    alt = "; ".join(f"{name} {number(_mean(values))}" for name, values in series.items())
    picture = spreads("accuracy-picture", f"Average {metric}: {alt}.", series, levels=_chance(runs), label=f"average {metric}")
    return Section("accuracy", title, sentence, [picture], _seed_table(runs, "average_accuracy", f"average {metric}"))


def _seed_table(runs: Runs, key: str, caption: str) -> Table:
    rows = [
        [printable(method), run.folder.name.rpartition("-")[2], number(value, 4)]
        for method, several in runs.items()
        for run, value in zip(several, _values(several, key).tolist(), strict=True)
    ]
    return Table(caption, ["method", "seed", caption], rows)


def _against_bytes(runs: Runs, metric: str) -> Section:
    title = f"{metric.capitalize()} against bytes"
    points = {}
    for method, several in runs.items():
        values, size = _values(several, "average_accuracy"), _mean(np.array([_bytes(run) for run in several]))
        if np.isfinite(_mean(values)) and size > 0:
            points[printable(method)] = (size, _mean(values), float(values.std(ddof=1)) if len(values) > 1 else 0.0)
    if not points:
        return Section("bytes", title, "No run says its bytes.")
    sentence = "Up and to the left is better. Bytes are those of the network and of all tasks together, on a logarithmic axis."
    alt = "; ".join(f"{name}: {human_bytes(round(x))}, {number(y)}" for name, (x, y, _) in points.items())
    picture = scatter(
        "bytes-picture", f"{title}. {alt}.", points, levels=_chance(runs), labels=("bytes of all tasks", f"average {metric}")
    )
    rows = [[name, human_bytes(round(x)), number(y, 4), number(s, 2)] for name, (x, y, s) in points.items()]
    table = Table(title, ["method", "bytes of all tasks", f"average {metric}", "deviation over seeds"], rows)
    return Section("bytes", title, sentence, [picture], table)


def _forgetting(runs: Runs, metric: str) -> Section:
    title = "What was forgotten"
    changes = {printable(method): _values(several, "bwt_gem") for method, several in runs.items()}
    drifts = {printable(method): _values(several, "max_logit_drift") for method, several in runs.items()}
    pictures = []
    for key, series, label in (
        ("change", changes, f"mean change of {metric} since learned"),
        ("drift", drifts, "largest change of a logit"),
    ):
        known = {name: values for name, values in series.items() if np.isfinite(values).any()}
        if known:
            alt = "; ".join(f"{name} {number(_mean(values))}" for name, values in known.items())
            pictures.append(spreads(f"{key}-picture", f"{label}: {alt}.", known, label=label))
    sentence = (
        f"Backward transfer: what later tasks changed of the {metric}, 0 if nothing was forgotten; and the largest change "
        "of any logit of a finished task. Joint training and a single task have neither."
        if pictures
        else "Neither is known: no run has ended, or there is one task alone."
    )
    rows = [[name, mean_std(list(changes[name]), ".4f"), number(float(drifts[name].max()))] for name in changes]
    return Section("forgetting", title, sentence, pictures, Table(title, ["method", "bwt", "largest logit drift"], rows))


def _matrices(runs: Runs, metric: str) -> Section:
    title = f"{metric.capitalize()} matrices"
    found = {}
    for method, several in runs.items():
        same = [run.values for run in several if run.tasks == several[0].tasks]
        if (stacked := _over_seeds(same)) is not None and np.isfinite(np.tril(stacked, -1)).any():
            found[printable(method)] = bin_matrix(stacked, Shown(several[0].tasks).groups)
    if not found:
        return Section("matrices", title, "No matrix is known.")
    low = min(float(np.nanmin(values)) for values in found.values())
    high = max(float(np.nanmax(values)) for values in found.values())
    sentence = "Row: after which task; column: on which. Mean over seeds. A column that grows fainter downwards is forgotten."
    alt = f"Matrices of {metric} of {listed(list(found))}, between {number(low)} and {number(high)}."
    limits = (min([low, *_chance(runs).values()]), high)
    rows = [[name, number(float(np.nanmean(values.diagonal()))), number(float(np.nanmean(values[-1])))] for name, values in found.items()]
    table = Table(title, ["method", "when learned", "at the end"], rows)
    return Section("matrices", title, sentence, [matrices("matrices-picture", alt, found, limits)], table)


def _over_seeds(values: Sequence[Numbers]) -> Numbers | None:
    """The mean over seeds of what all of them know."""
    return np.mean(values, 0) if values and values[0].size else None


def _so_far(runs: Runs, metric: str, tasks: Sequence[str]) -> Section:
    title, shown = f"Average {metric} of the tasks so far", Shown(tasks)
    x = np.arange(len(shown.groups), dtype=np.float64)
    lines, bands = {}, {}
    for method, several in runs.items():
        curve = [_row_means(run) for run in several if run.tasks == list(tasks)]
        if curve and np.isfinite(curve).any():
            each = np.stack([bin_means(one, shown.groups) for one in curve])
            mean, deviation = each.mean(0), each.std(0, ddof=1) if len(each) > 1 else 0 * each[0]
            lines[printable(method)], bands[printable(method)] = (x, mean), (mean - deviation, mean + deviation)
    if not lines or len(tasks) < 2:
        return Section("curves", title, "No run says more than one row of its matrix.")
    sentence = f"After every task the mean over those learned; the band is one standard deviation over seeds.{shown.note}"
    alt = "; ".join(f"{name} ends at {number(float(y[-1]))}" for name, (_, y) in lines.items())
    picture = curves(
        "curves-picture", f"{title}: {alt}.", lines, columns=shown.names, bands=bands, levels=_chance(runs), labels=("after learning", f"average {metric}")
    )
    table = matrix_table(title, "method", list(lines), shown.full, np.stack([y for _, y in lines.values()]))
    return Section("curves", title, sentence, [picture], table)


def _row_means(run: Run) -> Numbers:
    """Of every row the mean of its lower triangle; NaN where an entry of it is missing."""
    return np.array([row[: place + 1].mean() for place, row in enumerate(run.values)], np.float64)


def _per_task(runs: Runs, metric: str, tasks: Sequence[str]) -> Section:
    title, shown = f"Final {metric} on every task", Shown(tasks)
    rows, deviations = {}, {}
    for method, several in runs.items():
        ends = [run.at_the_end for run in several if run.tasks == list(tasks)]
        if ends and np.isfinite(ends).any():
            each = np.stack([bin_means(one, shown.groups) for one in ends])
            rows[printable(method)] = each.mean(0)
            deviations[printable(method)] = each.std(0, ddof=1) if len(each) > 1 else np.full(len(each[0]), np.nan)
    if not rows:
        return Section("tasks", title, "No final row is known.")
    values = np.stack(list(rows.values()))
    low = min([float(np.nanmin(values)), *_chance(runs).values()])
    alt = f"Matrix: row, method; column, task; {metric} after the last task, mean over seeds."
    picture = heatmap(
        "tasks-picture", alt, values, list(rows), shown.names, limits=(low, float(np.nanmax(values))), column_name="task"
    )
    table = matrix_table(f"{title}, mean over seeds", "method", list(rows), shown.full, values)
    spread = [
        [name, *(f"{number(float(m))} ± {number(float(s), 2)}" for m, s in zip(rows[name], deviations[name], strict=True))]
        for name in rows
    ]
    seeds = max(map(len, runs.values()))
    table = Table(table.caption, table.columns, spread) if seeds > 1 else table
    return Section("tasks", title, f"The mean over seeds, chance faintest.{shown.note}", [picture], table)
