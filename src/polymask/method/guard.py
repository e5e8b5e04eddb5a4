"""The guard: what finished tasks read and answer, noted when one ends, compared before a verb changes anything."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from polymask.held import (
    AlteredNetwork,
    Held,
    Part,
    add_read,
    checksum,
    difference,
    digest_again,
    find_altered,
    part,
    proof,
    with_held,
)
from polymask.method.agreement import is_real, same
from polymask.method.answer import CRASHES, Answer, answer_probe, same_answer
from polymask.method.causes import Form, causes, changed_forms, forms
from polymask.parts.pack import unpack
from polymask.probe import same_bits
from polymask.task import TaskRecord, entries, reads

if TYPE_CHECKING:
    from polymask.method.contract import Method


@dataclass(frozen=True)
class Watch:
    """What was noted when the last task ended.

    Args:
        held: what finished tasks read of the base, with checksums.
        loose: the model's tensors that no record brings and no bank keeps, whole.
        task: the task that ended last.
        answer: what it answered to the probe; None: it does not answer twice alike.
        forms: module -> what it was.
    """

    held: Held = field(default_factory=dict)
    loose: Held = field(default_factory=dict)
    task: str | None = None
    answer: Answer | None = None
    forms: Mapping[str, Form] = field(default_factory=dict)


@runtime_checkable
class HasBase(Protocol):
    """What ``restore`` asks of a bank."""

    def tensors(self) -> Mapping[str, Tensor]:
        """The base as committed."""


def make_watch(method: Method, held: Held, task: str, plain: nn.Module, baked: nn.Module | None = None) -> Watch:
    """Everything that is compared from now on.

    Args:
        method: the learner.
        held: what finished tasks read.
        task: the task that ended last.
        plain: a network that answers as it.
        baked: a baked copy, which must answer as it, too.

    Raises:
        RuntimeError: if the baked copy answers otherwise.
    """
    loose = {name: part(tensor, None, checksum) for name, tensor in method.sites.loose().items()}
    answer, other = answer_probe(plain, method.probe), None if baked is None else answer_probe(baked, method.probe)
    # A network, or a device, may not add in one order: what does not answer twice alike cannot be compared.
    twice = other is not None and same_bits(answer.logits, other.logits)
    stable = twice or same_answer(answer, answer_probe(plain, method.probe))
    if other is not None and stable and not same(answer.logits, other.logits, is_real(method.record(task))):
        raise RuntimeError(_other_answer(task, answer.logits, other.logits))
    return Watch(held, loose, task, answer if stable else None, forms(method.model))


def _other_answer(task: str, masked: Tensor, plain: Tensor) -> str:
    gap = float((masked - plain).abs().max()) if masked.shape == plain.shape else float("inf")
    return (
        f"expected a baked copy to answer task {task!r} as the masked network does, found logits that differ by "
        f"{gap:.2g}: does a module keep what it computed from a weight, or read one past its attribute?"
    )


Entries = Mapping[str, Tensor | None]
"""Tensor name -> what is read of it, from ``task.entries``."""


def held_with(
    method: Method, records: Iterable[TaskRecord], held: Held, known: Mapping[str, Entries]
) -> dict[str, Part]:
    """What was held and what some records read, in one; of tasks of which it is known, that is not asked again."""
    found = dict(held)
    for record in records:
        read = known.get(record.meta.task)
        if read is None:
            read = entries(method.sites, {name: unpack(packed) for name, packed in record.masks.items()})
        found = add_read(found, method.sites, read, checksum)
    return found


def held_after(
    method: Method, before: Mapping[str, TaskRecord], issued: Mapping[str, TaskRecord], known: Mapping[str, Entries]
) -> Held:
    """What is held after a task ended: one union more; all of them anew where a reissued record reads otherwise.

    Args:
        method: the learner.
        before: the records before that.
        issued: those that are new.
        known: what some of their tasks read.
    """
    again = any(task in before and dict(record.reads) != dict(before[task].reads) for task, record in issued.items())
    fresh = method.records.values() if again else [one for task, one in issued.items() if task not in before]
    held = held_with(method, fresh, {} if again else method.watch.held, known)
    # What a method lets later tasks change was not compared, so it is what it is now.
    return held if method.exact is True else digest_again(held, method.sites, checksum)


def watch_after_load(method: Method, watch: Watch, held: Held | None) -> Watch:
    """The watch of a learner whose state was loaded over what was watched before, if anything was."""
    if watch.task is None:
        return watch_from_records(method, held)
    if found := find_altered(watch.held, method.sites, checksum) if method.exact is True else {}:
        raise AlteredNetwork(
            f"expected a state that agrees with what finished tasks read, found {', '.join(map(repr, found))} "
            "otherwise: it is damaged, or of another run. Finished tasks are whole in the bank: begin this one again"
        )
    return watch


def watch_from_records(method: Method, held: Held | None = None) -> Watch:
    """The watch of a learner that was loaded.

    Args:
        method: the learner.
        held: what its bank says that finished tasks read; None: taken from all records.

    Raises:
        AlteredNetwork: if the base is not what the bank says.
    """
    if not method.records:
        return Watch()
    if held is not None and (found := find_altered(held, method.sites, proof)):
        raise AlteredNetwork(
            f"expected the base as finished tasks read it, found {', '.join(map(repr, found))} otherwise: the "
            "state that was loaded and the bank's base are not of one moment; take both from the same commit"
        )
    task = list(method.records)[-1]
    now = (
        held_with(method, method.records.values(), {}, {})
        if held is None
        else digest_again(held, method.sites, checksum)
    )
    return make_watch(method, now, task, method.plain(task))


def compare(method: Method, network: Callable[[str], nn.Module] | None, base: bool) -> tuple[dict[str, str], list[str]]:
    """What is not as it was when the last task ended: tensor -> what it is now; and in phrases what else.

    Args:
        method: the learner.
        network: ``task -> a network that answers as it``; None: behaviour is not compared.
        base: whether tensors are compared.
    """
    watch, loose = method.watch, method.sites.loose()
    found, words = find_altered(watch.held, method.sites, checksum) if base else {}, list[str]()
    for name, was in watch.loose.items() if base else ():
        now = difference(was, loose[name], checksum) if name in loose else "gone"
        if now is not None:
            found[name] = now
    if network is not None and watch.task is not None and watch.answer is not None:
        try:
            answer = answer_probe(network(watch.task), method.probe)
        except CRASHES as error:
            words = [f"the network no longer runs ({type(error).__name__}: {error})"]
        else:
            if not same_answer(watch.answer, answer, is_real(method.record(watch.task))):
                words = [f"task {watch.task!r} answers a small probe otherwise"]
    return found, words


def enforce(method: Method, verb: str, network: Callable[[str], nn.Module] | None = None, base: bool = True) -> None:
    """Raise where finished tasks are harmed; of what explains nothing, warn once.

    While a task is open only exact methods hold what earlier tasks read. Collective: where there are several processes,
    all raise or none.

    Raises:
        AlteredNetwork: naming tensors, tasks, what probably did it and the way out.
    """
    if not method.records or (method.task is not None and method.exact is not True):
        return
    found, words = compare(method, network, base)
    sentence = _sentence(method, verb, found, words) if found or words else None
    if any_process(sentence is not None, method):
        raise AlteredNetwork(sentence or f"{verb}: another process found that what finished tasks read was changed")
    if network is None:
        return
    if new := [
        change for change in changed_forms(method.watch.forms, forms(method.model)) if change not in method.warned
    ]:
        method.warned.update(new)
        warnings.warn(
            f"since task {method.watch.task!r} ended, {'; '.join(new)}; a small probe is answered as before, but no "
            "proof covers more than that",
            stacklevel=4,
        )


def any_process(mine: bool, method: Method) -> bool:
    """Whether any process says so; all of them learn it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return mine
    flag = torch.tensor([float(mine)], device=next(method.model.parameters(), torch.zeros(())).device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag.item())


