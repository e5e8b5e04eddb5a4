"""An adapter behind routed capsules (CTR, Ke et al. 2021): what is plugged in at the end of a branch.

Shapes: N samples, L tokens, W width, T tasks so far; the last capsule is that of the task that reads.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymask.parts.seeds import generator
from polymask.sites.plugs import Asks
from polymask.surgery.adapters import Adapter
from polymask.surgery.joints import NESTED

SIDE = 3
"""The entries of a capsule, and the capsules that each is turned into."""

CHANNELS = SIDE * SIDE
KERNELS = (3, 4, 5)
FILTERS = 100
GROWS: Mapping[str, int] = {"capsules.weight": SIDE, "capsules.bias": SIDE, "capsules_turn.weight": CHANNELS}
"""Tensors of ``Sharing`` that grow with every task -> by how many rows."""


class Sharing(nn.Module):
    """``K(x) = V sum_i delta_i a_i * u_i``: earlier tasks' capsules, each taken or left for a whole sample.

    ``p_i = squash(F_i x)`` in R^3, ``squash(v) = |v|^2 / (1 + |v|^2) v / |v|``; ``u_i`` in R^9 is ``p_i`` turned three
    ways; ``q`` are maxima over tokens of convolutions of the task's own ``u``; ``z_i`` those of ``u_i``, with ``f(q)``
    added before the ReLU; ``a_i`` and the two logits of ``delta_i`` are linear in ``z_i``.

    Args:
        width: of the branch.
        seed: what the weights are drawn from.

    >>> sharing = Sharing(8, "0").eval()
    >>> sharing(torch.randn(2, 5, 8)).shape, sharing.open_routes(torch.randn(2, 5, 8)).shape
    (torch.Size([2, 5, 8]), torch.Size([2, 1]))
    """

    def __init__(self, width: int, seed: str = "") -> None:
        super().__init__()
        self.capsules, self.capsules_turn = nn.Linear(width, SIDE), nn.Linear(SIDE, CHANNELS, bias=False)
        self.estimate = Estimate()
        self.decide, self.spread = nn.Linear(FILTERS * len(KERNELS), 2), nn.Linear(CHANNELS, width)
        draw = generator("capsules", seed)
        with torch.no_grad():
            for parameter in self.parameters():
                fan = parameter[0].numel() if parameter.ndim > 1 else 1
                parameter.normal_(0, fan**-0.5, generator=draw) if parameter.ndim > 1 else parameter.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """What capsules add to a branch (N, L, W)."""
        u = self.turned(x)
        amplified, logits = self.judged(u)
        if self.training:
            taken = F.gumbel_softmax(logits.float(), tau=1.0, hard=True)[..., 0].to(u.dtype)
        else:
            taken = (logits[..., 0] >= logits[..., 1]).to(u.dtype)
        mixed = torch.einsum("nltc,ntc->nlc", u, amplified * taken[..., None]).contiguous()
        spread: Tensor = self.spread(mixed)
        return spread

    def turned(self, x: Tensor) -> Tensor:
        """All capsules, turned three ways (N, L, T, 9); squashed before."""
        found = F.linear(x, self.capsules.weight, self.capsules.bias).unflatten(-1, (-1, SIDE))
        square = found.square().sum(-1, keepdim=True)
        # |v|^2 / (1 + |v|^2) / |v|, without a division by 0
        pointed = found * square.add(1e-12).sqrt() / (1 + square)
        turns = self.capsules_turn.weight.unflatten(0, (-1, CHANNELS))
        return torch.einsum("nlti,tci->nltc", pointed, turns)

    def judged(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """How much of each capsule is taken (N, T, 9), and the two logits of whether (N, T, 2)."""
        amplified, z = self.estimate(u)
        return amplified, self.decide(z)

    def open_routes(self, x: Tensor) -> Tensor:
        """Which capsules each sample goes through, as decided without noise, bool (N, T)."""
        logits = self.judged(self.turned(x))[1]
        return logits[..., 0] >= logits[..., 1]


class Estimate(Asks):
    """How alike earlier capsules are to the task's own: maxima over tokens of convolutions of width 3, 4 and 5.

    >>> [t.shape for t in Estimate()(torch.randn(2, 7, 3, 9))]
    [torch.Size([2, 3, 9]), torch.Size([2, 3, 300])]
    """

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.ModuleList(nn.Conv1d(CHANNELS, FILTERS, kernel) for kernel in KERNELS)
        self.others = nn.ModuleList(nn.Conv1d(CHANNELS, FILTERS, kernel) for kernel in KERNELS)
        self.compare = nn.Linear(FILTERS * len(KERNELS), FILTERS)
        self.amplify = nn.Linear(FILTERS * len(KERNELS), CHANNELS)

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Of capsules (N, L, T, 9): how much is taken (N, T, 9), and what decides whether (N, T, 300)."""
        (samples, _, tasks, _), real = u.shape, self.real_tokens()
        if real is not None and real.shape == u.shape[:2]:
            u = u * real[..., None, None].to(u.dtype)
        else:
            real = None
        query = torch.cat([highest(u[:, :, -1], conv, real).relu() for conv in self.own], -1)
        asked = self.compare(query)[:, None]
        flat = u.transpose(1, 2).flatten(0, 1)
        again = None if real is None else real.repeat_interleave(tasks, 0)
        # max(relu(x + f)) = relu(max(x) + f), as f is the same for all tokens
        found = [highest(flat, conv, again).unflatten(0, (samples, tasks)) for conv in self.others]
        z = torch.cat([(one + asked).relu() for one in found], -1)
        return self.amplify(z), z


