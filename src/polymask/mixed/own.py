"""What tasks have of their own in one layer: private tensors, parts of what grows, gains, masks on units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from polymask.parts.binarize import leading
from polymask.parts.pack import unpack
from polymask.sites.table import Sites
from polymask.task import TaskRecord


@dataclass(frozen=True)
class Own:
    """What the tasks have of their own in one layer; an entry per task, as wide as the layer is now.

    Args:
        count: how many tasks there are.
        tensors: leaf -> the tensors of all tasks, of the leaves that they have of their own.
        rows: leaf -> what the rows of this weight are multiplied by, (tasks, units); of others, by 1.
        gate: what the output's units are multiplied by, (tasks, units); None: by 1.
        head: whether every task has as many outputs here as it has labels.
    """

    count: int
    tensors: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    gate: Tensor | None = None
    head: bool = False

    def stack(self, leaf: str, base: Tensor) -> Tensor:
        """A leaf of all tasks, (tasks, ...): as large as the layer is now, of a head with the rows of the widest."""
        least = (0, *base.shape[1:]) if self.head and base.ndim else base.shape
        return padded(self.tensors.get(leaf) or [base.detach()] * self.count, least)

    def beyond(self, leaf: str, rows: int) -> Tensor:
        """Which of so many rows of a leaf a task does not have, (tasks, rows)."""
        sizes = torch.tensor([len(t) for t in self.tensors[leaf]], device=self.tensors[leaf][0].device)
        return torch.arange(rows, device=sizes.device) >= sizes[:, None]

    def changes(self, leaf: str) -> bool:
        """Whether tasks read another tensor under this name than the one that stands there."""
        return leaf in self.tensors or leaf in self.rows


def padded(tensors: Sequence[Tensor], least: Sequence[int] = ()) -> Tensor:
    """Tensors of different sizes in one, with zeros at the end of what is smaller.

    >>> padded([torch.ones(1), torch.ones(2)])
    tensor([[1., 0.],
            [1., 1.]])
    """
    shape = [max(sizes) for sizes in zip(*(t.shape for t in tensors), least or tensors[0].shape, strict=True)]
    out = tensors[0].new_zeros(len(tensors), *shape)
    for place, t in enumerate(tensors):
        out[place][tuple(slice(size) for size in t.shape)] = t
    return out


def own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The parameters and buffers that stand in a module itself."""
    every = (*module._parameters.items(), *module._buffers.items())
    return [(leaf, t) for leaf, t in every if t is not None]


def own_of(
    module: nn.Module,
    leaves: Mapping[str, str],
    records: Sequence[TaskRecord],
    gates: Sequence[Tensor | None],
    head: bool = False,
) -> Own:
    """What tasks have of their own in a module: private tensors, leading blocks with their gains, masks on units."""
    tensors: dict[str, list[Tensor]] = {}
    rows: dict[str, Tensor] = {}
    for leaf, name in leaves.items():
        base = getattr(module, leaf).detach()
        private = any(name in record.private for record in records)
        masked = any(name in record.masks for record in records)
        if private or (masked and base.ndim < 2):
            tensors[leaf] = [_of(name, base, record) for record in records]
        elif masked:
            rows[leaf] = padded([_gains(record, name, base) for record in records], base.shape[:1])
    live = [gate for gate in gates if gate is not None]
    gate = None
    if live:
        like = next(t for _, t in own_tensors(module) if t.is_floating_point() or t.is_complex())
        gate = torch.stack([torch.ones_like(live[0]) if one is None else one for one in gates]).to(like.real)
    return Own(len(records), tensors, rows, gate, head)


def _of(name: str, base: Tensor, record: TaskRecord) -> Tensor:
    """A tensor as a task has it: its own, or its part of the shared one."""
    if name in record.private:
        return record.private[name].to(base)
    if name not in record.masks:
        return base
    mask = unpack(record.masks[name]).to(base.device)
    return leading(base, mask) * mask


def _gains(record: TaskRecord, name: str, base: Tensor) -> Tensor:
    """What a task multiplies the rows of a weight by: 1 or a gain in the block that it reads, 0 outside."""
    if name not in record.masks:
        return base.new_ones(len(base))
    gains = unpack(record.masks[name]).to(base).flatten(1)[:, 0]
    return gains.expand(len(base)) if len(gains) == 1 else gains


def refuse_weight_masks(sites: Sites, record: TaskRecord) -> None:
    """Refuse what needs a product per task."""
    masks = ((name, one) for name, one in record.masks.items() if name in sites.weights)
    single = [name for name, one in masks if one.codec != "block" and (one.codec, one.bits) != ("scaled", 0)]
    if found := [*single, *record.deltas]:
        raise ValueError(
            f"expected tasks that share every weight, found that {record.meta.task!r} reads {found[0]!r} under a mask "
            "on single weights: group the batch by task, and activate(task) or switch(...) for each"
        )
