"""APD's forms, and HAT under its paper's recipe, as methods of their own, so that one comparison holds several."""

from __future__ import annotations

from typing import Any, ClassVar

from polymask import APD, HAT, Recipe
from polymask.methods.apd import Form


class Exact(APD):
    """APD whose shared weight never learns after the first task."""

    name = "apd-exact"
    form: Form = "exact"

    def __init__(self, model: Any, example: Any, *, head: str | None = None, seed: int = 0) -> None:
        super().__init__(model, example, head=head, seed=seed, form=type(self).form)


class Fixed(Exact):
    """APD-Fixed: finished tasks keep their corrections and drift with the shared weight."""

    name = "apd-fixed"
    form: Form = "fixed"


class Joint(Exact):
    """APD(1): the corrections of all tasks train together."""

    name = "apd-joint"
    form: Form = "joint"


class Consolidated(APD):
    """APD(2) in the closed form: corrections that agree are merged after every five tasks."""

    name = "apd-consolidated"

    def __init__(self, model: Any, example: Any, *, head: str | None = None, seed: int = 0) -> None:
        super().__init__(model, example, head=head, seed=seed, consolidate=5)


class PublishedHAT(HAT):
    """HAT trained as its paper trains it, by SGD at one rate for gates and weights."""

    recipes: ClassVar[dict[str, Recipe]] = {
        "train": Recipe(optimizer="sgd", lr=0.05, epochs=30, batch_size=64, momentum=0.0)
    }
