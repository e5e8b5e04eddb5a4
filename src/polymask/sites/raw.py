"""Parameters that a forward reads past their place: kept in a list, a closure or a partial, or as a view."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from polymask.copies.kept import copy_memo, twin
from polymask.sites.trace import places


def copy_with_views(model: nn.Module) -> nn.Module:
    """A deep copy in which a tensor that shares a parameter's memory shares that of the copy's parameter.

    Raises:
        ValueError: if something in the model cannot be copied.

    >>> net = nn.Linear(2, 2)
    >>> net.turned = net.weight.detach().t()
    >>> twin = copy_with_views(net)
    >>> twin.turned.data_ptr() == twin.weight.data_ptr() != net.weight.data_ptr()
    True
    """
    memo = copy_memo(model)
    try:
        for p in model.parameters():
            other = copy.deepcopy(p, memo)
            if _owns(p) and _owns(other):
                # Where torch looks for storages that a copy has copied already; of parameters it notes none.
                memo.setdefault("torch", {})[p.untyped_storage()._cdata] = other.untyped_storage()  # type: ignore[call-overload]
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as error:
        with suppress(RuntimeError, TypeError):
            twin(model)  # which names what cannot be copied, if it cannot either
        raise ValueError(
            f"expected a model that copy.deepcopy copies, found one that it does not ({error}): keep nothing that was "
            "computed from a parameter, and no open file or lock, as an attribute, and compute it in forward"
        ) from error


def _owns(p: Tensor) -> bool:
    """Whether a parameter's memory is its own from end to end, so that a copy's has the same layout."""
    if p.layout is not torch.strided or p.device.type == "meta" or type(p) is not nn.Parameter:
        return False
    return p.untyped_storage().nbytes() == p.numel() * p.element_size() > 0


def replace_parameters(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """Put a copy in every place of some parameters; what stood there, by name: whoever still reads that kept it.

    Args:
        model: a plain model; it changes.
        names: of parameters, as ``places`` names them.
    """
    where, was = places(model), {}
    for name in names:
        was[name] = old = where[name][0].tensor()
        new = nn.Parameter(old.detach().clone(), old.requires_grad)
        for place in where[name]:
            place.replace(new)
    return was


class ReadLog(TorchDispatchMode):
    """Notes which of some tensors any operation reads, through whatever view of their memory.

    Args:
        tensors: name -> tensor.

    >>> w = torch.ones(2, 2)
    >>> with ReadLog({"w": w}) as log:
    ...     w.shape, torch.ones(2) @ w.t()
    (torch.Size([2, 2]), tensor([2., 2.]))
    >>> log.seen
    {'w'}
    """

    supports_higher_order_operators = True

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = {_memory(tensor): name for name, tensor in tensors.items() if _memory(tensor)}
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and note what it reads."""
        for tensor in _tensors((args, kwargs)):
            name = self.names.get(_memory(tensor))
            if name is not None:
                self.seen.add(name)
        return func(*args, **(kwargs or {}))


def _memory(tensor: Tensor) -> int:
    """Where a tensor's memory starts; 0 of one without."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)


@torch.no_grad()
def decides(tensor: Tensor, answers: Callable[[], list[Tensor]]) -> bool:
    """Whether some answers depend on a tensor's memory; the tensor ends as it was.

    Args:
        tensor: what is overwritten for a while.
        answers: what may read it.
    """
    before, was = answers(), tensor.clone()
    tensor.copy_(~was if was.dtype == torch.bool else 1 - 2 * was)
    after = answers()
    tensor.copy_(was)
    return not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, after, strict=True))