def highest(u: Tensor, conv: nn.Module, real: Tensor | None) -> Tensor:
    """The maximum over tokens of a convolution of (M, L, channels), for every filter (M, filters).

    Where it lies is looked for without gradient; then that window alone is computed again. Beyond a text lie zeros, and
    no maximum: padding changes nothing.
    """
    weight, bias = conv.weight, conv.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    kernel = weight.shape[-1]
    padded = F.pad(u, (0, 0, (kernel - 1) // 2, kernel // 2))
    with torch.no_grad():
        seen, filters = padded, weight
        if real is not None:
            # A channel that is 1 where padding is, and weighs against it: cheaper than to fill all that comes out.
            shut = F.pad((~real).to(u.dtype), ((kernel - 1) // 2, kernel // 2))[..., None]
            large = torch.finfo(computed_in(weight)).max / 2  # what no convolution of capsules comes to
            against = F.pad(weight.new_full((weight.shape[0], 1, 1), -large), ((kernel - 1) // 2, kernel // 2))
            seen, filters = torch.cat([padded, shut], -1), torch.cat([weight, against], 1)
        where = F.conv1d(seen.transpose(1, 2), filters).max(-1).indices  # argmax takes three times as long
    # rows of a window lie one after the other, so that it is one piece of the flattened text
    at = (where[..., None] * u.shape[-1] + torch.arange(kernel * u.shape[-1], device=u.device)).flatten(1)
    windows = padded.flatten(1).gather(1, at).view(u.shape[0], weight.shape[0], -1)
    return (windows * weight.transpose(1, 2).flatten(1)).sum(-1) + bias


def computed_in(weight: Tensor) -> torch.dtype:
    """The precision in which a layer computes with a weight, under autocast too.

    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     computed_in(torch.zeros(1))
    torch.bfloat16
    """
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class RoutedAdapter(nn.Module):
    """``x + A(x + K(x))``: an adapter that also reads what capsules bring.

    Args:
        width: of the branch.
        bottleneck: units of the adapter.
        seed: what the weights are drawn from.

    >>> RoutedAdapter(8, 2)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, width: int, bottleneck: int, seed: str = "") -> None:
        super().__init__()
        self.arguments = {"width": width, "bottleneck": bottleneck, "seed": seed}
        self.sharing, self.adapter = Sharing(width, seed), Adapter(width, bottleneck, seed)

    def forward(self, x: Tensor) -> Tensor:
        """The branch with what the adapter adds to it.

        Raises:
            TypeError: if it is nested, as torch's encoder hands padded texts on in evaluation mode.
        """
        if x.is_nested:
            raise TypeError(NESTED)
        return x + self.adapter.branch(x + self.sharing(x))
