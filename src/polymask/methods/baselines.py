"""What a mask method is measured against: fine-tuning, linear probes and independent networks, by the same contract."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from torch import nn

from polymask.method.card import Card, Recipe
from polymask.method.contract import Method
from polymask.sites.roles import Policy

_NONE = {"masks": "-", "values": "-", "chosen": "-", "overlap": "-", "sparsity": "-"}


class Finetune(Method):
    """One network that goes on training, a head per task: what forgetting looks like.

    Args:
        model: any module; all of it trains.
        example: an input that it accepts.
        head: the name of the head module; None: the last weight read before the output.
        seed: key of every random draw.
    """

    name = "finetune"
    card = Card(source="baseline", backbone="trained", scenarios=("GG",), stores="nothing", exact=None, **_NONE)
    recipes: ClassVar[dict[str, Recipe]] = {"train": Recipe()}

    def __init__(self, model: nn.Module, example: Any, *, head: str | None = None, seed: int = 0) -> None:
        policy = Policy("shared", "shared", "shared", "shared")
        super().__init__(model, example, policy, head=head, seed=seed)

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        """Nothing: shared tensors train without a gate."""


class LinearProbe(Method):
    """A frozen network, a trained head per task: the floor that a mask has to beat.

    Args:
        model: any module.
        example: an input that it accepts.
        head: the name of the head module; None: the last weight read before the output.
        seed: key of every random draw.
        backbone: "given": the model's weights as they are; "first-task": trained with the first task, then frozen.
        norms: "frozen" with the network, or "private": a task trains norms of its own beside its head, the control for
            masks whose norms are private.
    """

    name = "linear_probe"
    card = Card(source="baseline", backbone="frozen", scenarios=("GG",), stores="nothing", exact=True, **_NONE)
    recipes: ClassVar[dict[str, Recipe]] = {"train": Recipe()}

    def __init__(
        self,
        model: nn.Module,
        example: Any,
        *,
        head: str | None = None,
        seed: int = 0,
        backbone: Literal["given", "first-task"] = "given",
        norms: Literal["frozen", "private"] = "frozen",
    ) -> None:
        kind: Literal["first", "frozen"] = "first" if backbone == "first-task" else "frozen"
        policy = Policy(kind, kind, kind if norms == "frozen" else "private", kind)
        super().__init__(model, example, policy, head=head, seed=seed)

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        """Nothing: the head, and private norms, train without a gate."""


class Independent(Method):
    """A network of its own for every task, each from the same start: the ceiling, at full size.

    Args:
        model: any module.
        example: an input that it accepts.
        head: the name of the head module; None: the last weight read before the output.
        seed: key of every random draw.
    """

    name = "independent"
    card = Card(source="baseline", backbone="private", scenarios=("GG",), stores="a whole network", exact=True, **_NONE)
    recipes: ClassVar[dict[str, Recipe]] = {"train": Recipe()}

    def __init__(self, model: nn.Module, example: Any, *, head: str | None = None, seed: int = 0) -> None:
        policy = Policy("private", "private", "private", "private")
        super().__init__(model, example, policy, head=head, seed=seed)

    def _open(self, phase: str, batches: Iterable[Any] | None) -> None:
        """Nothing: private tensors train without a gate."""
