"""What a comparison under several orders runs: orders, seeds, further seeds for the noise floor; written beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from polymask.disk import write_file
from polymask.learning.orders.draw import Order

FILE = "orders.json"


@dataclass(frozen=True)
class Plan:
    """Which runs a method gets: every order under every seed, and the first order under the seeds of the floor.

    Args:
        orders: as places in the stream; the first is the one that a comparison without orders runs.
        seeds: what scores are averaged over.
        measures_floor: whether the noise floor gets seeds of its own; a run an order more.

    >>> Plan(((0, 1, 2), (2, 0, 1), (1, 0, 2)), (7,)).runs
    [(0, 7), (1, 7), (2, 7), (0, 0), (0, 1)]
    >>> Plan(((0, 1, 2), (2, 0, 1)), (7,), measures_floor=False).runs
    [(0, 7), (1, 7)]
    """

    orders: tuple[Order, ...]
    seeds: tuple[int, ...]
    measures_floor: bool = True

    @property
    def floor(self) -> tuple[int, ...]:
        """As many seeds as there are orders: those of the comparison, and the smallest others where they are fewer."""
        if not self.measures_floor:
            return ()
        own = tuple(dict.fromkeys(self.seeds))
        return (*own, *islice((seed for seed in count() if seed not in own), len(self.orders)))[: len(self.orders)]

    @property
    def runs(self) -> list[tuple[int, int]]:
        """(Order, seed) of every run of a method, in the order in which they are made."""
        every = [(0, seed) for seed in self.seeds]
        every += [(order, seed) for seed in self.seeds for order in range(1, len(self.orders))]
        return list(dict.fromkeys([*every, *((0, seed) for seed in self.floor)]))

    def write(self, folder: Path) -> None:
        """Write it into a comparison's folder."""
        found = {"orders": self.orders, "seeds": self.seeds, "floor": self.floor}
        write_file(folder / FILE, (json.dumps(found) + "\n").encode())


def read_plan(folder: Path) -> Plan | None:
    """The plan in a comparison's folder; None if it ran one order.

    Raises:
        ValueError: if it is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        orders = tuple(tuple(map(int, order)) for order in found["orders"])
        seeds = tuple(map(int, found["seeds"]))
        if len(orders) < 2 or not seeds or any(_is_no_order(order, len(orders[0])) for order in orders):
            raise ValueError(f"orders {orders} and seeds {seeds}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"expected orders and seeds in {FILE}, found it cut short or changed ({error})") from error
    return Plan(orders, seeds, bool(found.get("floor", True)))


def _is_no_order(order: Sequence[int], tasks: int) -> bool:
    return sorted(order) != list(range(tasks))
