"""What scores come to: which tasks and domains are taken for which, what is lost by asking, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from _asked import TOGETHER, TRAINED, Asked, Scores
from _domains import DOMAINS, Images
from sklearn.metrics import roc_auc_score
from torch import Tensor

from polymask.inference.known import Calibration, certainty

Figures = dict[str, float]
REFUSED = (0, 1, 2, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100)
"""Shares of known inputs, in %, at which the share of unknown ones that are accepted is read."""


@dataclass(frozen=True)
class Truth:
    """What the images are of.

    Args:
        domains: of every task.
        test: the task of every test image.
        held_out: likewise.
        labels: the label of every test image.
    """

    domains: Tensor
    test: Tensor
    held_out: Tensor
    labels: Tensor

    @classmethod
    def of(cls, images: Images, domains: Tensor) -> Truth:
        test, held_out = (
            torch.cat([torch.full((len(y),), place) for place, (_, y) in enumerate(part.values())])
            for part in (images.test, images.held_out)
        )
        return cls(domains, test, held_out, torch.cat([y for _, y in images.test.values()]))

    @property
    def together(self) -> Tensor:
        """The task of every batch."""
        counts = torch.bincount(self.test) // TOGETHER
        return torch.arange(len(counts)).repeat_interleave(counts)

    def between(self, right: Tensor, of: Tensor) -> float:
        """A share in %, of images or batches of so many tasks, that counts every domain alike."""
        where = self.domains[of]
        return 100 * float(torch.stack([right[where == domain].float().mean() for domain in where.unique()]).mean())

    def inside(self, right: Tensor, of: Tensor) -> float:
        """A share in %, of those of the domain that has several tasks."""
        return 100 * float(right[self.domains[of] == self.domains.mode().values].float().mean())


def shares(scores: Tensor, of: Tensor, truth: Truth) -> tuple[float, float]:
    """How often the domain is found, and within the domain of several tasks the very task, both in %."""
    choice = scores.argmax(1)
    return truth.between(truth.domains[choice] == truth.domains[of], of), truth.inside(choice == of, of)


def figures(way: str, scores: Scores, labels: Tensor | None, truth: Truth) -> Figures:
    """All numbers of one way of asking one learner, in %, milliseconds and bytes.

    Args:
        way: how was asked.
        scores: what it came to.
        labels: the label of every test image as every task has it; None: of images alone there is none.
        truth: what the images are of.
    """
    domain, task = shares(scores["test"], truth.test, truth)
    choice, true = truth.domains[scores["test"].argmax(1)], truth.domains[truth.test]
    domain_at_once, task_at_once = shares(scores["together"], truth.together, truth)
    found = {
        "domain": domain,
        "task": task,
        f"domain of {TOGETHER}": domain_at_once,
        f"task of {TOGETHER}": task_at_once,
    }
    for place, name in enumerate(DOMAINS):
        found[f"found, {name}"] = 100 * float((choice == place)[true == place].float().mean())
    if labels is not None:
        right = labels == truth.labels[:, None]
        given = right.gather(1, truth.test[:, None])[:, 0]
        found["given"] = truth.between(given, truth.test)
        at_once = scores["together"].argmax(1).repeat_interleave(TOGETHER)
        for name, choice in (("", scores["test"].argmax(1)), (f" of {TOGETHER}", at_once)):
            same = truth.domains[choice] == truth.domains[truth.test]
            found[f"domain found{name}"] = truth.between(given & same, truth.test)
            found[f"task found{name}"] = truth.between(given & (choice == truth.test), truth.test)
    found |= {"ms": float(scores["ms"]), "bytes": float(scores["bytes"])}
    return found if way.startswith("binary") or way == TRAINED else found | refusals(way, scores, truth)


def refusals(way: str, scores: Scores, truth: Truth) -> Figures:
    """How known and unknown inputs are told apart: the area under the curve, and what a calibration keeps, in %."""
    known, held_out = _certainty(way, scores["test"]), _certainty(way, scores["held out"])
    calibration = Calibration(way, "", 1, {"all tasks": held_out})
    found = {"kept": _share(calibration, known)}
    for kind in unknown_of(scores):
        values = _certainty(way, scores[kind])
        found |= {f"AUROC, {kind}": area(known, values), f"refused, {kind}": 100 - _share(calibration, values)}
    return found


def curve(way: str, scores: Scores) -> list[float]:
    """The share of unknown inputs, all kinds alike, that are accepted where so much of known ones is refused, in %."""
    known = _certainty(way, scores["test"]).sort().values
    unknown = torch.stack([_certainty(way, scores[kind]) for kind in unknown_of(scores)])
    found = []
    for share in REFUSED:
        place = round(share / 100 * len(known))
        least = known[place] if place < len(known) else torch.tensor(torch.inf)
        found.append(100 * float((unknown >= least).float().mean()))
    return found


def area(known: Tensor, unknown: Tensor) -> float:
    """The probability that a known input comes to more than an unknown one, in %."""
    kinds = [1] * len(known) + [0] * len(unknown)
    return 100 * float(roc_auc_score(kinds, torch.cat([known, unknown]).numpy()))


def best(seeds: Sequence[tuple[Asked, Truth]]) -> str:
    """The way that finds most domains of held-out images, then most tasks, over all seeds: no test image chooses."""

    def found(way: str) -> tuple[float, float]:
        each = [shares(asked.by_way[way]["held out"], truth.held_out, truth) for asked, truth in seeds]
        return mean(domain for domain, _ in each), mean(task for _, task in each)

    return max(seeds[0][0].by_way, key=found)


def unknown_of(scores: Scores) -> Sequence[str]:
    return sorted(set(scores) - {"test", "held out", "together", "ms", "bytes"})


def _certainty(way: str, scores: Tensor) -> Tensor:
    """As ``known`` takes it: of images themselves like statistics, their distance."""
    return certainty(scores, "statistics" if "statistics" in way or way.startswith("nearest") else way)


def _share(calibration: Calibration, values: Tensor) -> float:
    known = calibration.known(values)
    return float("nan") if known is None else 100 * float(known.float().mean())
