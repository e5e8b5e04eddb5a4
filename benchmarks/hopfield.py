"""A try of HopSupSup: are masks on units recovered from a Hopfield network of a constant size, and not kept at all?

Split MNIST, 784-2048-2048-10, random frozen weights, batch norm without affine part, Swish; one epoch a task, SGD 0.1
with momentum (SupSup, Wortsman et al. 2020, section 3.5 and appendix). A mask a hidden layer, stored by Storkey's rule;
recovered by descent on ``(1 - b/B) H + gamma (b/B) sum_l -z' Psi_l z / 2``, a step a test batch, from the mean of all
patterns.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from _measure import machine, needed_root, options, threads, with_data
from polymask.parts.binarize import straight_through
from polymask.parts.uncertainty import entropy
from polymask.streams import make_stream, prepare

PAIRS = [[2 * k, 2 * k + 1] for k in range(5)]
SETTINGS = list(product((500.0, 50.0, 5.0), (1.5e-3, 1.5e-2, 1.5e-4)))
"""Learning rate of the recovery and ``gamma``; the first is the released one."""

Batches = Sequence[tuple[Tensor, Tensor]]


def units(s: Tensor) -> Tensor:
    """``s >= 0`` as 0 or 1, with the gradient of ``s``."""
    return straight_through(torch.ones_like(s), s, s >= 0)


class Net(nn.Module):
    """Random frozen layers, with a mask on the normalised pre-activations of each hidden one."""

    def __init__(self, seed: int, hidden: int = 2048) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleList([nn.Linear(784, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 10)])
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.requires_grad_(False)

    def forward(self, x: Tensor, masks: Sequence[Tensor]) -> Tensor:
        for layer, mask in zip(self.layers[:-1], masks, strict=True):
            h = layer(x)
            x = F.silu((h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt() * mask)
        return self.layers[-1](x)


def learn(net: Net, batches: Batches) -> list[Tensor]:
    """The patterns of a task, 1 and -1, a vector a hidden layer."""
    scores = [torch.zeros(layer.out_features, requires_grad=True) for layer in net.layers[:-1]]
    optimizer = torch.optim.SGD(scores, lr=0.1, momentum=0.9, weight_decay=1e-4)
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(net(x, [units(s) for s in scores]), y).backward()
        optimizer.step()
    return [2 * (s.detach() >= 0).float() - 1 for s in scores]


def store(psi: Tensor, z: Tensor) -> Tensor:
    """Storkey's rule with its self-terms."""
    h, d = psi @ z, len(z)
    return psi + (torch.outer(z, z) - torch.eye(d) - torch.outer(z, h) - torch.outer(h, z)) / d


def recover(
    net: Net, psi: Sequence[Tensor], start: Sequence[Tensor], batches: Batches, lr: float, gamma: float
) -> list[Tensor]:
    """The patterns that unlabelled batches of one task lead to."""
    scores = [s.clone().requires_grad_() for s in start]
    optimizer = torch.optim.SGD(scores, lr=lr, momentum=0.9, weight_decay=1e-4)
    for step, (x, _) in enumerate(batches):
        share = step / len(batches)
        masks = [units(s) for s in scores]
        energy = sum((-(2 * m - 1) @ p @ (2 * m - 1) / 2 for m, p in zip(masks, psi, strict=True)), torch.zeros(()))
        optimizer.zero_grad()
        ((1 - share) * entropy(net(x, masks)) + gamma * share * energy).backward()
        optimizer.step()
    return [2 * (s.detach() >= 0).float() - 1 for s in scores]


@torch.no_grad()
def accuracy(net: Net, patterns: Sequence[Tensor], batches: Batches) -> float:
    right = [net(x, [(z + 1) / 2 for z in patterns]).argmax(1).eq(y) for x, y in batches]
    return 100 * float(torch.cat(right).float().mean())


def overlap(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The share of units on which two patterns agree."""
    return float(torch.cat([x == y for x, y in zip(a, b, strict=True)]).float().mean())


def data(data_root: str) -> list[tuple[Batches, Batches]]:
    """Training and test batches of 64 of every pair of digits, labelled 0 to 9."""
    found = []
    for pair, task in zip(PAIRS, make_stream("split", ["ylecun/mnist"], data_root=data_root, tasks=PAIRS), strict=True):
        feeds = prepare(task, seed=0)
        assert feeds.test is not None
        parts = [
            [(x.flatten(1).float(), y + pair[0]) for x, y in part]
            for part in (feeds.train.epoch(64, (pair[0],)), feeds.test.epoch(64, (pair[0], "test")))
        ]
        found.append((parts[0], parts[1]))
    return found


def main() -> None:
    args = with_data(options(__doc__ or "")).parse_args()
    tasks = data(needed_root(args, "ylecun/mnist"))
    print(machine())
    with threads(1):
        for seed in range(1 if args.quick else 3):
            report(seed, tasks, SETTINGS[: 1 if args.quick else None])


def report(seed: int, tasks: Sequence[tuple[Batches, Batches]], settings: Sequence[tuple[float, float]]) -> None:
    net = Net(seed)
    known = [learn(net, train) for train, _ in tasks]
    given = [accuracy(net, patterns, test) for patterns, (_, test) in zip(known, tasks, strict=True)]
    psi = [torch.zeros(len(z), len(z)) for z in known[0]]
    for patterns in known:
        psi = [store(p, z) for p, z in zip(psi, patterns, strict=True)]
    start = [torch.stack(layer).mean(0) for layer in zip(*known, strict=True)]
    stable = [overlap(z, [torch.sign(p @ each) for p, each in zip(psi, z, strict=True)]) for z in known]
    print(f"seed {seed}: the mask given {sum(given) / 5:.2f} % ({min(given):.1f} to {max(given):.1f}); "
          f"a stored pattern under one step of its network stays by {100 * min(stable):.1f} % or more; "
          f"patterns agree with each other by {100 * overlap(known[0], known[1]):.0f} %")  # fmt: skip
    for lr, gamma in settings:
        found = [recover(net, psi, start, test, lr, gamma) for _, test in tasks]
        nearest = [max(range(5), key=lambda t, z=z: overlap(z, known[t])) for z in found]
        reached = [accuracy(net, z, test) for z, (_, test) in zip(found, tasks, strict=True)]
        right = sum(task == place for place, task in enumerate(nearest))
        exact = [f"{100 * overlap(z, known[t]):.0f}" for t, z in enumerate(found)]
        print(f"  lr {lr:g}, gamma {gamma:g}: {right} of 5 nearest to their own, agree by {' '.join(exact)} %, "
              f"accuracy {sum(reached) / 5:.2f} %", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
