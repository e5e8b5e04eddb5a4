"""Texts, task after task, in a frozen MiniLM: CTR beside HAT in adapters, an adapter a task, masks, and bounds.

Published figures are of BERT-base: they stand beside ours, and are never mixed with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from _row import Target, measure
from _texts import ARMS, CHOICE, mean_without, run, stream_of

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

TARGETS = [
    Target(
        name,
        "CTR",
        f"{SAID[name][0]}, MiniLM-L6 frozen, adapters of 256, AdamW; accuracy and macro-F1 at the end",
        f"CTR no worse than HAT in adapters (BERT-base, published, accuracy / macro-F1: {SAID[name][1]})",
        "published",
        lambda v: mean(v["CTR"]) >= mean(v["HAT in adapters"]),
        (*ARMS, *(F1 + arm for arm in ARMS)),
        reduced="MiniLM-L6 instead of BERT-base, 200 training texts a task, 15 epochs of batches of 16, 32 or 48 tokens, one seed",
    )
    for name in STREAMS
]


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    """The mean accuracy, or macro-F1, over tasks in points of 100."""
    kind, length, tasks, left = STREAMS[target.name]
    arm = name.removeprefix(F1)
    place = work.parent / f"run-{arm}-{seed}".replace(" ", "-")
    report = run(ARMS[arm], stream_of(kind, args.data_root, length, tasks), place, seed, epochs=15)
    scores = report["accuracy_at_the_end"] if arm == name else report["also"]["macro-F1"]["at_the_end"]
    return mean_without(report, scores, left)


if __name__ == "__main__":
    measure(__doc__ or "", TARGETS, arm)
