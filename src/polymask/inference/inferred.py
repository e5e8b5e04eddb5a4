"""The answer to the question which task inputs belong to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polymask.inference.known import margin


@dataclass(frozen=True)
class Inferred:
    """Which task each input belongs to.

    Args:
        tasks: the names of all tasks.
        scores: (inputs, tasks), the larger the likelier; of one way and network they can be compared, of two not.
        known: (inputs,), bool: False: of none of these tasks; None: not calibrated, see ``Calibration``.
    """

    tasks: tuple[str, ...]
    scores: Tensor
    known: Tensor | None = None

    @property
    def choice(self) -> list[str]:
        """The likeliest task of every input."""
        return [self.tasks[place] for place in self.scores.argmax(-1).tolist()]

    @property
    def margin(self) -> Tensor:
        """``T`` times the gap between the two largest scores, (inputs,); infinite where there is but one task.

        The plain gap shrinks as tasks are added, since each has a smaller part in the mixture.
        """
        return margin(self.scores)
