"""The product method x backbone x optimizer: a covering selection by default, all of it under the marker ``full``."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partialmethod
from itertools import product
from typing import Any

import pytest
from tests.contract import drive
from tests.contract.toys import TOYS
from tests.contract.zoo import BACKBONES, ENCODERS, meets

from polymask.method.contract import Method
from polymask.methods import METHODS
from polymask.surgery import CannotGrow, CannotPlug

EVERY: dict[str, type[Method]] = {**METHODS, **TOYS}


def variant(kind: type[Method], **hyper: Any) -> type[Method]:
    """A method with some of its arguments set."""
    return type(kind.__name__, (kind,), {"__init__": partialmethod(kind.__init__, **hyper)})


VARIANTS: dict[str, type[Method]] = {
    "ternary": variant(METHODS["piggyback"], values="ternary"),
    "piggyback-units": variant(METHODS["piggyback"], granularity="unit"),
    "scaled": variant(METHODS["piggyback"], scale="unit", values="ternary"),
    "scaled-units": variant(METHODS["piggyback"], granularity="unit", scale="tensor"),
    "no-reuse": variant(METHODS["packnet"], reuse=False),
    "growing-packnet": variant(METHODS["packnet"], tasks=1, grow=3),
    "growing-no-reuse": variant(METHODS["packnet"], tasks=1, grow=3, reuse=False),
    "plain-tfm": variant(METHODS["tfm"], normalise=False, growth=3),
    "zero-tfm": variant(METHODS["tfm"], growth=0),
    "ssnet": variant(METHODS["exssnet"], exclusive=False),
    "transfer": variant(METHODS["supsup"], transfer=True, budget=1.0),
    "soft-hat": variant(METHODS["hat"], soft=True, s_max=4.0),
    "exact-apd": variant(METHODS["apd"], form="exact"),
    "fresh-wsn": variant(METHODS["wsn"], scores="fresh"),
    "published-ctr": variant(METHODS["ctr"], sharing="train"),
}
"""Methods by another argument; by default on the small backbone alone."""

FEW = ("packnet", "hat", "tfm", "piggyback")
"""A method of each kind, which meets every test: the others meet what is marked ``few`` in the full suite alone."""

SMALL = "mlp_bn"  # the backbone that every method meets that needs no other
DEFAULT = "adamw"  # the optimizer of tests that are not about optimizers
QUICK = ("convnet", "encoder", "lstm")  # one of each kind of network, which are learned in a moment
LARGE = tuple(name for name in BACKBONES if name not in (SMALL, *QUICK))


@dataclass(frozen=True)
class Case:
    """One method on one backbone, trained by one optimizer."""

    method: type[Method]
    backbone: str
    optimizer: str

    def make(self, **hyper: Any) -> tuple[Method, list[drive.Task]]:
        """A fresh method on a fresh backbone, and three tasks."""
        return drive.make(self.method, self.backbone, **hyper)

    def user(self) -> drive.MakeOptimizer:
        """A fresh user: a function from a method with an open task to the optimizer."""
        return drive.OPTIMIZERS[self.optimizer]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """A method may refuse a network without what it needs; what it says is the reason of the skip."""
    try:
        return (yield)
    except (CannotGrow, CannotPlug) as refusal:
        pytest.skip(str(refusal))


def small_of(name: str) -> str:
    """The small backbone that a method meets."""
    return SMALL if meets({**EVERY, **VARIANTS}[name].needs, SMALL) else ENCODERS[0]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for ``case`` runs on the product, for ``pair`` on method x backbone, for ``one`` on methods.

    By default a ``case`` takes pairs instead of the product: one of the few meets every optimizer once and every kind
    of network once, a large one too; the others meet three optimizers, under which they meet the quick networks. A
    ``pair`` takes the small backbone and for an eighth of the methods a quick one, which goes round from test to test.
    A ``pair`` or ``one`` takes the few always, the other methods in every third test and the variants in every sixth.
    """
    methods, nets, optimizers = [*EVERY, *VARIANTS], list(BACKBONES), list(drive.OPTIMIZERS)
    start = zlib.crc32(metafunc.function.__name__.encode())
    few = metafunc.definition.get_closest_marker("few")
    always = FEW if few is None or not few.args else few.args
    taken = {
        m for i, m in enumerate(methods) if m in always or (not few and (i + start) % (3 if m in EVERY else 6) == 0)
    }
    chosen = []
    if "case" in metafunc.fixturenames:
        for (i, m), b, o in product(enumerate(methods), nets, optimizers):
            small, needs = small_of(m), {**EVERY, **VARIANTS}[m].needs
            if not meets(needs, b):
                continue
            kinds = [n for n in (small, *QUICK, LARGE[FEW.index(m)] if m in FEW else small) if meets(needs, n)]
            met = b == kinds[(i + optimizers.index(o)) % len(kinds)] and (m in FEW or b in QUICK)
            default = met if m in EVERY else (b, o) == (small, DEFAULT)
            chosen.append(_param("case", m, b, o, default))
    elif "pair" in metafunc.fixturenames:
        for (i, m), b in product(enumerate(methods), nets):
            if not meets({**EVERY, **VARIANTS}[m].needs, b):
                continue
            quick = (start + i) % 8 == 0 and b == QUICK[(start + i) % len(QUICK)]
            turn = m in EVERY and not few and quick
            chosen.append(_param("pair", m, b, DEFAULT, turn or (m in taken and b == small_of(m))))
    elif "one" in metafunc.fixturenames:
        chosen = [_param("one", m, small_of(m), DEFAULT, m in taken) for m in methods]
    if metafunc.config.option.markexpr == "not full":
        # Three cases of four: to make them only to leave them out takes every process ten seconds.
        chosen = [one for one in chosen if not one.marks]
    for fixture in {"case", "pair", "one"} & set(metafunc.fixturenames):
        metafunc.parametrize(fixture, chosen)


def _param(fixture: str, method: str, backbone: str, optimizer: str, default: bool) -> Any:
    parts = {"case": (method, backbone, optimizer), "pair": (method, backbone), "one": (method,)}[fixture]
    marks = () if default else (pytest.mark.full,)
    return pytest.param(Case({**EVERY, **VARIANTS}[method], backbone, optimizer), id="-".join(parts), marks=marks)
