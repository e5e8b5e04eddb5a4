"""The bank: a base and its tasks on disk, with everything that is needed to answer without a method."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from polymask.bank import store
from polymask.bank.base import Builder, check_network, restore, table_of, write_base
from polymask.bank.commit import State, entry_of, files_of, read_record, share, write_records
from polymask.bank.nest import flatten_state, nest_state
from polymask.bank.probe import ask, batch_of
from polymask.bank.sizes import sizes_of
from polymask.bank.store import DamagedBank
from polymask.bank.verify import Verification, check_task
from polymask.sites.table import Sites, bake
from polymask.task import TaskRecord, activate
from polymask.wiring import Wiring

FORMAT = 1


class Bank:
    """A base, its tasks and their proofs in one folder; made by ``create``, opened by ``open``.

    Tensors lie in files named by what they hold; ``bank.json``, renamed last, is the only commit: whatever happens on
    the way, the folder holds the last good state. One process may write, any number may read.

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

    def __init__(self, path: Path, state: State) -> None:
        self.path, self._state = path, state

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
            example: an input, whose shapes and range a probe batch is drawn from; None: no proof by behaviour.
            probe: a batch of the user's to be the probe instead; its entries are stored in the bank.
            seed: seeds the probe.

        Raises:
            FileExistsError: if there is a bank already.
        """
        path = Path(path)
        if (path / store.COMMIT).exists():
            raise FileExistsError(f"expected no bank at {path}, found one: Bank.open it, or choose another folder")
        table, units = table_of(sites), {name: site.axis for name, site in sites.units.items()}
        if builder is not None:
            check_network(builder.build(), table, units)
        path.mkdir(parents=True, exist_ok=True)
        state: State = {
            "method": method,
            "options": store.as_json(dict(options or {}), "options"),
            "head": head,
            "builder": builder and store.as_json({"name": builder.name, "args": dict(builder.args)}, "builder args"),
            "sites": table,
            "units": units,
            "wiring": sites.wiring.to_json() if sites.wiring.sites else None,
            "base": write_base(path, {"kind": base, "drawn": dict(drawn or {})}, sites),
            "probe": ask(path, example, probe, seed),
            "owners": {"file": None, "planes": {}, "added": {}},
            "records": [],
            "learner": None,
        }
        bank = cls(path, state)
        bank._finish(state)
        return bank

    @classmethod
    def open(cls, path: Path | str) -> Bank:
        """Open a bank; only its json files are read.

        Args:
            path: the bank's own folder.
        """
        path = Path(path)
        head = store.read_json(path / store.COMMIT, FORMAT)
        entries = [{**store.read_entry(path, file), "file": file} for file in head["records"]]
        return cls(path, {**head, "records": entries})

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks, in order of learning."""
        return tuple(entry["task"] for entry in self._state["records"])

    @property
    def removed(self) -> tuple[str, ...]:
        """The tasks that ``remove`` took out, but for those that were learned again."""
        return tuple(one["task"] for one in self._state.get("removed", ()))

    @property
    def about(self) -> State:
        """What the bank says of itself, as JSON: method, options, builder, head, table of sites, records."""
        return copy.deepcopy(self._state)

    def commit(self, records: Mapping[str, TaskRecord], sites: Sites, learner: Mapping[str, Any] | None = None) -> None:
        """Add new records, replace reissued ones, and bring the base up to date, in one step.

        Only what is new is written. A newer plane of owners takes the place of the older one for all records that
        share it, once it is sure that none of their masks changes.

        Args:
            records: task name -> record, in order of learning.
            sites: the attached model that holds the base.
            learner: what the method needs to go on learning; None: there is none, also if there was one before.

        Raises:
            OSError: if the disk is full; the last commit stands.
            RuntimeError: if another process has committed since this bank was opened.
            ValueError: if a record says another thing than the base, or than its earlier self of the same revision.
        """
        self._check_latest()
        wrong = [
            f"{task!r} of task {record.meta.task!r}" for task, record in records.items() if task != record.meta.task
        ]
        if wrong:
            raise ValueError(f"expected every record under the name of its task, found {wrong[0]}")
        given = [records[task] for task in self.tasks if task in records]
        given += [record for task, record in records.items() if task not in self.tasks]
        state = {**self._state, "sites": table_of(sites, self._state["sites"])}
        state["base"] = write_base(self.path, state["base"], sites)
        changed = write_records(self.path, self._state, given, sites)
        kept = [entry for entry in state["records"] if entry["task"] not in changed]
        state["records"] = [changed.pop(entry["task"], entry) for entry in state["records"]] + list(changed.values())
        state["removed"] = [one for one in state.get("removed", ()) if one["task"] not in records]
        state["owners"] = share(self.path, state, kept, given)
        state["learner"] = None if learner is None else store.write_tensors(self.path, flatten_state(learner))
        self._finish(state)

    def remove(self, task: str) -> None:
        """Forget a task's record; the base, the learner and every other record stay as they are.

        Args:
            task: its name. What only it read of the base may learn again once a learner has gone on from the bank.
        """
        self._check_latest()
        entry_of(self._state, task)
        state = {**self._state, "records": [entry for entry in self._state["records"] if entry["task"] != task]}
        state["removed"] = [*state.get("removed", ()), {"task": task}]
        state["owners"] = share(self.path, state, state["records"], [])
        self._finish(state)

    def record(self, task: str) -> TaskRecord:
        """A task's record, checked.

        Args:
            task: its name; an unknown one is a KeyError that lists those there are.
        """
        return read_record(self.path, self._state, entry_of(self._state, task))

    def model(self, base: nn.Module | None = None) -> Sites:
        """The network with its base and its sites, no task active; needs no method.

        Args:
            base: the network, where the bank has no builder or its base is only a fingerprint; changed in place, and
                only if it is the bank's own.

        Raises:
            ValueError: if it is another network or another backbone, or there is neither a base nor a builder.
        """
        builder = self._state["builder"]
        if base is None and builder is None:
            raise ValueError("expected a network, found a bank without a builder: bring the network as base=")
        module = Builder(**builder).build() if base is None else base
        wiring = self._state["wiring"] and Wiring.from_json(self._state["wiring"])
        return restore(self.path, self._state["base"], self._state["sites"], self._state["units"], module, wiring)

    def activate(self, sites: Sites, task: str) -> None:
        """Make a task the active one on the sites of ``model``."""
        activate(sites, self.record(task))

    def plain(self, task: str, base: nn.Module | None = None) -> nn.Module:
        """A plain network that answers for one task, in evaluation mode; see ``bake``.

        Args:
            task: its name.
            base: as for ``model``; it is left alone.
        """
        record = self.record(task)
        sites = self.model(copy.deepcopy(base))
        activate(sites, record)
        return bake(sites.model)

    def learner(self) -> dict[str, Any]:
        """What the method needs to go on learning, as it was committed; tuples come back as lists.

        Raises:
            FileNotFoundError: if the last commit had none.
        """
        if self._state["learner"] is None:
            raise FileNotFoundError(
                f"expected the state of a learner in {self.path}, found none: the bank answers for its tasks, but to "
                "learn another, commit with learner= first"
            )
        return nest_state(store.read_tensors(self.path, self._state["learner"]))

    def probe_logits(self) -> dict[str, Tensor]:
        """The stored logits of the probe, for every task that has them."""
        proofs = {entry["task"]: entry["probe"] for entry in self._state["records"] if entry["probe"]}
        return {task: store.read_tensors(self.path, proof["logits"])["logits"] for task, proof in proofs.items()}

    def sizes(self) -> dict[str, Any]:
        """The bytes on disk: "backbone", "per_task" (task -> what it added), "learner", "probe" and "json".

        A file that several share is counted where it came first, so that the sum is all that the folder holds.
        """
        return sizes_of(self.path, self._state)

    def verify(self, base: nn.Module | None = None) -> Verification:
        """Prove, for every task, that nothing was forgotten: by content, and by the logits of the probe.

        Args:
            base: as for ``model``; it is left alone.
        """
        failures: list[str] = []

        def attempt(read: Callable[[], Any]) -> Any:
            try:
                return read()
            except DamagedBank as error:
                failures.append(str(error))

        sites = attempt(lambda: self.model(copy.deepcopy(base)))
        batch = attempt(lambda: batch_of(self.path, self._state["probe"]))
        if self._state["learner"] is not None:
            attempt(self.learner)
        proofs = {}
        for entry in self._state["records"]:
            read = partial(read_record, self.path, self._state, entry)
            proofs[entry["task"]] = check_task(self.path, entry, read, sites, batch)
        return Verification(proofs, tuple(failures))

    def _finish(self, state: State) -> None:
        """Commit a state whose files are written, then delete those that nothing refers to."""
        head = store.as_json(_head(state), "the bank's json")
        store.write_json(self.path / store.COMMIT, head, FORMAT)
        self._state = {**head, "records": state["records"]}
        store.sweep(self.path, files_of(state))

    def _check_latest(self) -> None:
        if store.read_json(self.path / store.COMMIT, FORMAT) != _head(self._state):
            raise RuntimeError(f"expected {self.path} as it was when opened, found a later commit: open it again first")


def _head(state: State) -> State:
    """What ``bank.json`` says: everything, but of each record only the name of the file that its entry lies in."""
    return {**state, "records": [entry["file"] for entry in state["records"]]}
