"""What does a head on pooled maps cost in accuracy, and save in bytes? The default conv net, by validation.

The default net's widths and its pooling were chosen by this, on images that no reported row is chosen on.
"""

from __future__ import annotations

import tempfile
from statistics import mean
from typing import Any

import torch
from torch import nn

from _measure import machine, needed_root, options, show, validated, with_data
from polymask import METHODS, Stream, Training, learn
from polymask.nets import build_net
from polymask.streams import make_stream

CIFAR, TINY = "local/cifar10-jpeg", "zh-plus/tiny-imagenet"
STREAMS: dict[str, tuple[str, Any]] = {
    "CIFAR-10 (JPEG), 2 tasks of 5": (CIFAR, 2),
    "Tiny ImageNet, 4 tasks of 25 of its last 100": (TINY, [[*range(a, a + 25)] for a in range(100, 200, 25)]),
}
NETS: dict[str, dict[str, Any]] = {
    "16-32, flattened": {"widths": (16, 32), "pool": False},
    "16-32, pooled": {"widths": (16, 32)},
    "16-32-64, pooled": {"widths": (16, 32, 64)},
    "32-64-128, pooled": {"widths": (32, 64, 128)},
}
WAYS: dict[str, dict[str, Any]] = {
    "independent": {},
    "piggyback": {"backbone": "first-task", "norms": "private", "start": "constant"},
}


def stream_of(name: str, data_root: str, examples: int) -> Stream:
    """A stream, of each task so many training and validation images at most."""
    data, tasks = STREAMS[name]
    how: dict[str, Any] = {"tasks": tasks, "size": (32, 32), "examples": examples}
    return make_stream("split", [data], data_root=data_root, **how)


def network(stream: Stream, net: dict[str, Any]) -> nn.Module:
    """A conv net for a stream of colour images."""
    return build_net("convnet", (3, 32, 32), max(len(task.labels or ()) for task in stream), **net)


def learned(
    model: nn.Module, stream: Stream, method: str, training: Training, options: dict[str, Any]
) -> tuple[float, float]:
    """The mean over tasks of the best validation accuracy, in points of 100, and the bytes that a task adds."""
    with tempfile.TemporaryDirectory() as folder:
        run = learn(model, stream, METHODS[method], out=folder, seed=0, training=training, options=options)
        assert run.bank is not None
        return 100 * mean(validated(folder).values()), mean(run.bank.sizes()["per_task"].values())


def main() -> None:
    """Every net under every method, on both streams."""
    args = with_data(options(__doc__ or "")).parse_args()
    root = needed_root(args, CIFAR)
    torch.set_num_threads(1)
    print(machine())
    training = Training(
        epochs=1 if args.quick else 10, optimizer="adam", lr=1e-3, batch_size=64, device="cpu", quiet=True
    )
    for name in STREAMS:
        stream = stream_of(name, root, 200 if args.quick else 2000)
        rows = [["network", *(f"{method}: %, kB a task" for method in WAYS)]]
        for net, how in NETS.items():
            found = [learned(network(stream, how), stream, method, training, WAYS[method]) for method in WAYS]
            rows.append([net, *(f"{score:.1f}, {size / 1000:.1f}" for score, size in found)])
        show(name, rows)


if __name__ == "__main__":
    main()
