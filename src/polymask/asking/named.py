"""Which task is meant: by its name, or as ``#3`` by its place in the order of learning."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from polymask.bank.bank import Bank
from polymask.near import nearest

_PLACE = re.compile(r"#0*([1-9][0-9]{0,17})")


def places_of(bank: Bank) -> dict[str, int]:
    """Task -> its place in the order of learning, from 1; after a removal no other task gets it.

    Args:
        bank: where the tasks are.
    """
    return {line["task"]: line["place"] for line in bank.outline["records"]}


def find_task(bank: Bank, said: str) -> str:
    """The name of the task that is meant; a name goes before a place.

    Args:
        bank: where the tasks are.
        said: a task's name, or ``#3``, the third that was learned.

    Raises:
        KeyError: if there is no such task; it says which there are, and of one that was removed, that it was.

    >>> import tempfile
    >>> from polymask.learning.learn import learn
    >>> from polymask.learning.training import Training
    >>> from polymask.nets import MLP
    >>> from polymask.streams.images import digits
    >>> with tempfile.TemporaryDirectory() as out:
    ...     run = learn(MLP(64, (16,), 2), digits(5)[:2], "piggyback", out=out, training=Training(epochs=1))
    ...     find_task(run.bank, "#2"), find_task(run.bank, "digits/2-3")
    ('digits/2-3', 'digits/2-3')
    """
    places = places_of(bank)
    if said in places:
        return said
    number = _PLACE.fullmatch(said)
    if any(line["task"] == said for line in bank.outline["removed"]):
        raise KeyError(f"expected one of the tasks {listed(places)}, found {said!r}, which is removed")
    if number is None:
        raise KeyError(f"expected one of the tasks {listed(places)}, found {said!r}{nearest(said, places)}")
    place = int(number[1])
    if found := [task for task, one in places.items() if one == place]:
        return found[0]
    gone = [line["task"] for line in bank.outline["removed"] if line["place"] == place]
    why = f"which was {gone[0]!r} and is removed" if gone else _never(place, places.values())
    raise KeyError(f"expected one of the tasks {listed(places)}, found #{place}, {why}")


def listed(places: Mapping[str, int]) -> str:
    """Tasks with their places for a sentence; of many the first and the last.

    >>> listed({"a": 1, "c": 3})
    "#1 'a', #3 'c'"
    """
    named = [f"#{place} {task!r}" for task, place in places.items()]
    return ", ".join(named if len(named) <= 12 else [*named[:8], "...", *named[-3:]]) or "(none yet)"


def _never(place: int, places: Collection[int]) -> str:
    return "whose task was removed" if place < max(places, default=0) else "a place that no task has had"
