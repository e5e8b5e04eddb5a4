"""The bank: a base and its tasks on disk, with everything that is needed to answer without a method."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from polymask.bank import store
from polymask.bank.base import axes_of, check_network, host_of, table_of
from polymask.bank.commit import commit
from polymask.bank.first import create_head, refuse_another
from polymask.bank.head import Head, State, read_head, write_head
from polymask.bank.probe import make_probe
from polymask.bank.proofs import prove_all
from polymask.bank.reader import Reader
from polymask.bank.release import files_of, files_of_entry
from polymask.bank.remove import write_without
from polymask.bank.sizes import sizes_of
from polymask.bank.verify import Verification
from polymask.builder import Builder
from polymask.held import Held
from polymask.lock import writing
from polymask.sites.plugs import describe_plugs, plug_again
from polymask.sites.table import Sites, bake
from polymask.task import TaskRecord


class Bank:
    """A base, its tasks and their proofs in one folder; made by ``create``, opened by ``open``.

    Tensors lie in files named by what they hold; ``bank.json``, renamed last, is the only commit: whatever happens on
    the way, the folder holds the last good state. One process writes at a time, any number may read.

    >>> import tempfile, torch
    >>> from polymask.parts.pack import pack
    >>> from polymask.sites.table import Role, attach
    >>> from polymask.task import Meta, reads
    >>> sites = attach(nn.Linear(2, 1, bias=False), {"weight": Role("masked", "a matrix")})
    >>> mask = torch.tensor([[True, False]])
    >>> meta = Meta(task="left", method="by hand", outputs=1, exact=True)
    >>> record = TaskRecord({"weight": pack(mask)}, {}, {}, reads(sites, {"weight": mask}), meta)
    >>> builder = Builder("torch.nn:Linear", {"in_features": 2, "out_features": 1, "bias": False})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     bank = Bank.create(folder, sites, builder=builder, method="by hand", example=torch.ones(1, 2))
    ...     bank.commit({"left": record}, sites)
    ...     print(Bank.open(folder).verify())
    ...     Bank.open(folder).plain("left").weight[0, 1].item()
    task 'left': ok, bit-equal
    verified: nothing was forgotten
    0.0
    """

    def __init__(self, path: Path, head: Head, tidy: bool = False) -> None:
        self.path, self._reader, self._tidy = path, Reader(path, head), tidy

    @classmethod
    def create(
        cls,
        path: Path | str,
        sites: Sites,
        *,
        method: str,
        options: Mapping[str, Any] | None = None,
        builder: Builder | None = None,
        head: str | None = None,
        base: Literal["stored", "fingerprint"] = "stored",
        drawn: Mapping[str, int] | None = None,
        host: Collection[str] = (),
        owned: Collection[str] = (),
        example: Any = None,
        probe: Any = None,
        seed: int = 0,
    ) -> Bank:
        """Make a bank of an attached model, with no task yet.

        Args:
            path: the bank's own folder, e.g. DIR/bank.
            sites: the attached model.
            method: the method's name.
            options: its arguments, as JSON.
            builder: how the network is built; None: it is given by the user wherever the bank is opened.
            head: the head's name.
            base: "stored", or "fingerprint" where the user brings the backbone; it must then never learn.
            drawn: tensor name -> seed, of tensors that ``signed_constant`` draws and no file needs to hold.
            host: tensors that never learn; from a megabyte on they lie in a file of their own, which banks of one host
                share where their disk allows it.
            owned: tensors whose rows belong to tasks; they are stored in half precision where that holds them exactly.
            example: an input, whose shapes and range a probe batch is drawn from; None: no proof by behaviour.
            probe: a batch of the user's to be the probe instead; its entries are stored in the bank.
            seed: seeds the probe.

        Raises:
            FileExistsError: if there is a bank already.
        """
        path = Path(path)
        if builder is not None:
            check_network(plug_again(builder.build(), describe_plugs(sites.model)), table_of(sites), axes_of(sites))
        told: State = {
            "method": method,
            "options": store.as_json(dict(options or {}), "options"),
            "head": head,
            "builder": builder and store.as_json(builder.to_json(), "builder args"),
        }
        kept: State = {"kind": base, "drawn": dict(drawn or {}), **host_of(sites, set(host) - set(drawn or ()), base)}
        kept |= {"owned": sorted(owned)} if owned else {}
        asked = make_probe(sites.model, example, probe, seed)
        refuse_another(path)
        path.mkdir(parents=True, exist_ok=True)
        with writing(path):
            refuse_another(path)
            bank = cls(path, create_head(path, sites, told, kept, asked, probe))
            bank._sweep()
        return bank

    @classmethod
    def open(cls, path: Path | str) -> Bank:
        """Open a bank; of one in the present format ``bank.json`` alone is read, whatever else when it is used.

        Args:
            path: the bank's own folder.
        """
        return cls(Path(path), read_head(Path(path)))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in order of learning."""
        return tuple(self._reader.head.records)

    @property
    def removed(self) -> tuple[str, ...]:
        """The tasks that were removed and not learned again."""
        return self._reader.head.removed

    @property
    def outline(self) -> State:
        """What ``bank.json`` says, as JSON: method, options, builder, head, table of sites, where the records lie."""
        head = self._reader.head
        return {**copy.deepcopy(head.about), "records": [asdict(line) for line in head.records.values()]}

    @property
    def about(self) -> State:
        """What the bank says of itself, as JSON: the outline, and every record's entry, which is read."""
        entries = [copy.deepcopy(self._reader.entry(task)) for task in self.tasks]
        return {**copy.deepcopy(self._reader.head.about), "records": entries}

    def commit(self, records: Mapping[str, TaskRecord], sites: Sites, learner: Mapping[str, Any] | None = None) -> None:
        """Add new records, replace reissued ones, and bring the base up to date, in one step.

        First the base is compared with what finished tasks read, and the last of them answers the probe. Then only
        what is new is written. A newer plane of owners takes the place of the older one for all records that share
        it, once it is sure that none of their masks changes.

        Args:
            records: task name -> record, in order of learning; records that are committed already are skipped.
            sites: the attached model that holds the base.
            learner: what the method needs to go on learning; None: there is none, also if there was one before.

        Raises:
            AlteredNetwork: if the network is not what finished tasks of an exact method read; nothing is written.
            OSError: if the disk is full; the last commit stands.
            RuntimeError: if another process has committed since this bank was opened, or is writing for a minute.
            ValueError: if a record says another thing than the base, or than its earlier self of the same revision.
        """
        with self._changing():
            head, free, given = commit(self._reader, records, sites, learner)
            self._finish(head, free)
            self._reader.remember_records(given)

    def remove(self, task: str) -> None:
        """Forget a task's record; every other one and the base stay, to the bit.

        The learner's state stays too, and still knows of the task: ``Method.remove`` tells it.

        Args:
            task: its name; it may be learned again.
        """
        with self._changing():
            self._finish(*write_without(self._reader, task))

    def sweep(self) -> None:
        """Delete what an interrupted commit left in the folder; nothing while an entry cannot be read.

        Raises:
            RuntimeError: if another process has committed since this bank was opened.
        """
        with self._changing():
            self._sweep()

    def record(self, task: str) -> TaskRecord:
        """A task's record, checked.

        Args:
            task: its name; an unknown one is a KeyError that lists those there are.

        Raises:
            RuntimeError: if a later commit changed or removed it.
        """
        return self._reader.record(task)

    def model(self, base: nn.Module | None = None) -> Sites:
        """The network with its base and its sites, no task active; needs no method. ``activate`` makes it answer.

        Where a later commit took this bank's base away, it is the newest one.

        Args:
            base: the network, where the bank has no builder or its base is only a fingerprint; changed in place, and
                only if it is the bank's own.

        Raises:
            ValueError: if it is another network or another backbone, or there is neither a base nor a builder.
        """
        return self._reader.model(base)

    def activate(self, sites: Sites, task: str) -> None:
        """Make a task the active one on the sites of ``model``; raises as ``plain`` does."""
        self._reader.activate(sites, task)

    def plain(self, task: str, base: nn.Module | None = None) -> nn.Module:
        """A plain network that answers for one task, in evaluation mode; see ``bake``.

        Args:
            task: its name.
            base: as for ``model``; it is left alone.

        Raises:
            RuntimeError: if a later commit changed what the task reads.
        """
        self._reader.line(task)
        sites = self.model(copy.deepcopy(base))
        self.activate(sites, task)
        return bake(sites.model)

    def tensors(self) -> dict[str, Tensor]:
        """The base as committed: tensor name -> value, of stored and of drawn tensors.

        Raises:
            ValueError: if the bank holds no more than the base's fingerprint.
        """
        return self._reader.tensors()

    def held(self, sites: Sites | None = None) -> Held:
        """What finished tasks of exact methods read of the base, all together, with its digests (``held.proof``).

        Args:
            sites: an attached model, where the bank holds no more than the base's fingerprint.
        """
        return self._reader.union(sites).read

    def learner(self) -> dict[str, Any]:
        """What the method needs to go on learning, as it was committed; tuples come back as lists.

        Raises:
            FileNotFoundError: if the last commit had none.
        """
        return self._reader.learner()

    def probe_logits(self) -> dict[str, Tensor]:
        """The stored logits of the probe, for every task that has them."""
        return {task: self._reader.logits(task) for task in self.probe_settings()}

    def probe_settings(self) -> dict[str, dict[str, Any]]:
        """Where those logits are bit-equal: torch, device, processor and the like, for every task that has them."""
        return {task: proof["setting"] for task in self.tasks if (proof := self._reader.proof(task))}

    def sizes(self) -> dict[str, Any]:
        """The bytes on disk: "backbone", "per_task" (task -> what it added), "held", "learner", "probe" and "json".

        A file that several share is counted where it came first, so that the sum is all that the folder holds.
        """
        return sizes_of(self._reader)

    def verify(self, base: nn.Module | None = None) -> Verification:
        """Prove, for every task, that nothing was forgotten: by content, and by the logits of the probe.

        The bank is read as it is now, whatever was committed since it was opened.

        Args:
            base: as for ``model``; it is left alone.
        """
        return prove_all(self._reader, base)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """The lock, and under it the certainty that nobody has committed since this handle was opened."""
        with writing(self.path):
            if not self._reader.is_latest():
                read_head(self.path)
                raise RuntimeError(
                    f"expected {self.path} as it was when opened, found a later commit: open it again first"
                )
            yield

    def _finish(self, head: Head, free: set[str]) -> None:
        """Commit a head whose files are written, then delete those that it let go."""
        self._reader.go_on_from(write_head(self.path, head))
        store.free(self.path, free)
        if not self._tidy and self._reader.has_all_entries():
            # Who has read everything goes on from an earlier process, which may have been killed.
            self._sweep()

    def _sweep(self) -> None:
        entries, damaged = self._reader.readable()
        if not damaged:
            store.sweep(self.path, files_of(self._reader.head.about).union(*map(files_of_entry, entries.values())))
            self._tidy = True
