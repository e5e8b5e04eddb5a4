"""WSN's capacity: the share of weights that any task uses, and what all masks cost as one Huffman code."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Capacity:
    """How much of a network its tasks take.

    Args:
        tasks: how many there are, ``T``.
        weights: how many weights are masked, ``n``.
        used: the fraction of them that at least one task reads, ``1 - S``.
        code_bits: the bits of all masks as one Huffman code, its table not counted.
    """

    tasks: int
    weights: int
    used: float
    code_bits: int

    @property
    def compression(self) -> float:
        """The rate ``alpha = 1 - code_bits / (n T)`` at which the code is smaller than a bit a weight and task."""
        return 1 - self.code_bits / (self.weights * self.tasks)

    @property
    def capacity(self) -> float:
        """``CAP = (1 - S) + (1 - alpha) T / 32``: in units of the network's own 32-bit weights."""
        return self.used + (1 - self.compression) * self.tasks / 32


def capacity(tasks: Sequence[Mapping[str, Tensor]]) -> Capacity:
    """The capacity of some tasks by the definition of WSN (Kang et al. 2022, section 4).

    A weight's symbol is the integer whose bit ``t`` says whether task ``t`` reads it; one Huffman code serves all
    layers. Heads, norms and biases do not count. What a bank really takes is ``Bank.sizes``.

    Args:
        tasks: of each task, name -> mask; the same names and shapes in all of them.

    Raises:
        ValueError: if there is no task, or two differ in names or shapes.

    >>> first, second = torch.tensor([True, True, False, False]), torch.tensor([True, False, False, False])
    >>> found = capacity([{"w": first}, {"w": second}])
    >>> found.used, found.code_bits, found.compression, found.capacity
    (0.5, 6, 0.25, 0.546875)
    """
    if not tasks:
        raise ValueError("expected the masks of at least one task, found none")
    shapes = [{name: tuple(mask.shape) for name, mask in masks.items()} for masks in tasks]
    if any(other != shapes[0] for other in shapes):
        raise ValueError("expected masks of the same weights in every task, found tasks that differ in names or shapes")
    rows = [torch.cat([masks[name].bool().flatten() for name in shapes[0]]) for masks in tasks]
    symbols = torch.zeros(rows[0].numel(), dtype=torch.int64)
    for row in rows:
        # Numbered anew at every task: beyond 63 tasks the integer itself would not fit.
        symbols = (symbols * 2 + row).unique(return_inverse=True)[1]
    used = torch.stack(rows).any(0).float().mean()
    return Capacity(len(rows), len(symbols), float(used), huffman_bits(symbols.bincount().tolist()))


def huffman_bits(counts: Iterable[int]) -> int:
    """The length of a text under its own Huffman code, from how often each of its symbols occurs (Huffman 1952).

    The sum of all inner nodes of the tree; a text of one symbol takes a bit an occurrence.

    >>> huffman_bits([4, 2, 1, 1]), huffman_bits([5])
    (14, 5)
    """
    heap = [count for count in counts if count]
    if len(heap) == 1:
        return heap[0]
    heapq.heapify(heap)
    bits = 0
    while len(heap) > 1:
        node = heapq.heappop(heap) + heapq.heappop(heap)
        bits += node
        heapq.heappush(heap, node)
    return bits
