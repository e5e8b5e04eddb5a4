"""A batch like an example, and what a network answers to it: what every proof by behaviour is made of."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymask.calling import call, logits_of, tensors_of
from polymask.parts.seeds import generator, seed_global

Spec = dict[str, Any]
Setting = dict[str, Any]


def describe(example: Any) -> Spec:
    """What of an example a probe is drawn from, as JSON: shapes, dtypes and ranges, no entry.

    Args:
        example: a tensor, or tensors in mappings, tuples and lists.

    Raises:
        ValueError: for a leaf that is neither a tensor nor a number, a boolean or None.

    >>> describe(torch.tensor([[1, 5]]))
    {'shape': [1, 2], 'dtype': 'int64', 'low': 1, 'high': 5}
    """
    if isinstance(example, Tensor):
        low, high = _range(torch.view_as_real(example.detach().resolve_conj()) if example.is_complex() else example)
        dtype = str(example.dtype).removeprefix("torch.")
        return {"shape": list(example.shape), "dtype": dtype, "low": low, "high": high}
    if isinstance(example, Mapping):
        return {"items": {str(name): describe(value) for name, value in example.items()}}
    if isinstance(example, tuple | list):
        return {"list": [describe(value) for value in example]}
    if example is None or isinstance(example, bool | int | float):
        return {"value": example}
    raise ValueError(
        f"expected an example of tensors and numbers, found {type(example).__name__}: give a batch as probe="
    )


def _range(example: Tensor) -> tuple[Any, Any]:
    values = example.detach().cpu()
    values = values[values.isfinite()] if values.dtype.is_floating_point else values
    if not values.numel():
        return 0, 0
    values = values.to(torch.float64 if values.dtype.is_floating_point else torch.int64)
    low, high = values.min().item(), values.max().item()
    if low == high and values.dtype.is_floating_point and example.ndim and values.numel() == example.numel():
        # Zeros stand for any input; a probe that is one number everywhere would see little.
        return low - 1, high + 1
    return low, high


def draw(spec: Spec, seed: int, rows: int | None = 8, name: str = "") -> Any:
    """Draw the batch of a spec: uniform within the range, entry by entry.

    Args:
        spec: from ``describe``.
        seed: the seed; every tensor has a draw of its own.
        rows: the batch's size; the first axis of every tensor. None: as many as the example had.
        name: where in the batch the spec stands.
    """
    if "items" in spec:
        return {key: draw(value, seed, rows, f"{name}/{key}") for key, value in spec["items"].items()}
    if "list" in spec:
        return tuple(draw(value, seed, rows, f"{name}/{place}") for place, value in enumerate(spec["list"]))
    if "value" in spec:
        return spec["value"]
    own, dtype = spec["shape"], getattr(torch, spec["dtype"])
    shape = [rows, *own[1:]] if own and rows is not None else own
    key = generator(seed, name, "probe")
    if dtype.is_complex:
        parts = torch.rand((*shape, 2), generator=key, dtype=torch.float64)
        return torch.view_as_complex(spec["low"] + parts * (spec["high"] - spec["low"])).to(dtype)
    if not dtype.is_floating_point:
        return torch.randint(int(spec["low"]), int(spec["high"]) + 1, shape, generator=key).to(dtype)
    unit = torch.rand(shape, generator=key, dtype=torch.float64)
    return (spec["low"] + unit * (spec["high"] - spec["low"])).to(dtype)


def probe_batch(example: Any, seed: int, rows: int = 8) -> Any:
    """A batch like an example: its structure, shapes, dtypes and ranges, but none of its entries.

    Args:
        example: a tensor, or tensors in mappings, tuples and lists; the first axis of each is the batch's.
        seed: the seed.
        rows: the batch's size.

    >>> batch = probe_batch({"ids": torch.tensor([[7, 9]])}, 0, rows=3)
    >>> batch["ids"].shape, bool((batch["ids"] >= 7).all() and (batch["ids"] <= 9).all())
    (torch.Size([3, 2]), True)
    """
    return draw(describe(example), seed, rows)


@torch.no_grad()
def run_probe(plain: nn.Module, batch: Any) -> Tensor:
    """The logits of a batch, in evaluation mode and without gradients, on the CPU.

    The modes of the model's modules and the global random state are put back.

    Args:
        plain: a baked model.
        batch: a tensor, or a tuple or mapping of arguments.
    """
    device, modes = _first(plain).device, {module: module.training for module in plain.modules()}
    plain.eval()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        output = call(plain, tensors_of(batch, lambda value: value.to(device)))
    # Through train(), where modules let go of what they keep in evaluation mode.
    plain.train()
    plain.train(modes[plain])
    for module, mode in modes.items():
        module.training = mode
    return logits_of(output).detach().cpu().clone()


def run_twice(plain: nn.Module, batch: Any) -> tuple[Tensor, bool]:
    """The logits of a batch, and whether a second run, from another random state, gives the same bits.

    Args:
        plain: a baked model.
        batch: a tensor, or a tuple or mapping of arguments.
    """
    device = _first(plain).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        logits = run_probe(plain, batch)
        seed_global(torch.initial_seed() + 1, device.type)
        again = run_probe(plain, batch)
    return logits, same_bits(logits, again)


def setting(plain: nn.Module, batch: Any) -> Setting:
    """All that the last bit of the logits depends on besides the model, as JSON.

    Args:
        plain: a baked model.
        batch: its batch.
    """
    first = _first(plain)
    wide = [p for p in plain.parameters() if p.ndim == 4]
    last = any(p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in wide)
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(first.device) if first.device.type == "cuda" else first.device.type,
        "dtype": str(first.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "cpu": f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "memory format": "channels_last" if last else "contiguous",
        "batch": _shapes(batch),
        "mode": "baked, eval, no_grad",
    }


def _first(model: nn.Module) -> Tensor:
    """The tensor that stands for a model's device and dtype."""
    tensors = [*model.parameters(), *model.buffers()]
    return next((t for t in tensors if t.is_floating_point()), tensors[0] if tensors else torch.empty(0))


