"""Several methods and seeds on one stream under several orders of its tasks, beside the noise of seeds alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from polymask.learning.compare import compare, learn_one, outcome
from polymask.learning.figures.table import Report, Reports, write_orders
from polymask.learning.folder import read_results
from polymask.learning.options import JOINT, Refused, run_folder
from polymask.learning.orders.draw import orders_of
from polymask.learning.orders.plan import Plan
from polymask.learning.orders.robustness import Robustness, final_scores, robustness_of
from polymask.report.labels import counted
from polymask.streams.by_name import make_stream


def compare_orders(
    methods: Sequence[str],
    seeds: Sequence[int],
    out: str | Path,
    orders: int | str | Sequence[Sequence[int]],
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    weights: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    measure_floor: bool = True,
    **same: Any,
) -> tuple[Reports, dict[str, Robustness]]:
    """``compare`` under several orders: what it runs first, then further orders, then further seeds for the floor.

    A task keeps its name, its data and all its draws wherever it comes, so that a method that learns no task from
    another has an OPD of exactly 0. Joint training has no order and runs once a seed.

    Args:
        methods: as in ``compare``.
        seeds: what scores are averaged over before orders are compared.
        out: the folder of the comparison; a run's own is ``METHOD-SEED``, under further orders ``METHOD-SEED-order-K``.
        orders: how many, or "apd", or the orders themselves: see ``orders_of``.
        options: as in ``compare``.
        weights: as in ``compare``.
        say: called with what will be run, with a line about every run that ends, and with what is still to come.
        measure_floor: whether further seeds are run for the noise floor, as many as there are orders more.
        same: as in ``compare``.

    Returns:
        The reports of the first order as ``compare`` gives them, and method -> its figures.

    Raises:
        Refused: for orders that the stream does not have.
        ValueError: as ``compare``.

    >>> import tempfile
    >>> from polymask.learning.training import Training
    >>> same = {"tasks": 2, "training": Training(epochs=1, quiet=True), "net": {"hidden": [8]}, "weights": "random"}
    >>> with tempfile.TemporaryDirectory() as out:
    ...     _, found = compare_orders(["linear_probe"], [0], out, 2, stream="digits-rotated", **same)
    >>> found["linear_probe"].opd, found["linear_probe"].floor > 0
    ({'digits/rotated-0': 0.0, 'digits/rotated-10': 0.0}, True)
    """
    place, ordered = Path(out), [method for method in methods if method != JOINT]
    if not ordered:
        raise Refused(f"expected a method that learns task after task for several orders, found {JOINT} alone")
    plan = Plan(orders_of(orders, _count_tasks(same), same.get("order") or ()), tuple(seeds), measure_floor)
    same["order"] = same.get("order") or _as_option(plan.orders[0])
    for line in announce(plan, methods, place):
        say(line)
    reports = compare(methods, seeds, out, options=options, weights=weights, say=say, **same)
    plan.write(place)
    runs: dict[str, dict[tuple[int, int], Report]] = {
        method: {(0, seed): report for seed, report in zip(seeds, reports[method], strict=True)} for method in methods
    }
    say(_to_come(plan, place, {method: runs[method] for method in ordered}))
    for order, seed in plan.runs:
        for method in ordered:
            if (order, seed) not in runs[method]:
                under = {**same, "order": _as_option(plan.orders[order])}
                own = (options or {}).get(method, {})
                report = learn_one(method, seed, place / run_folder(method, seed, order), weights, own, under)
                runs[method][order, seed] = report
                what = f"order {order}" if order else "for the noise floor"
                say(f"{method}, seed {seed}, {what}: {outcome(report)}")
    robust = {method: robustness_of(plan, runs[method]) for method in ordered}
    write_orders(place, reports, seeds, robust, runs)
    return reports, robust


def announce(plan: Plan, methods: Sequence[str], place: Path) -> list[str]:
    """What will be run, and what of it lies finished in the folder, before anything is."""
    ordered = [method for method in methods if method != JOINT]
    extra = len(plan.runs) - len(plan.seeds) * len(plan.orders)
    every = [(method, order, seed) for method in ordered for order, seed in plan.runs]
    every += [(JOINT, 0, seed) for seed in plan.seeds if JOINT in methods]
    times = round(len(every) / (len(methods) * len(plan.seeds)), 1)
    done = sum(_is_finished(place / run_folder(method, seed, order)) for method, order, seed in every)
    line = f"{counted(len(ordered), 'method')} under {len(plan.orders)} orders with {counted(len(plan.seeds), 'seed')}"
    line += f", and under the first order with {counted(extra, 'seed')} more for the noise floor" if extra else ""
    line += ", and joint training, which has no order" if JOINT in methods else ""
    line += f": {counted(len(every), 'run')}, {times:g} times a comparison of one order; {done} finished already."
    return [line, *(f"Order {place}: {' '.join(map(str, order))}" for place, order in enumerate(plan.orders))]


def _to_come(plan: Plan, place: Path, runs: Mapping[str, Mapping[tuple[int, int], Report]]) -> str:
    """How many runs are left after those of the first order, and how long they may train."""
    left, seconds = 0, 0.0
    for method, found in runs.items():
        known = [run["seconds"] for run in found.values() if run.get("seconds")]
        own = [key for key in plan.runs if key not in found and not _is_finished(place / _folder(method, key))]
        left += len(own)
        seconds += len(own) * (fmean(known) if known else 0.0)
    return f"{counted(left, 'run')} to come: about {seconds / 60:.1f} min of training, as those so far took."


def _folder(method: str, key: tuple[int, int]) -> str:
    return run_folder(method, key[1], key[0])


def _is_finished(folder: Path) -> bool:
    try:
        return bool(final_scores(read_results(folder)))
    except ValueError:
        return False


def _count_tasks(same: Mapping[str, Any]) -> int:
    """How many tasks the stream has that a comparison's runs share."""
    kind, how, known = same.get("stream", "digits"), same.get("how") or {}, inspect.signature(make_stream).parameters
    given = {name: value for name, value in same.items() if name in known and name != "how" and value is not None}
    return len(make_stream(kind, **given, **how))


def _as_option(order: Sequence[int]) -> list[int] | None:
    """An order as the run's option: that of the stream as it is listed is none, as in a comparison of one order."""
    return None if list(order) == list(range(len(order))) else list(order)
