"""Why a row is not reproduced: a sentence each, of what was measured; its figures come from results, never by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from statistics import mean, stdev

from _row import RESULTS

UNKNOWN = "its cause is not measured"


def of(row: str, arm: str = "ours") -> float:
    """The mean over seeds of what a row measured."""
    return mean(_seeds(row, arm))


def spread(row: str, arm: str = "ours") -> float:
    """The deviation over seeds of what a row measured."""
    return stdev(_seeds(row, arm))


def why(row: str) -> str:
    """The sentence about a row that missed its target; a cause whose own row is not measured yet is none."""
    try:
        return CAUSES[row]() if row in CAUSES else UNKNOWN
    except (FileNotFoundError, KeyError):
        return UNKNOWN


def _seeds(row: str, arm: str) -> list[float]:
    found: list[float] = json.loads((RESULTS / f"{row}.json").read_text())["values"][arm]
    return found


def _tfm() -> str:
    row = "tinyimagenet-tfm-relations"
    apart = of(row, "TFM") - of(row, "not normalised")
    return (
        f"the two lie {apart:+.2f} apart at a spread of {spread(row, 'not normalised'):.2f} over seeds: equal within "
        "noise is what this shows, neither that normalisation helps nor that it harms"
    )


def _between(row: str, other: str) -> str:
    low, high = (of(row, f"CTR - {other}, same texts, {end}") for end in ("least", "most"))
    verdict = "a difference is not shown" if low <= 0 <= high else f"{other if high < 0 else 'CTR'} is above"
    return f"over the same test texts CTR lies between {low:+.2f} and {high:+.2f} of {other}: {verdict}"


def _supsup_250() -> str:
    row = "supsup-inference-250"
    two, three = (of(row, f"5 tasks of {count} epochs, task given") for count in (2, 3))
    return f"too few steps: on five tasks a third epoch brings {two:.2f} to {three:.2f}"


def _supsup_digits() -> str:
    row = "digits-supsup"
    plain, other = of(row, "independent"), of(row, "rate chosen elsewhere")
    return (
        f"the same network without masks has {plain:.2f} by the same images, below the target too; the rate is "
        f"not the cause: one chosen on other images gives {other:.2f}"
    )


def _domains_lost() -> str:
    names = ("supsup", "packnet", "hat", "piggyback", "wsn", "ksm")
    lost = [of("domains-lost", f"{name}, given") - of("domains-lost", f"{name}, domain found") for name in names]
    return (
        f"{min(lost):.0f} to {max(lost):.0f} points are lost because a task's features tell its own classes, not its "
        f"domain: {_told()}"
    )


def _told() -> str:
    return f"a network trained to tell domains finds {of('domains-found', 'trained to tell domains, domain'):.1f} %"


def _ksm() -> str:
    row = "ksm-efficientnet-fashion"
    return (
        f"{of(row, '1 x 1 kernels'):.0f} % of the masked weights are kernels of one weight, which KSM grades where "
        f"Piggyback switches them: that takes {of(row, 'Piggyback, private norms') - of(row, 'ksm'):.1f}"
    )


def _shortlist() -> str:
    every, four, time = (of("shortlist", name) for name in ("all", "4 asked", "time of 4"))
    return (
        f"asked of all thirty tasks the own one is found in {every:.1f} %, no more often than by chance (3.3), of four "
        f"in {four:.1f} at {time:.0f} % of the time: there is nothing that a shortlist could keep"
    )


def _last_of_ten(row: str) -> str:
    gaps = [
        of(row, f"the nine before{form}") - of(row, f"the last{form}") for form in ("", ", equal shares", ", from zero")
    ]
    longer = "packnet-last-permuted-longer"
    more = of(longer, "the nine before, equal shares") - of(longer, "the last, equal shares")
    return (
        f"the last lies {gaps[0]:.1f} points below, {gaps[1]:.1f} with equal shares, {gaps[2]:.1f} from zero, so that "
        "its share and its start take a part of it; three times the steps leave "
        f"{more:.1f} of permutations with equal shares"
    )


def _brought(row: str, other: str) -> float:
    """What another row has above one, over the seeds of the other."""
    ours = _seeds(other, "ours")
    return mean(ours) - mean(_seeds(row, "ours")[: len(ours)])


def _packnet() -> str:
    more = _brought("pmnist-packnet", "pmnist-packnet-default")
    return f"free weights drawn anew, and the last task's larger share, bring {more:+.2f}"


def _supsup() -> str:
    more = _brought("pmnist-supsup", "pmnist-supsup-chosen")
    return f"a rate and a density chosen on other images bring {more:+.2f}"


def _hat_permuted() -> str:
    base, dropout, epochs, both, wide = (
        of("permuted-mnist-hat-parts", arm)
        for arm in ("400 units", "400, dropout", "400, 40 epochs", "400, dropout, 40 epochs", "2000, dropout")
    )
    return (
        f"on three permutations it has {base:.2f}; dropout brings {dropout - base:+.2f}, four times the epochs "
        f"{epochs - base:+.2f}, both {both - base:+.2f}, dropout in 2000 units {wide - base:+.2f}"
    )


def _hat_sets() -> str:
    gates, none, free, longer = (
        of("three-data-sets-hat-parts", arm) for arm in ("HAT", "independent", "HAT, c 0", "HAT, more epochs")
    )
    return (
        f"alone on CIFAR-10 it has {gates:.1f}, the same network without gates {none:.1f}; without their penalty "
        f"{free:.1f}, with three times the epochs {longer:.1f}"
    )


def _wsn() -> str:
    few, all_ten = (of("tinyimagenet-wsn-10-epochs", arm) for arm in ("3 epochs", "10 epochs"))
    return (
        f"on the first eight tasks ten epochs bring {few:.2f} to {all_ten:.2f}; what the images' size takes is not "
        "measured"
    )


CAUSES: Mapping[str, Callable[[], str]] = {
    "tinyimagenet-tfm-relations": _tfm,
    "ctr-asc": lambda: _between("ctr-asc", "HAT in adapters"),
    "ctr-dsc": lambda: _between("ctr-dsc", "HAT in adapters"),
    "ctr-20news": lambda: _between("ctr-20news", "HAT in adapters"),
    "ctr-asc-orders": lambda: _between("ctr-asc-orders", "HAT in adapters"),
    "ctr-asc-orders-train": lambda: _between("ctr-asc-orders-train", "CTR, sharing train"),
    "supsup-inference-250": _supsup_250,
    "digits-supsup": _supsup_digits,
    "domains-lost": _domains_lost,
    "domains-found": lambda: f"the features do not hold it, the images do: {_told()}",
    "ksm-efficientnet-fashion": _ksm,
    "shortlist": _shortlist,
    "packnet-last-permuted": lambda: _last_of_ten("packnet-last-permuted"),
    "packnet-last-rotated": lambda: _last_of_ten("packnet-last-rotated"),
    "pmnist-packnet": _packnet,
    "pmnist-supsup": _supsup,
    "permuted-mnist-hat": _hat_permuted,
    "three-data-sets-hat": _hat_sets,
    "tinyimagenet-wsn-10": _wsn,
}
"""Row -> its sentence."""
