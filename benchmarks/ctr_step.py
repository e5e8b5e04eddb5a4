"""What CTR's step costs beside that of one plain adapter: MiniLM's size, batch 32, 128 tokens, at several tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from _measure import compare, machine, options, show, take_turns, threads, with_torchvision
from polymask import CTR, HAT, Method
from polymask.surgery import add_adapters

TARGETS = {"CTR, 10th task": 1.6}
PLAIN, BOTTLENECK = "one adapter", 256
AT = (1, 5, 10)


def host(quick: bool) -> nn.Module:
    """MiniLM's network, random."""
    with_torchvision()
    import transformers

    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 96}
    whole = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
    torch.manual_seed(0)
    config = transformers.BertConfig(**(sizes if quick else whole), num_attention_heads=12, num_labels=2)
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


def step_of(model: nn.Module, parameters: list[nn.Parameter], batch: Any, method: Method | None) -> Callable[[], None]:
    """A training step of a plain network, or of the open task of a method."""
    optimizer, (x, y) = torch.optim.AdamW(parameters, lr=1e-4), batch
    model.train()

    def step() -> None:
        if method is not None:
            method.on_step(0.5)
        loss = F.cross_entropy(model(**x).logits, y)
        optimizer.zero_grad()
        (loss if method is None else loss + method.penalty()).backward()
        optimizer.step()

    return step


def at_task(method: Method, number: int, batch: Any) -> Method:
    """A method in its so manieth task, after others of two steps on a few samples."""
    x, y = batch
    few = {name: tensor[:4, :16] for name, tensor in x.items()}, y[:4]
    for task in range(1, number):
        method.begin(str(task), outputs=2)
        step = step_of(method.model, method.parameters(), few, method)
        step()
        step()
        method.end(str(task))
    method.begin("last", outputs=2)
    return method


def main() -> None:
    args = options(__doc__ or "").parse_args()
    print(machine())
    rows, length = (4, 16) if args.quick else (32, 128)
    words = torch.randint(5, 1000, (rows, length), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": words, "attention_mask": torch.ones_like(words)}, torch.arange(rows) % 2
    example = {name: tensor[:2, :8] for name, tensor in batch[0].items()}
    with threads(1):
        adapted = add_adapters(host(args.quick), example, BOTTLENECK)
        arms = {PLAIN: step_of(adapted, [p for p in adapted.parameters() if p.requires_grad], batch, None)}
        hat = HAT(add_adapters(host(args.quick), example, BOTTLENECK), example, sites="all")
        hat.begin("last", outputs=2)
        arms["HAT in adapters"] = step_of(hat.model, hat.parameters(), batch, hat)
        for number in AT if not args.quick else (1, 2):
            ctr = at_task(CTR(host(args.quick), example, bottleneck=BOTTLENECK), number, batch)
            arms[f"CTR, {number}{'st' if number == 1 else 'th'} task"] = step_of(
                ctr.model, ctr.parameters(), batch, ctr
            )
        times = take_turns(arms, rounds := 2 if args.quick else 7)
    show(f"step, batch {rows}, {length} tokens, 1 thread, {rounds} rounds", compare(times, PLAIN, TARGETS))


if __name__ == "__main__":
    main()
