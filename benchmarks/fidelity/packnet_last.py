"""PackNet's last task: of ten, does it learn as well as those before it?

The start of free weights and the last task's share were chosen on digits, the share after permuted MNIST had missed
with equal ones; permuted and rotated MNIST report them. Beside them equal shares, and the paper's form: equal shares,
free weights from zero.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

from _learn import MNIST
from _row import Target, measure

from polymask import Stream, Training, learn
from polymask.nets import build_net
from polymask.streams import make_stream

KINDS = {
    "packnet-last-digits": ("10 permuted-digit tasks, MLP 64-100-100", "15 epochs", "; chosen here"),
    "packnet-last-permuted": ("10 permutations of MNIST, MLP 784-100-100", "3 epochs, batch 64", ""),
    "packnet-last-rotated": (
        "MNIST turned by 0 to 180 degrees in ten tasks, MLP 784-100-100",
        "3 epochs, batch 64",
        "",
    ),
}
LONGER = 9
OURS = ("the last", "the nine before")
EQUAL = tuple(f"{arm}, equal shares" for arm in OURS)
ARMS = (*OURS, *EQUAL, *(f"{arm}, from zero" for arm in OURS))

TARGETS = [
    Target(
        name,
        "PackNet",
        f"{data}, Adam 1e-3, {epochs} a phase{chosen}",
        "the last task within a point of the mean of the nine before",
        "specified",
        lambda v: mean(v[OURS[0]]) >= mean(v[OURS[1]]) - 1,
        ARMS,
    )
    for name, (data, epochs, chosen) in KINDS.items()
]
TARGETS.append(
    Target(
        "packnet-last-permuted-longer",
        "PackNet, equal shares",
        f"{KINDS['packnet-last-permuted'][0]}, Adam 1e-3, {LONGER} epochs, batch 64 a phase",
        "what more steps bring the last task is reported",
        "specified",
        None,
        EQUAL,
    )
)


def stream_of(name: str, data_root: str | None, seed: int) -> Stream:
    """Ten tasks."""
    if name.endswith("digits"):
        return make_stream("digits-permuted", tasks=10, seed=seed)
    if data_root is None:
        raise SystemExit(f"expected --data-root, a folder that holds {MNIST}, found none")
    kind = name.split("-")[2]
    turned = {"degrees": 20} if kind == "rotated" else {}
    return make_stream(kind, [MNIST], data_root=data_root, tasks=10, seed=seed, **turned)


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    """An accuracy in points of 100; the arms of one start share a run."""
    what, _, form = name.partition(", ")
    tasks = stream_of(target.name, args.data_root, seed)
    digits = target.name.endswith("digits")
    model = build_net("mlp", (1, 8, 8) if digits else (1, 28, 28), 10, hidden=(100, 100), seed=seed)
    how = {"epochs": 15} if digits else {"epochs": LONGER if "longer" in target.name else 3, "batch_size": 64}
    training = Training(optimizer="adam", lr=1e-3, device="cpu", save_every=20, quiet=True, **how)
    options: dict[str, Any] = {"tasks": 10, "start": "zero" if form == "from zero" else "fresh"}
    place = work.parent / f"run-{options['start']}{'-equal' if form == 'equal shares' else ''}-{seed}"
    options |= {"last": 1} if form else {}
    report = learn(model, tasks, "packnet", out=place, seed=seed, training=training, options=options).report
    *before, last = report["accuracy_when_learned"]
    return 100 * (last if what == OURS[0] else mean(before))


if __name__ == "__main__":
    measure(__doc__ or "", TARGETS, arm)
