"""What each of two processes does in the tests of DDP and FSDP2: learn two tasks with every method, and report."""

from __future__ import annotations

import copy
import traceback
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.contract import drive
from tests.contract.conftest import EVERY, SMALL, small_of
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from polymask.method.contract import Method

PROCESSES = 2
Phase = Callable[[Method, drive.Task], None]


def work(rank: int, names: list[str], folder: str) -> None:
    """Learn with methods under every strategy; what happened lies in ``folder`` then, one file a process."""
    torch.set_num_threads(1)
    warnings.simplefilter("default")  # what torch's wrappers warn of is no error here
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    found: dict[tuple[str, str], Any] = {}
    for (strategy, phase), name in product(STRATEGIES.items(), names):
        try:
            found[strategy, name] = learn(EVERY[name], phase, small_of(name))
        except Exception:  # noqa: BLE001 (whatever it is, the test of this method tells it)
            found[strategy, name] = traceback.format_exc()
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def learn(cls: type[Method], phase: Phase, backbone: str) -> dict[str, Any]:
    """Two tasks with heads of 3 and 5, every process on batches of its own; what is known of them afterwards."""
    method, _ = drive.make(cls, backbone)
    tasks = [drive.Task("a", method.example, 3), drive.Task("b", method.example, 5)]
    answers = {}
    for task in tasks:
        for name in method.phases:
            drive.begin(method, task, name)
            phase(method, task)
        method.end(task.name)
        answers[task.name] = drive.logits(method, task)
    later = {task: drive.logits(method, task) for task in answers}
    return {"exact": method.exact, "before": answers, "after": later, "known": known(method)}


def known(method: Method) -> dict[str, Tensor]:
    """The base, the records' tensors and the method's state."""
    found = {name: method.sites.base(name).clone() for name in method.sites.roles}
    for task, record in method.records.items():
        method.activate(task)
        found.update({f"{task} {name}": value for name, value in drive.tensors(method.model).items()})
        found.update({f"{task} mask {name}": packed.payload for name, packed in record.masks.items()})
    for key, values in method.state.items():
        found.update({f"state {key} {name}": value for name, value in values.items()})
    return found


def mine(task: drive.Task) -> drive.Task:
    """The task with this process's own batches."""
    return drive.Task(f"{task.name} of process {dist.get_rank()}", task.example, task.outputs)


def ddp_phase(method: Method, task: drive.Task) -> None:
    """Train the model itself, wrapped; slots are equal everywhere, so no buffer needs broadcasting."""
    wrapped = DistributedDataParallel(method.model, broadcast_buffers=False)
    with torch.autocast("cpu", torch.bfloat16):
        drive.train(method, mine(task), drive.adamw()(method), range(4), wrapped)


def fsdp_phase(method: Method, task: drive.Task) -> None:
    """Train a copy of the method on a model that is sharded layer by layer, then collect it."""
    twin = copy.deepcopy(method)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, output_dtype=torch.float32)
    for module in twin.model.children():
        if isinstance(module, nn.Linear):
            fully_shard(module, mesh=mesh, mp_policy=policy)
        elif isinstance(module, nn.BatchNorm1d):  # torch wants a norm's weights in the precision of its statistics
            fully_shard(module, mesh=mesh)
    fully_shard(twin.model, mesh=mesh, mp_policy=policy)
    for verb in (lambda: twin.begin("z"), lambda: twin.end(task.name)):
        with pytest.raises(RuntimeError, match="sharded"):
            verb()
    with torch.autocast("cpu", torch.bfloat16):
        drive.train(twin, mine(task), drive.adamw()(twin), range(4))
    method.collect(twin)


STRATEGIES: dict[str, Phase] = {"ddp": ddp_phase, "fsdp": fsdp_phase}


def refuse(rank: int, folder: str) -> None:
    """What one process alone has harmed is refused by all of them; the words of each lie in ``folder`` then."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    told = []

    def note(verb: Callable[[], object]) -> None:
        try:
            verb()
        except (ArithmeticError, RuntimeError) as error:
            told.append(f"{type(error).__name__}: {error}")
        else:
            told.append("")

    method, todo = drive.make(EVERY["packnet"], SMALL)
    for name in method.phases:
        drive.begin(method, todo[0], name)
        drive.train(method, todo[0], drive.adamw()(method), range(2))
    was = next(p for p in method.parameters() if p.ndim == 1).data
    kept = was.clone()
    if rank == 1:
        was.fill_(torch.nan)
    note(lambda: method.end("a"))
    was.copy_(kept)
    note(lambda: method.end("a"))
    name = next(iter(method.watch.held))
    before = method.sites.base(name).clone()
    if rank == 1:
        method.sites.write(name, before + 1)
    note(method.check)
    method.sites.write(name, before)
    note(method.check)
    torch.save(told, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
