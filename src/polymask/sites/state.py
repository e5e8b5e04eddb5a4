"""Which tensors a forward changes beside answering, and whether anything else it leaves behind changes an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polymask.calling import has_fractions, tensors_of
from polymask.copies.kept import differences, refresh_caches, same_tensor, twin
from polymask.copies.running import (
    Values,
    answer_of,
    disturb,
    give,
    input_like,
    own_random,
    take_changes,
    tensors_by_name,
)
from polymask.parts.recent import Recent
from polymask.wiring.cache import key_of

FAR = 10**6
"""How far a single number that evaluation changes is moved, to see whether an answer depends on it."""
LOUD = 10
"""By how much parameters and inputs are larger, to see what moves only then."""
COUNTS = (99, 999, 9999, 1023)
"""Where counters of steps are put, so that what happens every so many steps, or after so many, is seen."""


@dataclass(frozen=True)
class Moving:
    """The parameters and buffers that a forward changes, by the name of their first place.

    Args:
        training: in training mode.
        evaluation: in evaluation mode, where no answer depends on them.
        later: those of them that are buffers -> what they may look like later.
    """

    training: frozenset[str] = frozenset()
    evaluation: frozenset[str] = frozenset()
    later: Mapping[str, Tensor] = field(default_factory=dict)

    def joined(self, other: Moving) -> Moving:
        """What either found."""
        later = {**other.later, **self.later}
        return Moving(self.training | other.training, self.evaluation | other.evaluation, later)


_KNOWN: Recent[Moving] = Recent()
"""What was found of the last few builds of networks that have nothing of their own beside their tensors' values."""


class _RefusedError(Exception):
    """What is wrong with a network, as the sentence to be raised."""


def moving(model: nn.Module, example: Any, others: Sequence[Any] = ()) -> Moving:
    """Run two copies of a network, one of them with a past, and compare what they answer and what they then hold.

    Both are given the same tensors and pass through ``train()`` and ``eval()``, which may empty caches. From the same
    random state they must then answer alike and leave alike behind; of what a call leaves behind, it alone may decide.

    Args:
        model: a plain network; it stays as it is, and so do all random generators.
        example: an input that it accepts.
        others: inputs under which it takes other paths.

    Raises:
        ValueError: if answers depend on anything but parameters, buffers, input and random state, if a finished task
            would change by being asked, or if the network keeps track of calls outside its buffers.

    >>> sorted(moving(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), torch.zeros(1, 2)).training)
    ['1.num_batches_tracked', '1.running_mean', '1.running_var']
    """
    try:
        build = key_of(model, example, "", ())
        key = None if build is None else (build, len(others))
    except (RuntimeError, NotImplementedError):  # buffers that are not dense
        key = None
    found = _KNOWN.get(key)
    if found is None:
        found = _moving_under(model, example)
        for x in others:
            found = found.joined(_moving_under(model, x, needed=False))
        if rest := {name for name in tensors_by_name(model) if name not in found.training} - _parameters(model):
            found = found.joined(_moving_when_large(model, [example, *others], rest))
        _KNOWN.keep(key, found)
    return found


def _moving_under(model: nn.Module, example: Any, needed: bool = True) -> Moving:
    """What moves under inputs like an example; nothing, if one that is not needed is not taken."""
    found: Moving | None = None
    failure: Exception | None = None
    with own_random(model):
        for cut, level in ((True, 2), (True, 1), (True, 0), (False, 2), (False, 1), (False, 0)):
            try:
                trial = _Trial(model, [input_like(example, key, cut, level == 2) for key in range(3)], level > 0)
                found = trial.run()
            except _RefusedError as refused:
                raise ValueError(str(refused)) from None
            except Exception as error:  # noqa: BLE001 (a network may raise anything)
                failure = error
                continue
            if trial.finite:
                return found
    if found is None and not needed:
        return Moving()
    if found is None:
        raise ValueError(
            f"expected a network that can be called again and again, found one that fails in a later call ({failure}): "
            "pass an example= that it accepts in training and in evaluation mode"
        ) from failure
    return found


def _parameters(model: nn.Module) -> set[str]:
    return {name for name, t in tensors_by_name(model).items() if isinstance(t, nn.Parameter)}


def _moving_when_large(model: nn.Module, xs: Sequence[Any], names: Set[str]) -> Moving:
    """Those buffers that move once all parameters and inputs are large: a largest value, the bounds of a clamp."""
    found: set[str] = set()
    with own_random(model):
        copy = twin(model)
        for parameter in copy.parameters():
            parameter.data.mul_(LOUD)
        now = {name: t.detach().clone() for name, t in tensors_by_name(copy).items()}
        for x in xs:
            with suppress(Exception):  # a network may raise anything
                answer_of(copy, tensors_of(x, lambda t: t * LOUD if has_fractions(t) else t), True)
            found |= set(take_changes(copy, now)) & names
    first: dict[int, str] = {}
    own = {name: first.setdefault(id(t), name) for name, t in tensors_by_name(model).items()}
    later = {own[name]: now[name].cpu() for name in found if now[name].isfinite().all()}
    return Moving(frozenset(own[name] for name in found), later=later)


