"""Copies of a network at work: from one random state, on inputs like the example, with other parameters."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polymask.calling import call, has_fractions, logits_of, noise_like, tensors_of
from polymask.copies.kept import is_equal
from polymask.parts.seeds import generator, seed_global

Values = dict[str, Tensor]

SMALL = 1 << 16
"""Entries up to which noise is added to a parameter; a larger one has its entries moved along, which costs less."""


@contextmanager
def own_random(model: nn.Module) -> Iterator[None]:
    """Put torch's, Python's and numpy's global generators back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (what users of the global one have)
    kind = _kind(model)
    devices = range(torch.get_device_module(kind).device_count()) if kind in ("cuda", "xpu") else ()
    try:
        with torch.random.fork_rng(list(devices), device_type=kind if devices else "cuda"):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _kind(model: nn.Module) -> str:
    return next((t.device.type for t in (*model.parameters(), *model.buffers())), "cpu")


def answer_of(model: nn.Module, x: Any, train: bool) -> Tensor:
    """The answer from one random state, always the same."""
    if model.training != train:
        model.train(train)
    # The generators of the model's own device alone: nobody puts another's back.
    seed_global(0, _kind(model))
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    with torch.set_grad_enabled(train):
        return logits_of(call(model, x)).detach()


def input_like(example: Any, key: int, cut: bool, noisy: bool) -> Any:
    """The example again: two of its rows, or all; fractions with noise, numbers moved along."""
    draw = generator("state", key)

    def other(t: Tensor) -> Tensor:
        if t.ndim and cut and len(t):
            t = t[[key % len(t), (key + 1) % len(t)]]
        if noisy and has_fractions(t):
            size = t.detach().abs().mean().nan_to_num(1.0, 1.0, 1.0) if t.numel() else torch.ones(())
            return t + noise_like(t, draw) * torch.where(size > 0, size, 1.0).to(t)
        if noisy and t.ndim > 1 and t.dtype != torch.bool and len(t.unique()) > 2:
            return t.roll(key, -1)
        return t

    return tensors_of(example, other)


def tensors_by_name(model: nn.Module) -> Values:
    """Every parameter and buffer under each of its names."""
    return {
        f"{path}.{leaf}".lstrip("."): t
        for path, module in model.named_modules()
        for leaf, t in (*module._parameters.items(), *module._buffers.items())
        if t is not None
    }


@torch.no_grad()
def give(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Write values into tensors; a buffer of another shape is replaced."""
    modules = dict(model.named_modules())
    for name, t in tensors_by_name(model).items():
        value = values.get(name)
        if value is None:
            continue
        if t.shape == value.shape:
            t.copy_(value)
            continue
        path, _, leaf = name.rpartition(".")
        if isinstance(t, nn.Parameter):
            modules[path]._parameters[leaf] = nn.Parameter(value.to(t, copy=True), t.requires_grad)
        else:
            modules[path]._buffers[leaf] = value.to(t, copy=True)


def take_changes(model: nn.Module, now: Values) -> Values:
    """The tensors that are not what they were, as they were; ``now`` is brought up to date."""
    found: Values = {}
    for name, t in tensors_by_name(model).items():
        if name not in now or not is_equal(now[name], t):
            found[name] = now.get(name, t.detach())
            now[name] = t.detach().clone()
    return found


@torch.no_grad()
def disturb(model: nn.Module) -> Values:
    """Move every parameter, near where it is or to another order of its entries; what they are then, not copied."""
    draw = generator("state", "parameters")
    parameters = {name: t for name, t in tensors_by_name(model).items() if isinstance(t, nn.Parameter)}
    for t in {id(t): t for t in parameters.values() if has_fractions(t)}.values():
        t.copy_(_other(t.detach(), draw))
    return {name: t.detach() for name, t in parameters.items()}


def _other(t: Tensor, draw: torch.Generator) -> Tensor:
    flat = t.flatten()
    if len(flat) > SMALL and not (flat[:SMALL] == flat[0]).all():
        return flat.roll(1).view(t.shape)
    return t + (t.abs() * 0.1 + 0.01) * noise_like(t, draw)
