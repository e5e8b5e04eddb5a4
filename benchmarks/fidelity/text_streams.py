"""Texts, task after task, in a frozen MiniLM: CTR beside HAT in adapters, an adapter a task, masks, and bounds.

Published figures are of BERT-base: they stand beside ours, and are never mixed with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from _row import RESULTS, Target, Values, measure
from _texts import ARMS, CHOICE, EPOCHS, HOST, mean_without, run, stream_of

from polymask.disk import write_file

F1 = "macro-F1 of "
STREAMS: Mapping[str, tuple[str, int, int | None, tuple[str, ...]]] = {
    "ctr-asc": ("asc", 32, None, CHOICE),
    "ctr-dsc": ("dsc", 48, 4, ()),
    "ctr-20news": ("20news", 48, 4, ()),
}
"""Row -> the stream, the most tokens of a text, how many tasks, and those that no mean contains."""

SAID = {
    "ctr-asc": ("the 16 of 19 tasks of ASC that nothing was chosen on", "89.47 / 83.62 and 86.14 / 78.52"),
    "ctr-dsc": ("4 of 10 tasks of DSC", "89.31 / 88.75 and 88.00 / 87.26"),
    "ctr-20news": ("4 of 10 tasks of 20 Newsgroups, without headers", "95.25 / 95.23 and 95.22 / 95.21"),
}

ORDERED = {
    "ctr-asc-orders": ("HAT in adapters", "CTR above HAT in adapters", 0),
    "ctr-asc-orders-train": (
        "CTR, sharing train",
        "the exact form of CTR at most 2 points below the published one",
        -2,
    ),
}
"""Row -> what stands beside CTR in three orders, what is expected, and the least difference that says so."""

SIX = (
    "Bing5Domains-CreativeLabsNomadJukeboxZenXtra40GB",
    "Bing5Domains-Nokia6610",
    "Bing9Domains-HitachiRouter",
    "Bing9Domains-MicroMP3",
    "XuSemEval-laptop",
    "XuSemEval-rest",
)
ORDERS = (SIX, SIX[::-1], (SIX[3], SIX[5], SIX[0], SIX[2], SIX[4], SIX[1]))
"""The six tasks under three orders."""

PAIRS = ("CTR, sharing train", "HAT in adapters", "adapter per task", "linear probe")
BOUNDS = {"least": -1.96, "mean": 0.0, "most": 1.96}
"""What is said of a paired difference, and how many standard errors it lies from the mean."""


def pair(other: str, bound: str) -> str:
    """The arm that says how far CTR answers the same texts better than another one."""
    return f"CTR - {other}, same texts, {bound}"


def above(arm: str, wanted: float, values: Values) -> bool:
    """Whether a bound lies above a number."""
    return mean(values[arm]) > wanted


REDUCED = (
    f"{HOST} instead of BERT-base, 200 training texts a task, {EPOCHS} epochs of batches of 16, 32 or 48 tokens, "
    "one seed"
)

TARGETS = [
    Target(
        name,
        "CTR",
        f"{SAID[name][0]}, {HOST} frozen, adapters of 256, AdamW; accuracy and macro-F1 at the end",
        f"CTR above HAT in adapters, by 95 % bounds of the paired difference over all test texts (BERT-base, "
        f"published, accuracy / macro-F1: {SAID[name][1]})",
        "published",
        partial(above, pair("HAT in adapters", "least"), 0),
        (*ARMS, *(F1 + arm for arm in ARMS), *(pair(other, bound) for other in PAIRS for bound in BOUNDS)),
        reduced=REDUCED,
    )
    for name in STREAMS
] + [
    Target(
        name,
        "CTR",
        f"6 tasks of ASC in three orders, {HOST} frozen, adapters of 256, AdamW; accuracy at the end",
        f"{expected}, by 95 % bounds of the paired difference over all test texts, orders averaged",
        "published" if name == "ctr-asc-orders" else "specified",
        partial(above, pair(other, "least"), wanted),
        (
            *(f"{arm}, order {order + 1}" for arm in ("CTR", other) for order in range(len(ORDERS))),
            *(pair(other, bound) for bound in BOUNDS),
        ),
        reduced=REDUCED,
    )
    for name, (other, expected, wanted) in ORDERED.items()
]


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    """The mean accuracy, or macro-F1, over tasks in points of 100; or a bound of a paired difference."""
    row = max((row for row in (*ORDERED, *STREAMS) if f"{target.name}-".startswith(f"{row}-")), key=len)
    home = work.parent.with_name(work.parent.name.replace("-orders-train", "-orders"))
    left = STREAMS[row][-1] if row in STREAMS else ()
    if name.startswith("CTR - "):
        other, bound = name.removeprefix("CTR - ").split(", same texts, ")
        return paired(home.name, other, seed, left, BOUNDS[bound])
    found = answered(row, name.removeprefix(F1), seed, home, args)
    return mean_without(found["tasks"], found["macro-F1" if name.startswith(F1) else "accuracy"], left)


def answered(row: str, name: str, seed: int, home: Path, args: Any) -> dict[str, Any]:
    """What an arm's run answers, learned if no file of results says it yet."""
    file = file_of(home.name, name, seed)
    if not file.exists():
        kind, length, tasks, _ = STREAMS.get(row, ("asc", 32, None, ()))
        learner, _, order = name.partition(", order ")
        stream = stream_of(kind, args.data_root, length, ORDERS[int(order) - 1] if order else tasks, args.host)
        place = home / f"run-{name}-{seed}".replace(" ", "-")
        said = said_of(run(ARMS[learner], stream, place, seed, EPOCHS, args.host), place)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, (json.dumps(said) + "\n").encode())
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def said_of(report: Mapping[str, Any], place: Path) -> dict[str, Any]:
    """What is kept of a run: its scores at the end, drift and bytes, and which texts it answers rightly."""
    hits = place / "hits.json"
    return {
        "tasks": report["tasks"],
        "accuracy": report["accuracy_at_the_end"],
        "macro-F1": report["also"]["macro-F1"]["at_the_end"],
        "max_logit_drift": report["max_logit_drift"],
        "bytes_per_task": report["bytes"]["per_task"],
        "hits": json.loads(hits.read_text()) if hits.exists() else {},
    }


def file_of(home: str, name: str, seed: int) -> Path:
    """The file of results that says what an arm answers."""
    return RESULTS / "texts" / f"{home}--{name}--{seed}.json".replace(",", "").replace(" ", "-")


def paired(home: str, other: str, seed: int, left: Sequence[str], errors: float) -> float:
    """How far CTR is right where another arm is not, in points of 100 of all texts, so many standard errors away."""
    ours, theirs = (right(home, name, seed, left) for name in ("CTR", other))
    differences = [100 * (mean(ours[text]) - mean(theirs[text])) for text in sorted(ours)]
    return mean(differences) + errors * stdev(differences) / len(differences) ** 0.5


def right(home: str, name: str, seed: int, left: Sequence[str]) -> dict[tuple[str, int], list[int]]:
    """How an arm answered every test text, 1 or 0, once an order: (task, number) -> answers."""
    files = [
        file_of(home, one, seed) for one in (name, *(f"{name}, order {place + 1}" for place in range(len(ORDERS))))
    ]
    found: dict[tuple[str, int], list[int]] = {}
    for file in filter(Path.exists, files):
        for task, hits in json.loads(file.read_text())["hits"].items():
            for number, hit in enumerate(hits if task not in left else ()):
                found.setdefault((task, number), []).append(hit)
    return found


if __name__ == "__main__":
    measure(__doc__ or "", TARGETS, arm, host=HOST)
