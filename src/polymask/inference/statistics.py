"""What is kept of a task's features: class means and one covariance, and how far its own inputs lie from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from polymask.inference.features import features_of, project
from polymask.parts.shrink import shrunk_covariance, whitening

DIMS = 32
"""Dimensions that features are brought to."""
LEAST_SHARE = 1e-3
"""Of a sphere in every covariance: a direction in which training never moved shall not count for everything."""


@dataclass(frozen=True)
class Statistics:
    """How a task's features are distributed, in ``2 (C k + k (k + 1) / 2) + 12`` bytes for ``C`` classes.

    The score of features ``z`` is ``-(d(z) - centre) / spread``, with Mahalanobis' distance to the nearest class mean,
    ``d(z) = min_c |L (z / unit - m_c)|``, where ``L'L`` is the inverse of the covariance that all classes share (Lee et
    al. 2018, "A simple unified framework for detecting out-of-distribution samples and adversarial attacks"), and with
    mean and deviation of ``d`` on held-out inputs of the task, so that tasks can be compared.

    Args:
        means: ``m``, (C, k), float16.
        factor: ``L``'s lower triangle, row by row, (k (k + 1) / 2,), float16.
        scales: ``unit``, ``centre`` and ``spread``, (3,), float32.
        dims: what features were brought to; None: left at their width.
        seed: key of the projection.
        head: the path of the module whose input the features are.
        digest: of the record that they were measured under.

    >>> draw = torch.Generator().manual_seed(0)
    >>> z, y = torch.randn(300, 32, generator=draw), torch.arange(300) % 10
    >>> made = Statistics.fit(z[:200], y[:200], z[200:])
    >>> made.nbytes, made.scores(z[200:]).mean().abs() < 1e-5, made.scores(z + 3).max() < -3
    (1708, tensor(True), tensor(True))
    """

    means: Tensor
    factor: Tensor
    scales: Tensor
    dims: int | None = DIMS
    seed: int = 0
    head: str = ""
    digest: bytes = b""

    @property
    def nbytes(self) -> int:
        """The bytes of all numbers that were measured."""
        return sum(t.numel() * t.element_size() for t in (self.means, self.factor, self.scales))

    @classmethod
    def measure(
        cls,
        network: nn.Module,
        head: str,
        train: Iterable[tuple[Any, Tensor]],
        held_out: Iterable[tuple[Any, Tensor]],
        *,
        dims: int | None = DIMS,
        seed: int = 0,
        digest: bytes = b"",
    ) -> Statistics:
        """Read a task's features from its own plain network, see ``features_of``, and fit them.

        Args:
            network: the plain network as the task.
            head: the path of its head.
            train: batches (inputs, targets) that the task was trained on.
            held_out: batches that it was not.
            dims: 16, 32 or 64, or None: all.
            seed: key of the projection.
            digest: of the record, ``stacks.digest_of``.

        Raises:
            ValueError: if there are no features, they are not finite, or there is no input in one of the parts.
        """
        parts = []
        for batches in (train, held_out):
            found = [(project(features_of(network, head, x), dims, seed), y.cpu()) for x, y in batches]
            if not found:
                raise ValueError("expected inputs to measure a task's features on, found a part without any")
            parts.append((torch.cat([z for z, _ in found]), torch.cat([y for _, y in found])))
        (z, y), (held, _) = parts
        return cls.fit(z, y, held, dims=dims, seed=seed, head=head, digest=digest)

    @classmethod
    def fit(
        cls,
        features: Float[Tensor, "n d"],
        y: Tensor,
        held_out: Float[Tensor, "m d"],
        *,
        dims: int | None = DIMS,
        seed: int = 0,
        head: str = "",
        digest: bytes = b"",
    ) -> Statistics:
        """The statistics of some features; those of held-out inputs give centre and spread.

        Args:
            features: of training inputs, (n, d).
            y: their labels; what is not int64 labels makes one class of all.
            held_out: features of other inputs of the task, (m, d).
            dims: see the class.
            seed: see the class.
            head: see the class.
            digest: see the class.

        Raises:
            ValueError: if features are not finite, or one of the parts is empty.
        """
        if not len(features) or not len(held_out) or not bool(features.isfinite().all() and held_out.isfinite().all()):
            raise ValueError(
                f"expected finite features of some inputs, found {len(features)} to fit and {len(held_out)} held out, "
                "or NaN or infinite ones"
            )
        z = project(features, dims, seed).double()
        labels = y if y.dtype == torch.int64 and y.ndim == 1 else torch.zeros(len(z), dtype=torch.int64)
        classes, place = labels.unique(return_inverse=True)
        means = torch.stack([z[place == c].mean(0) for c in range(len(classes))])
        covariance = shrunk_covariance(z - means[place], LEAST_SHARE)
        # Of features that hardly move, the means would not fit into float16 in units of their deviation.
        floor = max(1e-6 * float(z.square().mean()), 1e-30)
        covariance.diagonal().add_(max(0.0, floor - float(covariance.diagonal().mean())))
        unit = float(covariance.diagonal().mean().sqrt())
        factor, places = whitening(covariance / unit**2), torch.tril_indices(*covariance.shape)
        scales = torch.tensor([unit, 0.0, 1.0])
        made = cls((means / unit).half(), factor[*places].half(), scales, dims, seed, head, digest)
        d = made.distances(held_out)
        spread = max(float(d.std(correction=0)), 1e-3 * float(d.mean()), 1e-6)
        return replace(made, scales=torch.tensor([unit, float(d.mean()), spread]))

    def distances(self, features: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Mahalanobis' distance of every row to the nearest class mean.

        Raises:
            ValueError: if the features are of another width.
        """
        z, k = project(features, self.dims, self.seed), self.means.shape[1]
        if z.shape[1] != k:
            raise ValueError(f"expected features of width {k}, as they were measured, found {z.shape[1]}")
        factor = torch.zeros(k, k)
        factor[*torch.tril_indices(k, k)] = self.factor.float()
        white = (z.float() / self.scales[0]) @ factor.T
        return torch.cdist(white, self.means.float() @ factor.T, compute_mode="donot_use_mm_for_euclid_dist").amin(1)

    def scores(self, features: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """How likely every row is of this task: about 0 for one of its own, in deviations below for another's."""
        return (self.scales[1] - self.distances(features)) / self.scales[2]
