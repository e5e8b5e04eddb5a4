"""A covariance that is drawn toward a sphere: scikit-learn's, whatever the unit; and what it whitens."""

from __future__ import annotations

import pytest
import torch
from sklearn.covariance import ledoit_wolf

from polymask.parts.shrink import shrunk_covariance, whitening


@pytest.mark.parametrize("unit", [1.0, 1e-3, 1e3])
def test_the_covariance_of_few_rows_is_that_of_scikit_learn_in_any_unit(unit: float) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(30, 6, generator=draw, dtype=torch.float64) @ torch.diag(torch.arange(1.0, 7.0).double())
    x = unit * (x - x.mean(0))
    expected = torch.from_numpy(ledoit_wolf(x.numpy(), assume_centered=True)[0])
    found = shrunk_covariance(x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0.0)
    white = x @ whitening(found).T
    solved = (x * torch.linalg.solve(found, x.T).T).sum(1)
    torch.testing.assert_close(white.square().sum(1), solved, rtol=1e-9, atol=0.0)


def test_at_least_so_much_of_the_sphere() -> None:
    x = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).repeat(100, 1)
    wide, half, sphere = (shrunk_covariance(x, least) for least in (0.0, 0.5, 1.0))
    assert torch.allclose(sphere, 1.25 * torch.eye(2))
    assert wide[0, 0] > half[0, 0] > sphere[0, 0]
