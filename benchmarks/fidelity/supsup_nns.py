"""SupSup without any task identity (NNs): permutations come and come back, and nobody says which, or when."""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import count, islice
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from _learn import permutations, tiny_imagenet
from _row import Target, Values, measure

sys.path.insert(0, str(Path(__file__).parents[2]))
from polymask import Inference, Method, Recipe, Task
from polymask.disk import write_file
from polymask.learning.unnamed.learn import Unnamed, learn_unnamed
from polymask.learning.unnamed.rules import EntropyJump, Rule, UniformSlopes
from polymask.nets import build_net
from polymask.parts.seeds import generator
from polymask.report.grouping import boundaries, purity
from polymask.streams import make_stream, prepare
from polymask.streams.inputs import Inputs
from polymask.streams.prepare import Feeds

TASKS, VISITS, MOST, PIECE = 10, 2, 50, 10
ARMS = (
    "purity",
    "masks",
    "boundaries found of 19",
    "false alarms",
    "purity by the paper's rule",
    "masks by the paper's rule",
    "purity by it, every batch",
    "masks by it, every batch",
    "accuracy",
    "GNu",
)
"""Those that name no rule are of ours; "GNu": the same with the task given in training, and asked for in the test."""


FOUND = ("purity", "masks", "boundaries found of 19", "false alarms", "accuracy", "GNu")
"""The arms of streams that nothing is asked of: what is found."""


@dataclass(frozen=True)
class Protocol:
    """One stream: batches of a visit and their size, how inputs are standardised, the network and its learning rate.

    ``change`` is how one task follows the other: from batch to batch, "gradual" over the last quarter of a visit, or
    "interleaved", in pieces of ten batches of tasks that are drawn.
    """

    batches: int
    size: int
    inputs: Inputs
    shape: tuple[int, int, int]
    outputs: int
    lr: float
    change: str = "sudden"


DIGITS = Protocol(100, 64, Inputs(mean=(0.3053,), std=(0.3760,)), (1, 8, 8), 50, 1e-3)
PROTOCOLS = {
    "supsup-nns-digits": DIGITS,
    "supsup-nns-digits-gradual": replace(DIGITS, change="gradual"),
    "supsup-nns-digits-interleaved": replace(DIGITS, change="interleaved"),
    "supsup-nns-tiny": Protocol(
        100, 64, Inputs(size=(32, 32), channels=1, mean=(0.45,), std=(0.25,)), (1, 32, 32), 50, 1e-3
    ),
    "supsup-nns-mnist": Protocol(400, 128, Inputs(mean=(0.1307,), std=(0.3081,)), (1, 28, 28), 100, 1e-4),
}


def told_apart(v: Values) -> bool:
    return mean(v["purity"]) >= 95 and all(TASKS <= masks <= TASKS + 2 for masks in v["masks"])


TARGETS = [
    Target(
        "supsup-nns-digits",
        "SupSup, threshold",
        "10 permutations of the digits, each visited twice for 100 batches of 64; 64-300-100-50, RMSProp 1e-3. The "
        "rule's defaults were chosen here",
        "purity at least 95 with 10 to 12 masks",
        "specified",
        told_apart,
        ARMS,
    ),
    Target(
        "supsup-nns-mnist",
        "SupSup, threshold",
        "10 permutations of MNIST, each visited twice for 400 batches of 128; LeNet-300-100 with 100 outputs, RMSProp "
        "1e-4; the rule's defaults",
        "purity at least 95 with 10 to 12 masks",
        "specified",
        told_apart,
        ARMS,
        reduced="10 permutations and 800 batches of each instead of 2,500 and 1,000",
    ),
    *(
        Target(
            f"supsup-nns-{name}",
            "SupSup, threshold",
            f"{what}, each visited twice for 100 batches of 64; {network}, RMSProp 1e-3; the rule's defaults",
            "what is found is reported",
            "specified",
            None,
            FOUND,
        )
        for name, what, network in (
            (
                "digits-gradual",
                "10 permutations of the digits, the last 25 batches of a visit ever more of the next",
                "64-300-100-50",
            ),
            (
                "digits-interleaved",
                "10 permutations of the digits, interleaved in pieces of 10 batches",
                "64-300-100-50",
            ),
            ("tiny", "10 groups of 10 classes of Tiny ImageNet, grey, 32 x 32", "1024-300-100-50"),
        )
    ),
]


class Told(Rule):
    """The rule that is told: what the others are compared with."""

    def __init__(self, method: Method, true: Sequence[int]) -> None:
        super().__init__(method)
        self.coming = iter(true)

    def choose(self, x: Any) -> str | None:
        """The task's own name, once it has been seen."""
        name = str(next(self.coming) + 1)
        return name if name in self.method.records or name == self.method.task else None


@cache
def parts(name: str, seed: int, data_root: str | None) -> list[Feeds]:
    """The tasks of a protocol, ready to be read."""
    if name == "supsup-nns-tiny":
        stream: Sequence[Task] = tiny_imagenet(data_root, 20, 32, seed)[:TASKS]
    elif name == "supsup-nns-mnist":
        stream = permutations(data_root, TASKS, seed)
    else:
        stream = make_stream("digits-permuted", tasks=TASKS, seed=seed)
    return [prepare(replace(task, inputs=PROTOCOLS[name].inputs), seed=seed) for task in stream]


