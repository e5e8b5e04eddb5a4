"""APD's forms as methods of their own, so that one comparison holds several of them."""

from __future__ import annotations

from typing import Any

from polymask import APD
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
