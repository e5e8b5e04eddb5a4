"""How a network is called and what it answers: examples and outputs that are tensors, tuples or mappings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)
"""What a network raises when it is called with what it does not take."""


def call(model: nn.Module, x: Any) -> Any:
    """Call a model on a tensor, on a tuple (positional arguments) or on a mapping (keyword arguments).

    >>> call(nn.Identity(), torch.ones(1))
    tensor([1.])
    """
    if isinstance(x, Mapping):
        return model(**x)
    return model(*x) if isinstance(x, (tuple, list)) else model(x)


def logits_of(output: Any) -> Tensor:
    """The logits in a model's output: the tensor itself, or what stands under ``logits`` in a mapping.

    Raises:
        TypeError: if the output is neither.

    >>> logits_of({"logits": torch.ones(1), "loss": None})
    tensor([1.])
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        found: Tensor = output["logits"]
        return found
    raise TypeError(
        f"expected the model to return a tensor or a mapping with 'logits', found {type(output).__name__}: "
        "wrap it in a module that returns its logits"
    )


def tensors_of(x: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nested tuples, lists and mappings with every tensor changed; other leaves stay.

    >>> tensors_of({"a": (torch.ones(1), 3)}, lambda t: t * 2)
    {'a': (tensor([2.]), 3)}
    """
    if isinstance(x, Tensor):
        return change(x)
    if isinstance(x, Mapping):
        return {key: tensors_of(value, change) for key, value in x.items()}
    if isinstance(x, (tuple, list)):
        return type(x)(tensors_of(value, change) for value in x)
    return x


def leaves_of(x: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and mappings.

    >>> leaves_of({"a": (torch.ones(1), 3)})
    [tensor([1.])]
    """
    found: list[Tensor] = []

    def note(t: Tensor) -> Tensor:
        found.append(t)
        return t

    tensors_of(x, note)
    return found


def two_rows(x: Any) -> Any:
    """An example brought to two rows, so that batch statistics exist."""
    return tensors_of(x, lambda t: torch.cat([t[:1], t[:1]]) if t.ndim else t)


def run_as_accepted(example: Any, run: Callable[[Any], T]) -> T:
    """What ``run`` returns of an example at two rows, or of the example's own batch where these are refused.

    Two rows are cheap, and batch statistics exist; but the tensors of a graph have no common batch to cut, and a queue
    takes whole batches alone.

    Raises:
        ValueError: if both are refused.

    >>> run_as_accepted(torch.zeros(3, 2), len), run_as_accepted(torch.zeros(3, 2), lambda x: x[2].tolist())
    (2, [0.0, 0.0])
    """
    try:
        return run(two_rows(example))
    except REFUSALS:
        pass
    try:
        return run(example)
    except REFUSALS as error:
        raise ValueError(
            f"expected an example that the model accepts, found one that it refuses ({error}): "
            "pass an example of one input batch, a tuple of arguments or a mapping of keyword arguments"
        ) from error


@torch.no_grad()
def accepted_input(model: nn.Module, example: Any) -> Any:
    """The example as a model takes it in training and in evaluation mode: at two rows, else as it was given.

    Args:
        model: a copy that may run forward; it ends in evaluation mode.
        example: an input: a tensor, a tuple of arguments or a mapping of keyword arguments.

    Raises:
        ValueError: if the model refuses it.

    >>> accepted_input(nn.Linear(2, 1), torch.zeros(3, 2)).shape
    torch.Size([2, 2])
    """

    def run(x: Any) -> Any:
        with torch.random.fork_rng():
            for mode in (True, False):
                call(model.train(mode), x)
        return x

    return run_as_accepted(example, run)


def has_fractions(t: Tensor) -> bool:
    """Whether a tensor's entries are fractions, real or complex, and not whole numbers or flags."""
    return t.is_floating_point() or t.is_complex()


def noise_like(t: Tensor, draw: torch.Generator) -> Tensor:
    """Standard normal entries in a tensor's shape and kind, complex ones too.

    >>> noise_like(torch.zeros(2, dtype=torch.complex64), torch.Generator().manual_seed(0)).dtype
    torch.complex64
    """
    kind = torch.complex64 if t.is_complex() else torch.float32
    return torch.randn(t.shape, generator=draw, dtype=kind).to(t)


def draw_fractions(example: Any, draw: torch.Generator) -> Any:
    """An example whose fractions are standard normal; integers and flags stay.

    >>> draw_fractions((torch.zeros(1), torch.tensor([3])), torch.Generator().manual_seed(0))
    (tensor([1.5410]), tensor([3]))
    """

    def fresh(t: Tensor) -> Tensor:
        return noise_like(t, draw) if has_fractions(t) else t

    return tensors_of(example, fresh)


def as_read(model: nn.Module, x: Any) -> Any:
    """Inputs in the precision of a model whose weights are not float32; what is no fraction stays as it is.

    >>> as_read(nn.Linear(2, 1).bfloat16(), (torch.ones(1, 2), torch.tensor([3])))
    (tensor([[1., 1.]], dtype=torch.bfloat16), tensor([3]))
    """
    dtype = next((p.dtype for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()), torch.float32)
    return tensors_of(x, lambda t: t.to(dtype) if t.is_floating_point() else t)
