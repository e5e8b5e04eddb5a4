"""How a layer answers rows of different tasks at once: by scales and shifts of its units, or by heads of their own."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from polymask.copies.kept import refresh_caches
from polymask.mixed.own import Own

PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

Spread = Callable[[Tensor, Tensor], Tensor]
"""``(a row of values per task, an activation) -> the values per position of it``."""
Form = Callable[[Tensor, Spread], Tensor]
"""``(input, spread) -> output``, every position as its own task."""


def times(*factors: Tensor | None) -> Tensor | None:
    """The product of those factors that are there."""
    there = [factor for factor in factors if factor is not None]
    return functools.reduce(torch.mul, there) if there else None


def form_of(module: nn.Module, own: Own) -> Form | None:
    """How a layer answers, by its exact class; None: it has no form of its own here."""
    kind = type(module)
    if kind in BATCH and isinstance(module.running_mean, Tensor):
        return _batch_norm(module, own)
    if kind is nn.GroupNorm or (kind is nn.LayerNorm and len(module.normalized_shape) == 1):  # type: ignore[arg-type]
        return _norm(module, own)
    if kind is nn.Linear and "weight" in own.tensors:
        return _heads(module, own)
    return _product(module, own) if kind in PRODUCTS and "weight" not in own.tensors else None


def _product(module: Any, own: Own) -> Form:
    """``gate * (rows * W x + bias)``: one product for all tasks."""
    plain, scale = module.forward, times(own.rows.get("weight"), own.gate)
    if not own.rows and "bias" not in own.tensors:

        def gated(x: Tensor, spread: Spread) -> Tensor:
            y: Tensor = plain(x)
            return y if scale is None else y.mul_(spread(scale, y))

        return gated
    shift = None if module.bias is None else times(own.stack("bias", module.bias), own.gate)

    def run(x: Tensor, spread: Spread) -> Tensor:
        y = F.linear(x, module.weight) if type(module) is nn.Linear else module._conv_forward(x, module.weight, None)
        return _affine(y, scale, shift, spread)

    return run


def _affine(y: Tensor, scale: Tensor | None, shift: Tensor | None, spread: Spread) -> Tensor:
    if scale is None or shift is None:
        y = y if scale is None else y * spread(scale, y)
        return y if shift is None else y + spread(shift, y)
    return torch.addcmul(spread(shift, y), y, spread(scale, y))


def _batch_norm(module: Any, own: Own) -> Form:
    """``gate * (gamma (x - mean) / sqrt(var + eps) + beta)``, as a scale and a shift of every unit."""
    mean, var = own.stack("running_mean", module.running_mean), own.stack("running_var", module.running_var)
    scale = (var + module.eps).rsqrt()
    if module.affine:
        scale = scale * own.stack("weight", module.weight)
    shift = -mean * scale + (own.stack("bias", module.bias) if module.affine else 0)
    scale, shift = times(scale, own.gate), times(shift, own.gate)
    return lambda x, spread: _affine(x, scale, shift, spread)


def _norm(module: Any, own: Own) -> Form:
    """The norm without its affine part, then every task's own."""
    scale = times(own.stack("weight", module.weight) if module.weight is not None else None, own.gate)
    shift = times(own.stack("bias", module.bias), own.gate) if module.bias is not None else None

    def run(x: Tensor, spread: Spread) -> Tensor:
        if type(module) is nn.GroupNorm:
            y = F.group_norm(x, module.num_groups, None, None, module.eps)
        else:
            y = F.layer_norm(x, module.normalized_shape, None, None, module.eps)
        return _affine(y, scale, shift, spread)

    return run


def _heads(module: Any, own: Own) -> Form:
    """Every position by its own task's matrix; outputs beyond a task's own are -inf."""
    weights = own.stack("weight", module.weight)
    bias = own.stack("bias", module.bias) if module.bias is not None else None
    beyond = own.beyond("weight", weights.shape[1])
    narrower = bool(beyond.any())

    def run(x: Tensor, spread: Spread) -> Tensor:
        found = spread(weights.flatten(1), x)
        y = torch.einsum("...of,...f->...o", found.unflatten(-1, weights.shape[1:]), x)
        y = y if bias is None else y + spread(bias, x)
        return y.masked_fill(spread(beyond, x), -torch.inf) if narrower else y

    return run


def per_task(module: nn.Module, own: Own) -> Form:
    """Any module: it is asked once for every task of the batch, with this task's samples and tensors."""
    plain, lock = _without_hooks(module), threading.RLock()
    stacks = {leaf: own.stack(leaf, getattr(module, leaf)) for leaf in own.tensors}
    uneven = next((leaf for leaf, each in own.tensors.items() if own.head and len({t.shape[:1] for t in each}) > 1), "")
    beyond = own.beyond(uneven, stacks[uneven].shape[1]) if uneven else None

    def tensors_of(task: int) -> dict[str, Tensor]:
        bases = {leaf: getattr(module, leaf).detach() for leaf in own.rows}
        masked = {leaf: w * own.rows[leaf][task].view(-1, *[1] * (w.ndim - 1)) for leaf, w in bases.items()}
        return masked | {leaf: each[task] for leaf, each in stacks.items()}

    def run(x: Tensor, spread: Spread) -> Tensor:
        if not (stacks or own.rows):
            y: Tensor = plain(x)
        else:
            y = _each(x, spread(torch.arange(own.count, device=x.device)[:, None], x).flatten())
        y = y if own.gate is None else y * spread(own.gate, y)
        return y if beyond is None else y.masked_fill(spread(beyond, y), -torch.inf)

    def _each(x: Tensor, tasks: Tensor) -> Tensor:
        order = tasks.expand(len(x)).argsort(stable=True)
        present, counts = tasks.expand(len(x)).unique(return_counts=True)
        parts = []  # of no samples at all: what any task answers of none
        for task, rows in zip(present.tolist() or [0], order.split(counts.tolist() or [0]), strict=True):
            with lock:  # meanwhile it holds a task's tensors, which no other thread's samples may be given
                with refresh_caches(plain):  # what it has cached is the last task's
                    pass
                parts.append(functional_call(plain, tensors_of(task), (x[rows],)))
            if not isinstance(parts[-1], Tensor):
                raise ValueError(
                    f"expected a tensor from {type(plain).__name__}, of which tasks have their own, found "
                    f"{type(parts[-1]).__name__}: answer one task at a time, with activate(task)"
                )
        return torch.cat(parts)[order.argsort()]

    return run


def _without_hooks(module: nn.Module) -> nn.Module:
    """A copy of a module that holds the very modules inside it, which answer for tasks themselves.

    Its hooks run where the module itself is called.
    """
    plain = copy.deepcopy(module, {id(inner): inner for inner in module.modules() if inner is not module})
    plain._forward_pre_hooks.clear()
    plain._forward_hooks.clear()
    return plain
