"""Which orders a stream is learned in: a number of drawn ones, those of a paper by name, or one's own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from polymask.learning.options import Refused
from polymask.near import nearest
from polymask.parts.seeds import generator

Order = tuple[int, ...]

NAMED: dict[str, tuple[Order, ...]] = {
    "apd": (
        (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
        (1, 7, 4, 5, 2, 0, 8, 6, 9, 3),
        (7, 0, 5, 1, 8, 4, 3, 6, 2, 9),
        (5, 8, 2, 9, 0, 4, 3, 7, 6, 1),
        (2, 9, 5, 4, 8, 0, 6, 1, 3, 7),
    ),
}
"""Name -> a paper's orders, as places in the stream; "apd": A to E of Yoon et al. 2020, for CIFAR-100 in ten tasks."""


def orders_of(asked: int | str | Sequence[Sequence[int]], tasks: int, own: Sequence[int] = ()) -> tuple[Order, ...]:
    """The orders of a comparison, all different, as places in the stream; none of them depends on a run's seed.

    Args:
        asked: how many: the stream's own and drawn ones, of which more are always the same and some behind them; or a
            key of ``NAMED``; or the orders themselves.
        tasks: how many tasks the stream has.
        own: the stream's own order; empty: 0, 1, 2, ...

    Raises:
        Refused: for fewer than two orders, more than there are, an unknown name, orders of another number of tasks or
            twice the same, or an order of the stream's own beside orders that are given.

    >>> orders_of(3, 4), orders_of(3, 4) == orders_of(4, 4)[:3]
    (((0, 1, 2, 3), (2, 3, 0, 1), (2, 1, 0, 3)), True)
    >>> len(orders_of("apd", 10)), orders_of([[1, 0], [0, 1]], 2)
    (5, ((1, 0), (0, 1)))
    >>> orders_of(3, 2)
    Traceback (most recent call last):
    polymask.learning.options.Refused: expected at most 2 orders, all that 2 tasks have, found orders=3: ask for fewer
    """
    if tasks < 2:
        raise Refused("expected a stream of two tasks or more for several orders, found one of a single task")
    if isinstance(asked, int):
        return _drawn(asked, tuple(own) or tuple(range(tasks)))
    if own:
        raise Refused(f"expected orders alone, found order={list(own)} beside them: the first of orders comes first")
    if isinstance(asked, str):
        if asked not in NAMED:
            hint = nearest(asked, NAMED) or f": there are {', '.join(NAMED)}"
            raise Refused(f"expected a number of orders, their places or a paper's name, found {asked!r}{hint}")
        if len(NAMED[asked][0]) != tasks:
            raise Refused(
                f"expected a stream of {len(NAMED[asked][0])} tasks for orders={asked!r}, found {tasks} tasks: make "
                f"the stream as long, or draw orders ({len(NAMED[asked])} in place of the name)"
            )
        return NAMED[asked]
    return _checked([tuple(order) for order in asked], tasks)


def _drawn(count: int, own: Order) -> tuple[Order, ...]:
    tasks = len(own)
    if count < 2:
        raise Refused(f"expected at least 2 orders, found orders={count}: ask for more, or leave it out")
    if count > math.factorial(tasks):
        most = math.factorial(tasks)
        raise Refused(
            f"expected at most {most} orders, all that {tasks} tasks have, found orders={count}: ask for fewer"
        )
    found, turn = {own: None}, 0
    while len(found) < count:
        found.setdefault(tuple(torch.randperm(tasks, generator=generator("orders", tasks, turn)).tolist()))
        turn += 1
    return tuple(found)


def _checked(orders: Sequence[Order], tasks: int) -> tuple[Order, ...]:
    if len(orders) < 2:
        raise Refused(f"expected at least 2 orders, found {len(orders)}: give more, or leave it out")
    for place, order in enumerate(orders):
        if sorted(order) != list(range(tasks)):
            raise Refused(f"expected orders of the places 0..{tasks - 1}, each once, found {list(order)}")
        if order in orders[:place]:
            raise Refused(f"expected orders that differ, found {list(order)} twice")
    return tuple(orders)