def _sentence(method: Method, verb: str, found: Mapping[str, str], words: list[str]) -> str:
    what = [f"{name!r} {'has' if now.startswith('other') else 'is'} {now}" for name, now in list(found.items())[:4]]
    what += [f"{len(found) - 4} more tensors changed"] if len(found) > 4 else []
    harmed = _harmed(method, found)
    tasks = ", ".join(map(repr, harmed[:4])) + (f" and {len(harmed) - 4} more" if len(harmed) > 4 else "")
    why = causes(method.sites, found, changed_forms(method.watch.forms, forms(method.model)))
    return (
        f"expected what finished tasks read to be as it was when task {method.watch.task!r} ended, found at {verb} "
        f"that {', '.join([*what, *words])}: task {tasks} would answer otherwise. Probably "
        f"{'; '.join(why) or 'code changed'}. Undo it, bring the base back with method.restore(bank), or make the "
        "network and the method anew and go on from the bank; this call changed nothing"
    )


def _harmed(method: Method, found: Mapping[str, str]) -> list[str]:
    """The tasks whose own reads are no longer what they were; all of them where none is told apart."""
    there = [name for name, now in found.items() if now == "other values" and name in method.sites.roles]
    harmed = []
    for task, record in method.records.items() if there else ():
        now = reads(method.sites, {name: unpack(packed) for name, packed in record.masks.items()})
        if any(record.reads.get(name) != now.get(name) for name in there):
            harmed.append(task)
    return harmed or [str(method.watch.task)]


@torch.no_grad()
def restore(method: Method, bank: HasBase) -> None:
    """Bring back what finished tasks read, and nothing else; see ``Method.restore``."""
    if not isinstance(bank, HasBase):
        raise TypeError(f"expected a bank, found {type(bank).__name__}: open it first, with Bank.open(path)")
    held, tensors, sites = method.watch.held, bank.tensors(), method.sites
    for name in find_altered(held, sites, checksum):
        if name not in sites.roles or name not in tensors:
            raise ValueError(
                f"expected a tensor {name!r} in the model and in the bank, found none: is it another bank?"
            )
        if sites.base(name).dtype != tensors[name].dtype:
            raise ValueError(
                f"expected {name!r} to be {tensors[name].dtype}, found {sites.base(name).dtype}: call "
                f"model.to({tensors[name].dtype}) first"
            )
        sites.write(name, with_held(held, name, sites.base(name), tensors[name]))
    method.check()
