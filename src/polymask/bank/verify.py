"""Was anything forgotten? What two proofs found for every task of a bank: by content and by behaviour."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymask.bank.probe import digest_of_batch
from polymask.bank.store import DamagedBank, read_tensors
from polymask.parts.pack import unpack
from polymask.probe import differences, rounding, run_probe, setting
from polymask.sites.table import Sites, bake
from polymask.task import TaskRecord, activate, fingerprint, reads


@dataclass(frozen=True)
class TaskProof:
    """What was found for one task.

    Args:
        task: its name.
        failures: a sentence each; none if the task is what it was.
        notes: what changed where the method allows it.
        behaviour: how the logits of the probe compare with those stored.
    """

    task: str
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    behaviour: str = "no probe"

    @property
    def ok(self) -> bool:
        """Whether the task is what it was when it was learned."""
        return not self.failures


@dataclass(frozen=True)
class Verification:
    """What was found for a whole bank.

    Args:
        tasks: task name -> its proof.
        failures: what is wrong with files that belong to no single task.
    """

    tasks: Mapping[str, TaskProof]
    failures: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every task is what it was and every file is whole."""
        return not self.failures and all(proof.ok for proof in self.tasks.values())

    def __str__(self) -> str:
        lines = [f"bank: {failure}" for failure in self.failures]
        for task, proof in self.tasks.items():
            word = "NOT OK" if not proof.ok else "changed" if proof.notes else "ok"
            lines.append(f"task {task!r}: {word}, {proof.behaviour}")
            lines += [f"  {line}" for line in (*proof.failures, *proof.notes)]
        return "\n".join([*lines, self._conclusion()])

    def _conclusion(self) -> str:
        changed = sum(bool(proof.notes) for proof in self.tasks.values())
        if not self.ok:
            return "NOT verified"
        if not self.tasks:
            return "every file is whole; there is no finished task to verify"
        if changed:
            return f"every file is whole, but {changed} of {len(self.tasks)} tasks changed, as their method may"
        return "verified: nothing was forgotten"


def changed_reads(sites: Sites, record: TaskRecord) -> list[str]:
    """The tensors of the base that are not what a task read of them when it was learned, a sentence each."""
    found = reads(sites, {name: unpack(packed) for name, packed in record.masks.items()})
    return [
        f"expected tensor {name!r}, as task {record.meta.task!r} reads it, to have the hash {was}, "
        f"found {found.get(name, 'no such tensor')}: the base has changed"
        for name, was in record.reads.items()
        if found.get(name) != was
    ]


def behaviour(was: Tensor, now: Tensor, changed: str, exact: bool | float | None) -> tuple[str, bool]:
    """Compare the logits of a probe with those stored; the words, and whether the task may have them.

    In another setting than the one stored the tolerance is ``sqrt(eps) * max(1, max |logits|)``.

    Args:
        was: the logits as stored.
        now: the logits as computed here.
        changed: what differs between the settings; empty if nothing does.
        exact: what the method promises, see ``Meta``.
    """
    if fingerprint(was) == fingerprint(now):
        return "bit-equal", True
    if was.shape != now.shape or was.dtype != now.dtype:
        kinds = [f"{str(t.dtype).removeprefix('torch.')} of shape {tuple(t.shape)}" for t in (was, now)]
        return f"differs (stored {kinds[0]}, found {kinds[1]})", False
    gap = _gap(was, now)
    drift = 0.0 if exact is None or isinstance(exact, bool) else exact
    tolerance = drift + (rounding(was, changed) if changed else 0.0)
    size = f"max diff {gap:.2g}, tolerance {tolerance:.2g}"
    if exact is None:
        return f"differs (max diff {gap:.2g}), as its method may", True
    if not gap <= tolerance:  # so that a NaN differs, too
        return f"differs ({size})" + (f" although only the setting differs: {changed}" if changed else ""), False
    why = f"because setting differs: {changed}" if changed else "that its method states"
    return f"within tolerance ({size}) {why}", True


