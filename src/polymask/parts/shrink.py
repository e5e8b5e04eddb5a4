"""A covariance from few rows, drawn toward a sphere, and the triangle that whitens by it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def shrunk_covariance(x: Float[Tensor, "n d"], least: float = 0.0) -> Float[Tensor, "d d"]:
    """``(1 - a) S + a mu I`` of centred rows, with ``S = X'X / n`` and ``mu = tr(S) / d``.

    ``a = min(b, c) / c`` with ``c = |S - mu I|^2`` and ``b = (sum_i |x_i|^4 / n - |S|^2) / n`` has the smallest
    expected error (Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices").

    Args:
        x: rows, their mean taken off.
        least: what ``a`` is at least.

    >>> shrunk_covariance(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), least=0.5)
    tensor([[3., 0.],
            [0., 1.]])
    """
    n, d = x.shape
    S = x.T @ x / n
    sphere = S.diagonal().mean() * torch.eye(d, dtype=x.dtype, device=x.device)
    off = (S - sphere).square().sum()
    noise = (x.square().sum(1).square().mean() - S.square().sum()) / n
    share = (torch.minimum(noise, off) / off if off > 0 else torch.zeros_like(off)).clamp(least, 1)
    return (1 - share) * S + share * sphere


def whitening(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """The lower triangle ``L`` with ``L'L`` the inverse of a covariance: ``|L (x - m)|`` is Mahalanobis' distance.

    >>> whitening(torch.diag(torch.tensor([4.0, 1.0])))
    tensor([[0.5000, 0.0000],
            [0.0000, 1.0000]])
    """
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    found: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), identity, upper=False)
    return found
