"""What the verbs check at the door: their order, what they are called on, whether training reached the model."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import nn

from polymask.held import AlteredNetwork
from polymask.parts.narrow import BITS
from polymask.sites.foreign import find_foreign
from polymask.sites.marks import is_marked

if TYPE_CHECKING:
    from polymask.method.contract import Method


def check_begin(method: Method, task: str, phase: str) -> None:
    """Raise unless a task's phase may begin now."""
    refuse_wrapped(method.model)
    refuse_gone(method)
    refuse_detached(method)
    if not isinstance(task, str):
        raise TypeError(f"expected a task's name, found {task!r}: give a string, such as {str(task)!r}")
    if method.private_bits not in BITS or isinstance(method.private_bits, bool):
        raise ValueError(f"expected private_bits of {', '.join(map(str, BITS))}, found {method.private_bits!r}")
    if phase not in method.phases:
        raise ValueError(f"expected a phase of {', '.join(method.phases)}, found {phase!r}")
    refuse_shared(method)
    position = method.phases.index(phase)
    if position and (method.task != task or method.phase != method.phases[position - 1]):
        found = f"{method.phase!r} of {method.task!r}" if method.task else "no open task"
        raise RuntimeError(
            f"expected phase {method.phases[position - 1]!r} of task {task!r} before {phase!r}, found {found}"
        )
    if task in method.records and not method.reopens:
        raise RuntimeError(f"expected a new task, found {task!r}, which is finished: give the new task another name")


def refuse_shared(method: Method) -> None:
    """Raise if a method that keeps finished tasks to the bit was told to let what they read go on learning."""
    options = [f"{option}='shared'" for option, value in vars(method.policy).items() if value == "shared"]
    names = method.sites.names("shared")
    if method.exact is True and options and names:
        raise ValueError(
            f"expected options under which {method.name} can keep finished tasks to the bit, found "
            f"{' and '.join(options)}, with which {', '.join(names)} would go on learning: 'private' gives each task "
            "its own, 'frozen' keeps them as they are"
        )


def refuse_gone(method: Method) -> None:
    """Raise if a tensor with a role was taken out of the network, or replaced by None."""
    sites = method.sites
    if gone := [name for name in sites.roles if not all(spot.is_there for spot in sites.spots(name))]:
        raise AlteredNetwork(
            f"expected every tensor that the network was attached with, found that {', '.join(map(repr, gone[:4]))} "
            f"{'is' if len(gone) == 1 else 'are'} gone: put it back as it was, or learn on a network made without it"
        )


def check_end(method: Method, task: str) -> None:
    """Raise unless the open task may end now."""
    expect_open(method, "end")
    refuse_wrapped(method.model)
    refuse_gone(method)
    refuse_detached(method)
    if task != method.task:
        raise RuntimeError(f"expected the open task {method.task!r}, found {task!r}")
    if method.phase != method.phases[-1]:
        following = method.phases[method.phases.index(str(method.phase)) + 1]
        raise RuntimeError(f"expected begin({task!r}, {following!r}) before end, found phase {method.phase!r} open")
    if method.anneals and not method.steps:
        raise RuntimeError("expected on_step(progress) before every optimizer step, found no call in this phase")


def expect_open(method: Method, verb: str) -> None:
    """Raise unless a task is open."""
    if method.task is None:
        raise RuntimeError(f"expected an open task for {verb}, found none: begin(task) first")


def warn_unmoved(method: Method) -> None:
    """Warn, by name, of parameters that no optimizer step reached in the phase that ends."""
    still = [name for name, p in method.named_parameters() if p._version == method.versions.get(name, -1)]
    if still:
        warnings.warn(
            f"task {method.task!r} ends although these never moved: {', '.join(still)}. Was the optimizer made from "
            "method.named_parameters() after this phase's begin()?",
            stacklevel=4,
        )


def refuse_detached(method: Method) -> None:
    """Raise if sites were taken off the model, or others put on: what is read is then not what is held."""
    off = [name for name in method.sites.roles if not all(is_marked(spot.module) for spot in method.sites.spots(name))]
    if off:
        raise RuntimeError(
            f"expected the model with its sites, found {off[0]!r} without (detach?): make the method anew on the plain "
            "network, and go on from a bank or from state_dict() and records"
        )
    if (found := find_foreign(method.sites, learned=method.count > 0)) is not None:
        raise ValueError(found)


def refuse_wrapped(model: nn.Module) -> None:
    """Raise if a model is wrapped or sharded: verbs run on the plain model."""
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise RuntimeError(
            f"expected the plain model, found {type(model).__name__}: wrap it after begin(), unwrap it before"
        )
    if any(type(parameter).__name__ == "DTensor" for parameter in model.parameters()):
        raise RuntimeError(
            "expected a plain model, found a sharded one: after begin(), shard the model of copy.deepcopy(method), "
            "train it, and bring it back with method.collect(the copy) before the next verb"
        )
