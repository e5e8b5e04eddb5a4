"""How sure a network is: values and gradients of the entropy and of the superfluous outputs."""

from __future__ import annotations

import math

import pytest
import torch

from polymask.parts.uncertainty import entropy, superfluous


def test_the_entropy_is_the_mean_over_rows_in_nats() -> None:
    rows = torch.tensor([[0.0, 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1000.0, -1000.0]])
    assert float(entropy(rows)) == pytest.approx((math.log(4) + 0 + math.log(2)) / 3)


def test_superfluous_outputs_alone_have_a_gradient_as_cross_entropy_gives_a_wrong_label() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = superfluous(logits, 3)
    found.backward()
    assert torch.allclose(found.detach(), logits.detach().logsumexp(1).mean())
    expected = logits.detach().softmax(1) / 3
    expected[:, :3] = 0
    assert torch.allclose(logits.grad, expected)


@pytest.mark.parametrize("labels", [5, 6])
def test_without_superfluous_outputs_there_is_nothing_to_ask(labels: int) -> None:
    with pytest.raises(ValueError, match=f"expected outputs beyond the {labels} labels, found 5 in all"):
        superfluous(torch.zeros(3, 5), labels)