def plan_of(about: Protocol, seed: int) -> list[tuple[int, int, float]]:
    """For every batch a task, another one, and the share of images that are of the latter."""
    if about.change == "interleaved":
        pieces = [place for place in range(TASKS) for _ in range(VISITS * about.batches // PIECE)]
        order = torch.randperm(len(pieces), generator=generator(seed, "interleaved")).tolist()
        return [(pieces[k], pieces[k], 0.0) for k in order for _ in range(PIECE)]
    mixed = about.batches // 4 if about.change == "gradual" else 0
    visits = [place for _ in range(VISITS) for place in range(TASKS)]
    return [
        (place, after, max(0, batch - (about.batches - mixed) + 1) / (mixed + 1))
        for place, after in zip(visits, [*visits[1:], visits[-1]], strict=True)
        for batch in range(about.batches)
    ]


def visits(tasks: Sequence[Feeds], about: Protocol) -> Iterator[tuple[Any, torch.Tensor]]:
    """All batches, task by task, visit by visit."""
    for visit in range(VISITS):
        for place, task in enumerate(tasks):
            epochs = (task.train.epoch(about.size, (visit, place, epoch)) for epoch in range(about.batches))
            yield from islice((batch for epoch in epochs for batch in epoch), about.batches)


def endless(task: Feeds, size: int, place: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of one task, epoch after epoch."""
    for epoch in count():
        for x, y in task.train.epoch(size, ("visits", place, epoch)):
            assert isinstance(x, torch.Tensor)
            if len(y) == size:
                yield x, y


def coming(
    tasks: Sequence[Feeds], about: Protocol, plan: Sequence[tuple[int, int, float]]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """All batches, as planned."""
    every = [endless(task, about.size, place) for place, task in enumerate(tasks)]
    for place, after, share in plan:
        x, y = next(every[place])
        if late := round(share * about.size):
            other = next(every[after])
            x, y = (torch.cat([mine[late:], theirs[:late]]) for mine, theirs in zip((x, y), other, strict=True))
        yield x, y


def figures(name: str, seed: int, rule: Callable[..., Rule], data_root: str | None) -> dict[str, float]:
    """What one rule makes of a protocol."""
    about, tasks = PROTOCOLS[name], parts(name, seed, data_root)
    plan = plan_of(about, seed)
    true = [after if share > 0.5 else place for place, after, share in plan]
    batches = visits(tasks, about) if about.change == "sudden" else coming(tasks, about, plan)
    rule = partial(Told, true=true) if rule is Told else rule
    net = build_net("mlp", about.shape, about.outputs, hidden=(300, 100), seed=seed)
    recipe, how = Recipe("rmsprop", lr=about.lr), {"select": "threshold"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "all .* masks are spent")
        run = learn_unnamed(net, batches, outputs=10, options=how, rule=rule, most=MOST, recipe=recipe, seed=seed)
    seen = boundaries(run.assigned, true)
    return {
        "purity": 100 * purity(run.assigned, true),
        "masks": len(run.tasks),
        "found": seen.found,
        "false": seen.false,
        "accuracy": 100 * accuracy(run, true, tasks),
    }


@torch.no_grad()
def accuracy(run: Unnamed, true: Sequence[int], tasks: Sequence[Feeds]) -> float:
    """The share of test images whose task, asked for a batch of 128 at once, and label are both found.

    A mask stands for the task of which most of its batches were.
    """
    inference, found = Inference(run.learned.method, by="superfluous"), []
    owner = {
        task: Counter(place for name, place in zip(run.assigned, true, strict=True) if name == task).most_common(1)[0][
            0
        ]
        for task in run.tasks
    }
    for place, task in enumerate(tasks):
        assert task.test is not None
        for x, y in islice(task.test.ordered(128), 8):
            choice = inference(x, together=True).choice[0]
            run.learned.method.activate(choice)
            right = run.learned.method.model.eval()(x)[:, :10].argmax(-1) == y
            found += right.tolist() if owner[choice] == place else [False] * len(y)
    return mean(found)


RULES: dict[str, Callable[..., Rule]] = {
    "ours": EntropyJump,
    "paper": UniformSlopes,
    "paper-every-batch": partial(UniformSlopes, every=1),
    "told": Told,
}
WHAT = dict(
    zip(
        ARMS,
        [
            ("ours", "purity"),
            ("ours", "masks"),
            ("ours", "found"),
            ("ours", "false"),
            ("paper", "purity"),
            ("paper", "masks"),
            ("paper-every-batch", "purity"),
            ("paper-every-batch", "masks"),
            ("ours", "accuracy"),
            ("told", "accuracy"),
        ],
        strict=True,
    )
)
"""Arm -> the rule, and which of its figures."""


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    """A figure of a rule, from the file of an earlier arm if there is one."""
    rule, what = WHAT[name]
    done = work.parent / f"{rule}-{seed}.json"
    if not done.exists():
        write_file(done, json.dumps(figures(target.name, seed, RULES[rule], args.data_root)).encode())
    return float(json.loads(done.read_text())[what])


if __name__ == "__main__":
    measure(__doc__ or "", TARGETS, arm)
