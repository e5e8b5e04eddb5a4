"""How small and fast a task with masks on units becomes: ResNet-18 at half and at a quarter of its units."""

from __future__ import annotations

import time
from functools import partial

import torch
from torch import Tensor, nn

from _measure import compare, machine, options, show, take_turns, threads
from polymask import HAT, bake
from polymask.nets.by_name import build_model
from polymask.parts.pack import pack
from polymask.surgery import prune
from polymask.task import Meta, TaskRecord, activate, reads

SHARES = (0.5, 0.25)


def masks_at(sizes: dict[str, int], share: float, together: bool) -> dict[str, Tensor]:
    """Masks that keep a share of the units of every site: at random, or the same ones where layers are as wide."""
    draw = torch.Generator().manual_seed(0)
    orders = {size: torch.randperm(size, generator=draw) for size in sorted(set(sizes.values()))}
    found = {}
    for site, size in sizes.items():
        order = orders[size] if together else torch.randperm(size, generator=draw)
        found[site] = torch.zeros(size, dtype=torch.bool)
        found[site][order[: round(share * size)]] = True
    return found


def task_of(method: HAT, masks: dict[str, Tensor]) -> nn.Module:
    """The plain network of a task that has these masks."""
    meta = Meta(task="one", method="hat", outputs=10, exact=True)
    record = TaskRecord({site: pack(mask) for site, mask in masks.items()}, {}, {}, reads(method.sites, masks), meta)
    activate(method.sites, record)
    return bake(method.sites.model)


def forward(network: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(x)


def numbers(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def main() -> None:
    args = options(__doc__).parse_args()
    width, rounds, batch = (8, 3, 2) if args.quick else (64, 15, 16)
    print(machine())
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, 32, 32, generator=draw)
    method = HAT(build_model("resnet18", (3, 32, 32), 10, width=width), x[:2])
    sizes = dict(method.sites.wiring.sizes)
    rows = [["units kept", "taken out", "parameters", "of the whole", "largest difference", "pruned in s"]]
    networks: dict[str, nn.Module] = {}
    for together in (False, True):
        for share in SHARES:
            masks = masks_at(sizes, share, together)
            name = f"{share:g}, " + ("the same in all layers as wide" if together else "at random")
            plain = task_of(method, masks)
            start = time.perf_counter()
            found = prune(plain, x[:2], method.sites.wiring, masks)
            seconds = time.perf_counter() - start
            gap = float((forward(plain, x) - forward(found.network, x)).abs().max())
            networks |= {"whole": plain} if not networks else {}
            networks[name] = found.network
            part = numbers(found.network) / numbers(plain)
            taken = f"{found.gone} of {found.dead} shut"
            rows.append([name, taken, f"{numbers(found.network):,}", f"{part:.2f}", f"{gap:.1e}", f"{seconds:.1f}"])
    show(f"ResNet-18 of {numbers(networks['whole']):,} parameters, 3 x 32 x 32", rows)
    with threads(1):
        times = take_turns({name: partial(forward, network, x) for name, network in networks.items()}, rounds)
    show(f"forward, batch {batch}, 1 thread, {rounds} rounds in turn", compare(times, "whole"))


if __name__ == "__main__":
    main()