def compare(
    folder: Path,
    proof: Mapping[str, Any] | None,
    plain: nn.Module,
    batch: Any,
    exact: bool | float | None,
    was: Tensor | None = None,
) -> tuple[str, bool]:
    """Run a task's probe again; the words, and whether the task may have these logits.

    Args:
        folder: the bank's folder.
        proof: what ``prove`` noted when the task was learned.
        plain: the task's baked model.
        batch: the probe; None if its file is damaged.
        exact: what the method promises, see ``Meta``.
        was: the stored logits, if they are at hand.
    """
    if proof is None or not proof["stable"]:
        return "no probe" if proof is None else "not stable", True
    if batch is None or digest_of_batch(batch) != proof["batch"]:
        return "not compared: the probe cannot be had again here", True
    was = read_tensors(folder, proof["logits"])["logits"] if was is None else was
    return behaviour(was, run_probe(plain, batch), differences(proof["setting"], setting(plain, batch)), exact)


def check_task(
    folder: Path, entry: Mapping[str, Any], read: Callable[[], TaskRecord], sites: Sites | None, batch: Any
) -> TaskProof:
    """Prove one task by content and by behaviour.

    Args:
        folder: the bank's folder.
        entry: the task's entry in the bank's json.
        read: reads the task's record and checks it.
        sites: the network with its base; None if that is damaged. The task is activated on it.
        batch: the probe; None if its file is damaged.
    """
    task, exact = entry["task"], entry["meta"]["exact"]
    try:
        record = read()
        if sites is None:
            return TaskProof(task, notes=("its record is whole; the base is damaged, and not compared",))
        changed = changed_reads(sites, record)
        activate(sites, record)
        plain = bake(sites.model)
        words, same = compare(folder, entry["probe"], plain, batch, exact)
        since, allowed = since_learned(folder, entry, plain, batch)
    except DamagedBank as error:
        return TaskProof(task, (str(error),), behaviour="not compared")
    failures, notes = (changed, []) if exact is True else ([], changed)
    if not same:
        failures = [*failures, f"expected the stored logits of the probe from task {task!r}, found others: {words}"]
    if since:
        failures, notes = (failures, [*notes, since]) if allowed else ([*failures, since], notes)
        words = words if entry["probe"] else "compared with when it was learned"
    return TaskProof(task, tuple(failures), tuple(notes), words)


def since_learned(folder: Path, entry: Mapping[str, Any], plain: nn.Module, batch: Any) -> tuple[str, bool]:
    """How a reissued task differs from what it was when it was learned, in words; and whether its method allows that.

    Args:
        folder: the bank's folder.
        entry: the task's entry; "learned" is what ``prove`` noted before the record was first reissued.
        plain: the task's baked model.
        batch: the probe; None if its file is damaged.
    """
    first, meta = entry.get("learned"), entry["meta"]
    if first is None or not first["stable"] or batch is None or digest_of_batch(batch) != first["batch"]:
        return "", True
    was, now = read_tensors(folder, first["logits"])["logits"], run_probe(plain, batch)
    why = f"since it was learned (revision {meta['revision']}: {meta['reason'] or 'no reason given'})"
    if was.shape != now.shape:
        return f"changed from logits of shape {tuple(was.shape)} to {tuple(now.shape)} {why}", True
    words, same = behaviour(was, now, differences(first["setting"], setting(plain, batch)), meta["exact"])
    if words == "bit-equal" or (same and meta["exact"] is True):
        return "", True
    return f"changed by {_short(_gap(was, now))} {why}", same


def _short(value: float) -> str:
    """Two digits.

    >>> _short(0.0004), _short(12.0)
    ('4.0e-4', '1.2e1')
    """
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits}e{int(power)}" if power else digits


def _gap(was: Tensor, now: Tensor) -> float:
    return float(
        torch.where(was == now, 0.0, (was.double() - now.double()).abs()).max()
    )  # equal infinities differ by 0
