"""What a network brings, or is given later, that sites cannot serve: each is one sentence with the way out."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from polymask.sites.marks import is_marked
from polymask.sites.slots import WeightSite
from polymask.sites.table import Sites

COMPUTED = ("_g", "_v", "_orig")
"""How the older ways of computing a weight from others call what they compute it from."""


def refuse_foreign(model: nn.Module) -> None:
    """Raise if a tensor of a plain model has no shape yet or is sparse, or is computed by somebody else's hook.

    Args:
        model: a plain model.

    Raises:
        ValueError: it names the first such module.
    """
    for path, module in model.named_modules():
        if is_marked(module):
            raise ValueError("expected a plain model, found one with a method's sites: polymask.detach(model) first")
        tensors = {leaf: t for leaf, t in (*module._parameters.items(), *module._buffers.items()) if t is not None}
        if leaves := [leaf for leaf, t in tensors.items() if is_lazy(t)]:
            raise ValueError(
                f"expected parameters that have their shapes, found {leaves[0]!r} of {path!r} without one: call the "
                "model once on an example first"
            )
        if leaves := [leaf for leaf, t in tensors.items() if t.layout != torch.strided]:
            raise ValueError(
                f"expected dense parameters and buffers, found {leaves[0]!r} of {path!r} with the layout "
                f"{tensors[leaves[0]].layout}: register it dense (to_dense), or keep it as a plain attribute of the "
                "module, which belongs to no task"
            )
        old = [leaf for leaf in module._parameters if leaf.endswith(COMPUTED)]
        if parametrize.is_parametrized(module) or (old and module._forward_pre_hooks):
            raise ValueError(
                f"expected plain weights, found a weight or spectral norm, a pruning or another parametrization on "
                f"{path!r}: take it off first (torch.nn.utils.parametrize.remove_parametrizations, "
                "torch.nn.utils.remove_weight_norm, torch.nn.utils.prune.remove)"
            )


def find_foreign(sites: Sites, learned: bool = False) -> str | None:
    """What was put on an attached model since, in one sentence; None if nothing was.

    A parametrization, a norm or a pruning beside our sites, or a parameter assigned over a frozen tensor, would be
    read, or would learn, past what a method holds.

    Args:
        sites: the attached model's.
        learned: whether a task is finished, so that what learns with the first one is frozen as well.

    >>> from polymask.sites.table import Role, attach
    >>> net = nn.Linear(2, 2)
    >>> sites = attach(net, {"weight": Role("frozen", ""), "bias": Role("frozen", "")})
    >>> was, net.bias = find_foreign(sites), nn.Parameter(net.bias.detach())
    >>> was, find_foreign(sites).partition(",")[0]
    (None, "expected 'bias' to stay frozen")
    """
    for path, module in sites.model.named_modules():
        if not is_marked(module):
            continue
        stacks = module.parametrizations if parametrize.is_parametrized(module) else {}
        layered = [leaf for leaf, stack in stacks.items() if len(stack) > 1 or not isinstance(stack[0], WeightSite)]
        if layered or any(leaf.endswith(COMPUTED) for leaf in module._parameters if leaf not in _own(module)):
            return (
                f"expected {path!r} as it was attached, found another parametrization, a norm or a pruning on it: "
                "take it off again, or put it on before a method is made and remove it there (prune.remove keeps zeros)"
            )
    for name in sites.names("frozen", "first") if learned else sites.names("frozen"):
        if isinstance(sites.tensor(name), nn.Parameter):
            return (
                f"expected {name!r} to stay frozen, found a parameter assigned in its place: write into the tensor "
                "before a method is made, or load the state dict of the task's start"
            )
    return None


def _own(module: nn.Module) -> tuple[str, ...]:
    names: tuple[str, ...] = module.__dict__["_polymask"].parameters
    return names
