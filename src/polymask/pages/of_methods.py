"""Methods beside each other: the table, accuracies with their spread over seeds, bytes, forgetting."""

from __future__ import annotations

import numpy as np

from polymask.learning.figures.cost import read_cost
from polymask.pages.runs import Runs, bytes_of, chance_of, mean_over, values_over
from polymask.pages.section import Section, Table
from polymask.report.charts import scatter, spreads
from polymask.report.labels import number, printable
from polymask.report.table import human_bytes, mean_std


def methods_table(runs: Runs, metric: str) -> Section:
    """What ``table.md`` of the comparison says, from the runs as they are now."""
    rows = []
    for method, several in runs.items():
        drift = values_over(several, "max_logit_drift")
        sizes = [run.results["bytes"] for run in several if run.results.get("bytes")]
        each = [size for one in sizes for size in one.get("per_task", ())]
        costs = [read_cost(run.folder) for run in several]
        known = [cost for cost in costs if cost]
        rows.append(
            [
                printable(method),
                mean_std(list(values_over(several, "average_accuracy")), ".4f"),
                mean_std(list(values_over(several, "bwt_gem")), ".4f"),
                number(float(drift.max())),
                human_bytes(round(sum(each) / len(each))) if each else "–",
                human_bytes(sizes[0]["backbone"]) if sizes else "–",
                f"{known[0]['parameters']:,}" if known else "–",
                mean_std([cost["latency_ms"] for cost in known], ".2f") if known else "–",
                mean_std(list(values_over(several, "seconds")), ".1f"),
            ]
        )
    heads = ["method", f"average {metric}", "bwt", "largest logit drift", "bytes per task", "shared bytes"]
    heads += ["parameters", "latency, ms", "seconds"]
    sentence = "Mean ± sample standard deviation over seeds; one seed has none."
    if known_cost := next(
        (cost for several in runs.values() for run in several if (cost := read_cost(run.folder))), None
    ):
        sentence += f" Latency: {known_cost['how']}."
    return Section("table", "All methods", sentence, (), Table("methods", heads, rows), is_open=True)


def accuracy_spread(runs: Runs, metric: str) -> Section:
    """The average of every seed."""
    title = f"Average {metric} after the last task"
    series = {printable(method): values_over(several, "average_accuracy") for method, several in runs.items()}
    if not any(np.isfinite(values).any() for values in series.values()):
        return Section("accuracy", title, "No run has ended yet.")
    sentence = (
        "A ring a seed, a stroke their mean, a bar one standard deviation to each side. Masks are measured against a "
        "linear probe from below, and independent networks and joint training from above."
    )
    alt = "; ".join(f"{name} {number(mean_over(values))}" for name, values in series.items())
    picture = spreads(
        "accuracy-picture", f"Average {metric}: {alt}.", series, levels=chance_of(runs), label=f"average {metric}"
    )
    return Section("accuracy", title, sentence, [picture], _seed_table(runs, "average_accuracy", f"average {metric}"))


def _seed_table(runs: Runs, key: str, caption: str) -> Table:
    rows = [
        [printable(method), run.folder.name.rpartition("-")[2], number(value, 4)]
        for method, several in runs.items()
        for run, value in zip(several, values_over(several, key).tolist(), strict=True)
    ]
    return Table(caption, ["method", "seed", caption], rows)


def against_bytes(runs: Runs, metric: str) -> Section:
    """What all tasks take, and how well they do."""
    title = f"{metric.capitalize()} against bytes"
    points = {}
    for method, several in runs.items():
        values, size = values_over(several, "average_accuracy"), mean_over(np.array([bytes_of(run) for run in several]))
        if np.isfinite(mean_over(values)) and size > 0:
            points[printable(method)] = (size, mean_over(values), float(values.std(ddof=1)) if len(values) > 1 else 0.0)
    if not points:
        return Section("bytes", title, "No run says its bytes.")
    sentence = (
        "Up and to the left is better. Bytes are those of the network and of all tasks together, on a logarithmic axis."
    )
    alt = "; ".join(f"{name}: {human_bytes(round(x))}, {number(y)}" for name, (x, y, _) in points.items())
    picture = scatter(
        "bytes-picture",
        f"{title}. {alt}.",
        points,
        levels=chance_of(runs),
        labels=("bytes of all tasks", f"average {metric}"),
    )
    rows = [[name, human_bytes(round(x)), number(y, 4), number(s, 2)] for name, (x, y, s) in points.items()]
    table = Table(title, ["method", "bytes of all tasks", f"average {metric}", "deviation over seeds"], rows)
    return Section("bytes", title, sentence, [picture], table)


def forgetting_spread(runs: Runs, metric: str) -> Section:
    """What later tasks changed, of every seed."""
    title = "What was forgotten"
    changes = {printable(method): values_over(several, "bwt_gem") for method, several in runs.items()}
    drifts = {printable(method): values_over(several, "max_logit_drift") for method, several in runs.items()}
    pictures = []
    for key, series, label in (
        ("change", changes, f"mean change of {metric} since learned"),
        ("drift", drifts, "largest change of a logit"),
    ):
        known = {name: values for name, values in series.items() if np.isfinite(values).any()}
        if known:
            alt = "; ".join(f"{name} {number(mean_over(values))}" for name, values in known.items())
            pictures.append(spreads(f"{key}-picture", f"{label}: {alt}.", known, label=label))
    sentence = (
        f"Backward transfer: what later tasks changed of the {metric}, 0 if nothing was forgotten; and the largest "
        "change of any logit of a finished task. Joint training and a single task have neither."
        if pictures
        else "Neither is known: no run has ended, or there is one task alone."
    )
    rows = [[name, mean_std(list(changes[name]), ".4f"), number(float(drifts[name].max()))] for name in changes]
    return Section(
        "forgetting", title, sentence, pictures, Table(title, ["method", "bwt", "largest logit drift"], rows)
    )