class _Trial:
    """One attempt with three inputs: two copies of a network, whose parameters are moved unless they may not be."""

    def __init__(self, model: nn.Module, xs: list[Any], disturbed: bool) -> None:
        first: dict[int, str] = {}
        self.names = {name: first.setdefault(id(t), name) for name, t in tensors_by_name(model).items()}
        self.parameters = {name for name, t in tensors_by_name(model).items() if isinstance(t, nn.Parameter)}
        self.xs, self.finite, self.model = xs, True, model
        self.used, self.fresh = twin(model), twin(model)
        self.used.eval()
        self.fresh.eval()
        # The one without a past never sees other parameters than those that both have in the end.
        self.after = disturb(self.fresh) if disturbed else {}

    def run(self) -> Moving:
        """What moves; a refusal, if anything else does."""
        here, there, elsewhere = self.xs
        # Of the model itself, which nobody changes: no copy is needed.
        now = {name: t.detach() for name, t in tensors_by_name(self.model).items()}
        answer_of(self.used, there, True)
        trained = set(take_changes(self.used, now))
        self._refuse_born()
        answer_of(self.used, there, False)
        answer_of(self.used, elsewhere, False)
        asked = take_changes(self.used, now)
        now |= {name: t for name, t in self.after.items() if name not in trained and name not in asked}
        matters = bool(asked) and self._matters(asked, now, here)
        first = self._compare(now, here)
        if matters:
            raise _RefusedError(_asking(next(iter(asked))))
        asked |= take_changes(self.used, now)
        answer_of(self.used, here, True)
        trained |= set(take_changes(self.used, now))
        self._refuse_left(first, here)
        known = {n for n in {*trained, *asked} & {*self.names} if n not in self.parameters}
        later = {self.names[n]: now[n].cpu() for n in known}
        trained |= _moving_late(self.used, there, [n for n in trained if _counts(n, now[n])])
        training, evaluation = (
            frozenset(self.names[n] for n in found if n in self.names) for found in (trained, {*asked})
        )
        return Moving(training, evaluation, later)

    def _matters(self, asked: Values, now: Values, x: Any) -> bool:
        """Whether an answer depends on tensors that evaluation has changed; a single number is moved far besides."""
        far = {n: now[n] + FAR for n in asked if now[n].numel() == 1 and now[n].dtype != torch.bool}
        with refresh_caches(self.used), refresh_caches(self.fresh):
            give(self.used, now | far)
            give(self.fresh, now | asked)
        try:
            return not same_tensor(answer_of(self.used, x, False), answer_of(self.fresh, x, False))
        except Exception:  # noqa: BLE001 (a network may raise anything)
            return True

    def _compare(self, now: Values, x: Any) -> Tensor:
        """The answer of both, given the same tensors."""
        with refresh_caches(self.used), refresh_caches(self.fresh):
            give(self.used, now)
            give(self.fresh, now)
        answer, other = answer_of(self.fresh, x, False), answer_of(self.used, x, False)
        self.finite = bool(answer.isfinite().all())
        if not same_tensor(answer, other):
            raise _RefusedError(_keeping(self._left(), "and with it an answer"))
        # What evaluation itself leaves, and another call does not overwrite, may be a cache that outlives its tensors.
        if stale := [what for what in differences(self.model, self.fresh) if what in self._left()]:
            raise _RefusedError(_keeping(stale, "from call to call"))
        return answer

    def _refuse_born(self) -> None:
        for name, t in tensors_by_name(self.used).items():
            if name not in self.names and isinstance(t, nn.Parameter):
                raise _RefusedError(
                    f"expected a network that has all its parameters before it is attached, found {name!r} made by its "
                    "forward: call it once first"
                )

    def _refuse_left(self, first: Tensor, x: Any) -> None:
        """Refuse if the copy without a past now answers otherwise, or what its last calls leave tells it apart."""
        if not same_tensor(first, answer_of(self.fresh, x, False)):
            raise _RefusedError(_twice(differences(self.model, self.fresh)))
        answer_of(self.fresh, x, True)
        if left := self._left():
            raise _RefusedError(_keeping(left, "from call to call"))

    def _left(self) -> list[str]:
        """What the copies keep differently: buffers that a forward makes, and attributes."""
        others = tensors_by_name(self.fresh)
        made = [
            f"the buffer {name!r}, which a forward makes,"
            for name, t in tensors_by_name(self.used).items()
            if name not in self.names and not (name in others and same_tensor(t, others[name]))
        ]
        return made + differences(self.used, self.fresh)


def _counts(name: str, t: Tensor) -> bool:
    """Whether a tensor that changes may be a counter of steps; a norm's is known."""
    number = t.numel() == 1 and not t.is_floating_point() and t.dtype != torch.bool
    return number and not name.endswith("num_batches_tracked")


def _moving_late(model: nn.Module, x: Any, counters: list[str]) -> set[str]:
    """What changes only when counters of steps have come far."""
    found: set[str] = set()
    now = {name: t.detach().clone() for name, t in tensors_by_name(model).items()}
    for start in COUNTS if counters else ():
        try:
            give(model, {name: torch.full_like(now[name], start) for name in counters})
            answer_of(model, x, True)
            answer_of(model, x, True)
        except Exception:  # noqa: BLE001 (what points into a memory cannot be put anywhere)
            break
        found |= set(take_changes(model, now))
    return found


def _first(what: list[str]) -> str:
    return ", ".join(what[:3]) or "something outside of its modules (a global, a class attribute, a closure)"


def _keeping(what: list[str], how: str) -> str:
    return (
        "expected a network that keeps nothing from one call to the next but parameters and buffers, found that "
        f"{_first(what)} changes {how}: register it as a buffer with a value from the start, so that every task "
        "has its own, or compute it in each call (a cache may live until train() or eval() drops it)"
    )


def _twice(what: list[str]) -> str:
    return (
        "expected the same answer twice from the same random state in evaluation mode, found two, and that calls "
        f"change {_first(what)}: a finished task must not change by being asked"
    )


def _asking(name: str) -> str:
    path, _, leaf = name.rpartition(".")
    where = f"of the module {path!r}" if path else "of the network itself"
    return (
        f"expected tensors that stay as they are in evaluation mode, found that a forward changes {leaf!r} {where} "
        "there, and so the next answer: finished tasks would change by being asked; change it only if self.training"
    )
