"""The vote among nearest neighbours, by which tasks are compared before anything is trained."""

from __future__ import annotations

import pytest
import torch

from polymask.parts.neighbours import neighbour_accuracy


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (1e-9, 0.0), (1e9, 0.0), (1.0, 1e3)])
def test_neither_the_unit_nor_the_place_of_the_features_counts(factor: float, shift: float) -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    x = labels[:, None] + torch.randn(90, 2, generator=draw) * 0.2
    right, guessed = neighbour_accuracy(x * factor + shift, labels, 5)
    assert right > 0.9
    assert guessed == pytest.approx(1 / 3)


def test_classes_that_nobody_votes_for_are_classes() -> None:
    x = torch.tensor([[0.0], [0.1], [0.2], [0.3], [5.0], [6.0]])
    assert neighbour_accuracy(x, torch.tensor([0, 0, 0, 0, 1, 1]), 2) == (0.0, 1.0)


def test_three_examples_are_enough() -> None:
    assert neighbour_accuracy(torch.tensor([[0.0], [1.0], [0.1]]), torch.tensor([0, 1, 0]), 9) == (1.0, 1.0)


@pytest.mark.parametrize("labels", [torch.zeros(2, dtype=torch.long), torch.zeros(4, 1).long(), torch.zeros(4)])
def test_what_is_no_class_is_refused(labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected class labels of at least 3 examples"):
        neighbour_accuracy(torch.zeros(len(labels), 1), labels, 1)
