"""PEFT's and PolyLoRA's batches of many adapters on a small BERT; run inside an environment that has both."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from typing import Any

import torch
from _worker import Figures, serve
from peft import LoraConfig, get_peft_model
from polylora import PolyLoraConfig, PolyLoraModel
from torch import Tensor, nn

from _bert import Rows, bert, tokens
from _measure import take_turns

BERT, UP = ["query", "key", "value", "dense"], ["up"]


def lora(model: nn.Module, tasks: int, targets: list[str]) -> nn.Module:
    """So many adapters of rank 4, none of which does nothing."""
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    adapted = get_peft_model(model, config, adapter_name="0")
    for task in range(1, tasks):
        adapted.add_adapter(str(task), config)
    return adapted.eval()


def polylora(base: nn.Module, adapted: nn.Module, tasks: int, targets: list[str]) -> PolyLoraModel:
    """The same adapters, all resident."""
    config = PolyLoraConfig(max_gpu_adapters=tasks + 1, max_cpu_adapters=tasks + 1, max_rank=4, target_modules=targets)
    model = PolyLoraModel(base, config).eval()
    for task in range(tasks):
        model.add_adapter_from_peft_model(str(task), adapted, str(task))
    return model


def logits(output: Any) -> Tensor:
    found: Tensor = getattr(output, "logits", output)
    return found


def arms(tasks: int, batch: int) -> dict[str, Callable[[], Any]]:
    ids, names = tokens(batch), [str(row % tasks) for row in range(batch)]
    plain, again, adapted = bert(), bert(), lora(bert(), tasks, BERT)
    poly = polylora(bert(), adapted, tasks, BERT)
    one = logits(adapted(input_ids=ids, adapter_names=names))
    other = logits(poly(input_ids=ids, adapter_ids=names))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    return {
        "plain": lambda: plain(input_ids=ids),
        "plain, again": lambda: again(input_ids=ids),
        f"PEFT, {tasks} adapters": lambda: adapted(input_ids=ids, adapter_names=names),
        "PEFT, one adapter": lambda: adapted(input_ids=ids, adapter_names=["0"] * batch),
        f"PolyLoRA, {tasks} adapters": lambda: poly(input_ids=ids, adapter_ids=names),
        "PolyLoRA, one adapter": lambda: poly(input_ids=ids, adapter_ids=["0"] * batch),
    }


def flattened(batch: int) -> Figures:
    """Of how many samples the answer is their own task's, where rows are flattened; -1: it raises."""
    x = torch.randn(batch, 8, 16, generator=torch.Generator().manual_seed(2))
    names = [str(row % 4) for row in range(batch)]
    adapted = lora(Rows(), 4, UP)
    alone = {}
    for name in set(names):
        adapted.set_adapter(name)
        alone[name] = adapted(x)
    expected = torch.stack([alone[name][row] for row, name in enumerate(names)])
    poly = polylora(Rows(), adapted, 4, UP)

    def right(answer: Callable[[], Tensor]) -> float:
        with contextlib.suppress(Exception):
            return float((answer() - expected).abs().amax(1).lt(1e-4).sum())
        return -1.0

    return {
        "PEFT": right(lambda: adapted(x, adapter_names=names)),
        "PolyLoRA": right(lambda: poly(x, adapter_ids=names)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with torch.no_grad():
        runs = arms(args.tasks, args.batch)

    @torch.no_grad()
    def answer(request: str) -> Figures:
        if request == "flattened":
            return flattened(args.batch)
        torch.set_num_threads(int(request))
        times = take_turns(runs, args.rounds)
        return {name: sorted(times.ratios(name, "plain"))[args.rounds // 2] for name in runs}

    serve(answer)


if __name__ == "__main__":
    main()
