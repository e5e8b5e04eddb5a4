"""Where the branches of a network's layers join their residual stream: the places of adapters.

A transformer layer adds two branches to its stream, attention and feed-forward; adapters (Houlsby et al. 2019) and CTR
(Ke et al. 2021) stand at the end of each, before the addition. Where that is, is asked of the network: an addition
of two like tensors, of which one was computed from the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from polymask.calling import REFUSALS, as_read, call, run_as_accepted, tensors_of, two_rows
from polymask.copies.kept import twin
from polymask.sites.foreign import refuse_foreign

ADDS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)


NESTED = (
    "expected (N, L, width) from a layer, found a nested tensor, in which no token has a place of its own: build "
    "nn.TransformerEncoder with enable_nested_tensor=False, or set its use_nested_tensor to False"
)


class CannotPlug(ValueError):  # noqa: N818 - the name says what is wrong
    """A network without places for adapters: its layers add no branches to sequences, or share their modules."""


@dataclass(frozen=True)
class Joint:
    """Where a branch joins the stream.

    Args:
        module: the last module of the branch; what is plugged in changes its output.
        width: of the stream.
    """

    module: str
    width: int


def find_joints(host: nn.Module, example: Any) -> list[Joint]:
    """Where the branches of a network's layers join their stream, in the order of the forward; two a layer.

    Args:
        host: a network whose layers add branches to sequences (N, L, width); left alone.
        example: an input that it accepts.

    Raises:
        CannotPlug: if no branch joins a stream of sequences, or layers share their modules.
        ValueError: if the example does not pass, or weights are computed by somebody else's hook.

    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> find_joints(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), torch.zeros(1, 3, 8))
    [Joint(module='layers.0.dropout1', width=8), Joint(module='layers.0.dropout2', width=8)]
    """
    refuse_foreign(host)
    plain = twin(host).eval()
    names = {module: name for name, module in plain.named_modules()}
    watch = run_as_accepted(as_read(plain, example), lambda x: _followed(plain, x))
    found = []
    for branch in watch.branches:
        makers = [module for module in watch.makers.get(id(branch), ()) if not isinstance(module, nn.Sequential)]
        if not makers:
            continue
        own = [module for module in makers if watch.calls[module] == 1]
        if not own:
            raise CannotPlug(
                f"expected layers of their own, found {names[makers[-1]]!r} called {watch.calls[makers[-1]]} times in "
                "one forward: what is plugged into shared layers would serve all of them at once"
            )
        found.append(Joint(names[own[-1]], branch.shape[-1]))
    if not found:
        raise CannotPlug(
            "expected a network whose layers add branches to a stream of sequences (N, L, width), found no such "
            "addition: adapters have no place in it, take a transformer"
        )
    return found


def refuse_tokens_first(host: nn.Module, example: Any, joints: Sequence[Joint]) -> None:
    """Check that samples lie on the first axis of every stream, for what looks at a sample as a whole.

    Raises:
        CannotPlug: if tokens come first, so that it would read one token of all samples.
    """
    plain = twin(host).eval()
    shapes: dict[str, list[int]] = {joint.module: [] for joint in joints}
    for name, seen in shapes.items():
        plain.get_submodule(name).register_forward_hook(lambda _, args, output, seen=seen: seen.append(len(output)))
    example = as_read(plain, example)
    one, two = tensors_of(example, lambda t: t[:1] if t.ndim else t), two_rows(example)
    with torch.no_grad(), suppress(*REFUSALS):
        call(plain, one)
        call(plain, two)
    for name, counts in shapes.items():
        if len(counts) == 2 and counts[1] != 2 * counts[0]:
            raise CannotPlug(
                f"expected samples on the first axis of what {name!r} gives, found {counts[0]} there for one sample "
                f"and {counts[1]} for two: build the network with batch_first=True"
            )


def _followed(plain: nn.Module, x: Any) -> _Watch:
    """What was seen of one forward."""
    watch = _Watch()
    hooks = [module.register_forward_hook(watch.note) for module in plain.modules()]
    try:
        with torch.no_grad(), watch:
            call(plain, x)
    finally:
        for hook in hooks:
            hook.remove()
    return watch


class _Watch(TorchDispatchMode):
    """Follow which tensor was computed from which, and which module gave it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.branches: list[Tensor] = []
        self.makers: dict[int, list[nn.Module]] = {}
        self.calls: dict[nn.Module, int] = {}
        self.held: list[Any] = []  # what is let go gives its id to another
        self.sources: dict[int, set[int]] = {}

    def note(self, module: nn.Module, _: Any, output: Any) -> None:
        """A module has given something."""
        self.calls[module] = self.calls.get(module, 0) + 1
        if isinstance(output, Tensor):
            self.held.append(output)
            self.makers.setdefault(id(output), []).append(module)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and note what it made of what."""
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func in ADDS:
            self._look(*args[:2])
        made = func(*args, **(kwargs or {}))
        before = set().union(*(self.sources.get(id(tensor), set()) | {id(tensor)} for tensor in given))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.sources[id(tensor)] = self.sources.get(id(tensor), set()) | before
        self.held += [given, made]
        return made

    def _look(self, one: Any, other: Any) -> None:
        if not (isinstance(one, Tensor) and isinstance(other, Tensor) and one.is_floating_point()):
            return
        if one.is_nested:
            raise CannotPlug(NESTED)
        if one.shape == other.shape and one.ndim == 3:
            for stream, branch in ((one, other), (other, one)):
                if id(stream) in self.sources.get(id(branch), ()) and id(branch) in self.makers:
                    self.branches.append(branch)
                    return
