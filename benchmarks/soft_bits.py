"""What 8 bits cost KSM: the mask of the same scores at 8, 16 and 32 bits, over the 10,000 test images of FashionMNIST.

Two trainings differ by more than any number of bits, so one is trained, and its mask is stored three times.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from _measure import machine, needed_root, options, show, with_data
from polymask import Training, learn
from polymask.method.snapshot import plain
from polymask.nets import build_net
from polymask.parts.pack import pack_soft, unpack
from polymask.parts.soft import BITS
from polymask.streams import make_stream, prepare

DATA = ("ylecun/mnist", "zalando-datasets/fashion_mnist")


def main() -> None:
    """Train a backbone on MNIST and a mask on FashionMNIST; read the mask at every number of bits."""
    args = with_data(options(__doc__ or "")).parse_args()
    root = needed_root(args, *DATA)
    torch.set_num_threads(1)
    print(machine())
    digits, clothes = make_stream("datasets", DATA, data_root=root, size=(28, 28), channels=1)
    training = Training(epochs=1 if args.quick else 3, batch_size=128, lr=1e-3, optimizer="adam", device="cpu")
    net = build_net("convnet", (1, 28, 28), 10, widths=(16, 32, 64), pool=False)
    backbone = learn(net, [digits], "independent", training=training).method.plain(digits.name)
    method = learn(backbone, [clothes], "ksm", options={"bits": 32}, training=training).method
    record, feed = method.records[clothes.name], prepare(clothes, seed=0).test
    assert feed is not None
    batches = list(feed.ordered(500))
    labels = torch.cat([y for _, y in batches])
    answers: dict[int, Tensor] = {}
    rows = [["bits of a graded value", "accuracy", "same answer as at 32", "bytes of the masks"]]
    for bits in sorted(BITS, reverse=True):
        masks = {name: pack_soft(unpack(mask), bits) for name, mask in record.masks.items()}
        network = plain(method.sites, replace(record, masks=masks))
        with torch.no_grad():
            answers[bits] = torch.cat([network(x).argmax(1) for x, _ in batches])
        right, same = ((answers[bits] == other).double().mean().item() for other in (labels, answers[32]))
        size = sum(mask.nbytes for mask in masks.values())
        rows.append([str(bits), f"{100 * right:.2f}", f"{100 * same:.2f}", f"{size:,}"])
    kernels = torch.cat([unpack(mask).flatten() for mask in record.masks.values()])
    show(f"{len(labels):,} test images, {float((kernels == 1).double().mean()):.3f} of the kernels selected", rows)


if __name__ == "__main__":
    main()