@cache
def _processor() -> str:
    """The processor's model: two of one capability may still be given different kernels."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _shapes(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return list(batch.shape)
    if isinstance(batch, Mapping):
        return {name: _shapes(value) for name, value in batch.items()}
    return [_shapes(value) for value in batch] if isinstance(batch, tuple | list) else None


def differences(was: Setting, now: Setting) -> str:
    """What differs between two settings, for a reader; empty if nothing does.

    >>> differences({"threads": 1, "device": "cpu"}, {"threads": 2, "device": "cpu"})
    'threads 1 -> 2'
    """
    return ", ".join(f"{key} {was.get(key)} -> {now.get(key)}" for key in now if was.get(key) != now.get(key))


def rounding(logits: Tensor, changed: str) -> float:
    """How far logits may differ in another setting: ``sqrt(eps) * max(1, max |logits|)``.

    Args:
        logits: as they were.
        changed: what differs, from ``differences``.
    """
    eps = torch.finfo(logits.dtype).eps if logits.dtype.is_floating_point else 0.0
    # A GPU may multiply with the ten bits of TF32.
    eps = max(eps, 2.0**-10) if "device" in changed else eps
    largest = float(torch.where(logits.isfinite(), logits, 0).abs().max()) if logits.numel() else 0.0
    return float(eps**0.5 * max(1.0, largest))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same to the bit; a NaN is itself, and -0 is not 0.

    >>> same_bits(torch.zeros(1), -torch.zeros(1)), same_bits(torch.zeros(1) / 0, torch.zeros(1) / 0)
    (False, True)
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    x, y = (t.detach().cpu().contiguous().flatten() for t in (a, b))
    return not x.numel() or torch.equal(x.view(torch.uint8), y.view(torch.uint8))
