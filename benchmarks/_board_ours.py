"""One arm of the board by polymask: a stream learned in one run; what it answers and what it took, as JSON."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent / "fidelity"))
from _texts import BOTTLENECK, encoder, folder, hits_of_bank

from _board import ARMS, BATCH, EPOCHS, EXAMPLES, LENGTH, STREAMS
from _measure import validated
from polymask import Stream, Task, Training, learn
from polymask.calling import call
from polymask.pages.of_bytes import parts_of
from polymask.streams import make_stream, prepare
from polymask.streams.holdout import drawn
from polymask.streams.view import View
from polymask.surgery import add_adapters


def of_phase(phase: str, data_root: str) -> Stream:
    """A stream of the board."""
    return halves(STREAMS[phase], data_root)


def halves(tasks: Sequence[int], data_root: str) -> Stream:
    """Some of the five tasks; what trains and what validates are drawn class by class."""
    how = {"tokenizer": folder(), "length": LENGTH, "examples": 2 * EXAMPLES}
    found = make_stream("20news", data_root=data_root, tasks=5, **how)
    return Stream(found.name, tuple(halved(found[number]) for number in tasks), protocol=found.protocol)


def halved(task: Task) -> Task:
    """A task half of whose training posts validate."""
    posts = task.train
    assert isinstance(posts, View)
    chosen = drawn(posts.y, EXAMPLES, ("board", task.name))
    rest = torch.ones(len(posts), dtype=torch.bool).index_fill(0, chosen, False)
    return replace(task, train=posts.take(rest.nonzero().squeeze(1)), val=posts.take(chosen))


def measured(arm: str, rate: float, seed: int, stream: Stream, test: bool) -> dict[str, Any]:
    """What the board writes down of an arm on a stream; its test part is asked once, of what was stored, or never."""
    about, seen = ARMS[arm], Stream(stream.name, tuple(replace(task, test=None) for task in stream))

    def network() -> torch.nn.Module:
        model = encoder(max(len(task.labels or ()) for task in stream), seed)
        adapters = about.how == "hat"
        return add_adapters(model, prepare(stream[0], seed=seed).example(), BOTTLENECK) if adapters else model

    rates = {"lr": rate} if (beside := about.rate_beside()) is None else {"lr": beside, "mask_lr": rate}
    bits = None if about.bits == 32 else about.bits
    training = Training(
        epochs=EPOCHS, optimizer="adamw", batch_size=BATCH, device="cpu", quiet=True, private_bits=bits, **rates
    )
    with tempfile.TemporaryDirectory() as folder:
        model, start = network(), time.process_time()
        run = learn(model, seen, about.how, out=folder, seed=seed, training=training, options=about.options)
        seconds, bank = time.process_time() - start, run.bank
        assert bank is not None
        sizes = bank.sizes()["per_task"]
        plain = bank.plain(stream[-1].name, network())
        return {
            "valid": validated(folder),
            "hits": hits_of_bank(bank, network(), stream, seed) if test else {},
            "bytes": list(sizes.values()),
            "parts": dict(parts_of(bank._reader, bank._reader.entry(stream[-1].name))),
            "seconds": seconds,
            "trains": trains(run.method, max(len(task.labels or ()) for task in stream)),
            "latency": latency(plain, stream, seed),
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }


def trains(method: Any, outputs: int) -> int:
    """What an optimizer gets of another task of so many classes."""
    method.begin("another", outputs=outputs)
    count = sum(parameter.numel() for parameter in method.parameters())
    method.abandon()
    return count


@torch.no_grad()
def latency(plain: torch.nn.Module, stream: Stream, seed: int) -> float:
    """Milliseconds of one text, the median of 21."""
    x = next(prepare(stream[-1], seed=seed).val.ordered(1))[0]
    times = []
    for _ in range(21):
        start = time.perf_counter()
        call(plain, x)
        times.append(1000 * (time.perf_counter() - start))
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in {"arm": str, "rate": float, "seed": int, "phase": str, "data-root": str}.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    print(json.dumps(measured(args.arm, args.rate, args.seed, of_phase(args.phase, args.data_root), args.phase == "B")))


if __name__ == "__main__":
    main()
