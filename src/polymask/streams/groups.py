"""Which classes each task of a split has: equal groups, groups of given sizes, or groups by name."""

from __future__ import annotations

import json
from collections.abc import Sequence

from polymask.near import nearest

Groups = str | Sequence[Sequence[str]]
"""Classes by name: ``[["cat", "dog"], ["car", "truck"]]``, or "cat,dog/car,truck", or the former as JSON."""


def class_groups(tasks: int | Sequence[Sequence[int]], total: int, name: str) -> list[tuple[int, ...]]:
    """The classes of each task.

    Raises:
        ValueError: the classes cannot be shared out equally, or a group names none or an unknown one.

    >>> class_groups(2, 6, "toy")
    [(0, 1, 2), (3, 4, 5)]
    """
    if isinstance(tasks, int):
        if tasks < 1 or total % tasks:
            some = [total // max(tasks, 1) + (i < total % max(tasks, 1)) for i in range(min(max(tasks, 1), total))]
            raise ValueError(
                f"the {total} classes of {name!r} make no {tasks} equal groups; give their sizes (--classes-per-task "
                f"{' '.join(map(str, some))}), or the groups (--groups, or --tasks '[[0, 1], [2, 3, 4]]')"
            )
        return groups_of_sizes([total // tasks] * tasks, total, name)
    groups = [tuple(group) for group in tasks]
    for group in groups:
        unknown = [label for label in group if not 0 <= label < total]
        if not group or unknown or len(set(group)) < len(group):
            raise ValueError(f"a group names different classes of {name!r}, 0..{total - 1}, found {list(group)}")
    return groups


def groups_of_sizes(sizes: Sequence[int], total: int, name: str) -> list[tuple[int, ...]]:
    """Neighbouring classes in groups of these sizes.

    Raises:
        ValueError: a size is below 1, or they do not add up to all classes.

    >>> groups_of_sizes([2, 3], 5, "toy")
    [(0, 1), (2, 3, 4)]
    """
    if not sizes or min(sizes) < 1 or sum(sizes) != total:
        found = " + ".join(map(str, sizes)) or "none"
        raise ValueError(
            f"expected classes per task (--classes-per-task) of at least 1 that add up to the {total} of {name!r}, "
            f"found {found}{f' = {sum(sizes)}' if len(sizes) > 1 else ''}"
        )
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [tuple(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]


def groups_by_name(groups: Groups, names: Sequence[str], data: str) -> list[tuple[int, ...]]:
    """The classes of each task, named; a number is a class's place where no class is called so.

    Args:
        groups: see ``Groups``.
        names: of all classes.
        data: what the data are called.

    Raises:
        ValueError: there is no such class, with the nearest; a class is named twice; a group is empty.

    >>> groups_by_name("cat,dog/2", ["cat", "dog", "emu"], "pets")
    [(0, 1), (2,)]
    >>> groups_by_name("cat,dgo", ["cat", "dog", "emu"], "pets")
    Traceback (most recent call last):
    ValueError: expected classes of 'pets' (cat, dog, emu) in --groups, found 'dgo': did you mean dog?
    """
    found = [tuple(_place(name, names, data) for name in group) for group in _parse(groups)]
    if not found or not all(found):
        raise ValueError(f"expected a class or more in every group of --groups, such as cat,dog/car, found {groups!r}")
    flat = [label for group in found for label in group]
    if twice := [names[label] for label in dict.fromkeys(flat) if flat.count(label) > 1]:
        raise ValueError(
            f"expected every class of {data!r} once in --groups, found {twice[0]!r} twice; where tasks are meant to "
            "share classes, number them: --tasks '[[0, 1], [1, 2]]'"
        )
    return found


def one_for_each(groups: Groups, count: int) -> list[Groups]:
    """The groups of each of ``count`` data sets; in a text they are parted by ";", and one text serves all.

    Raises:
        ValueError: there are more or fewer than data sets.

    >>> one_for_each("cat/dog; car/truck", 2), one_for_each("0,1/2", 2)
    (['cat/dog', 'car/truck'], ['0,1/2', '0,1/2'])
    """
    parts: list[Groups] = [part.strip() for part in groups.split(";")] if isinstance(groups, str) else [groups]
    if len(parts) not in (1, count):
        raise ValueError(
            f"expected groups for each of {count} data sets, parted by ';', or for all of them, found {len(parts)}"
        )
    return parts * count if len(parts) == 1 else parts


def _parse(groups: Groups) -> Sequence[Sequence[str]]:
    if not isinstance(groups, str):
        return groups
    if groups.lstrip().startswith("["):
        try:
            found: list[list[str]] = [[str(name) for name in group] for group in json.loads(groups)]
        except (ValueError, TypeError) as error:
            raise ValueError(f'expected JSON such as [["cat", "dog"], ["car"]] in --groups, found: {error}') from error
        return found
    return [[name.strip() for name in group.split(",") if name.strip()] for group in groups.split("/")]


def _place(name: str, names: Sequence[str], data: str) -> int:
    if name in names:
        return list(names).index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    listed = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    raise ValueError(f"expected classes of {data!r} ({listed}) in --groups, found {name!r}{nearest(name, names)}")
