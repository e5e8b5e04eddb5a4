"""One arm of the board by PEFT, or by biases alone, in an environment of its own; a task is a file of tokens."""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

HEAD = "classifier"


def adapted(how: str, options: dict[str, Any], host: str, outputs: int, seed: int) -> nn.Module:
    """The host with what learns."""
    torch.manual_seed(seed)
    model = transformers.BertForSequenceClassification.from_pretrained(host, num_labels=outputs)
    if how == "biases":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith("bias") or name.startswith(HEAD))
        return model
    return peft.get_peft_model(model, getattr(peft, how)(**options, modules_to_save=[HEAD]))


def stored(model: nn.Module, how: str, half: bool) -> int:
    """The bytes of the file of weights that serves the task beside the host, which answers as it is stored."""
    with tempfile.TemporaryDirectory() as folder:
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in trained if half else ():
            parameter.data = parameter.data.half()
        if how == "biases":
            own = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
            from safetensors.torch import save_file

            save_file(own, f"{folder}/adapter_model.safetensors")
        else:
            model.save_pretrained(folder)
        for parameter in trained:
            parameter.data = parameter.data.float()
        return sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))


def batch_of(part: dict[str, Tensor], rows: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Rows of a part, as wide as the longest of them."""
    ids, mask, labels = (part[name][rows] for name in ("input_ids", "attention_mask", "labels"))
    width = int(mask.sum(1).max())
    return {"input_ids": ids[:, :width], "attention_mask": mask[:, :width]}, labels


@torch.no_grad()
def hits(model: nn.Module, part: dict[str, Tensor]) -> list[int]:
    """Which examples are answered rightly."""
    model.eval()
    found: list[int] = []
    for rows in torch.arange(len(part["labels"])).split(256):
        x, y = batch_of(part, rows)
        found += (model(**x).logits.argmax(1) == y).int().tolist()
    return found


def learn(model: nn.Module, parts: dict[str, dict[str, Tensor]], args: argparse.Namespace) -> float:
    """Train, and leave the epoch in the model that validates best."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for name, p in trained.items() if (HEAD in name) == head], "lr": lr}
        for head, lr in ((False, args.lr), (True, args.head_lr or args.lr))
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    best, kept = -1.0, {}
    for epoch in range(args.epochs):
        draw = torch.Generator().manual_seed(1000 * args.seed + epoch)
        model.train()
        for rows in torch.randperm(len(parts["train"]["labels"]), generator=draw).split(args.batch):
            x, y = batch_of(parts["train"], rows)
            optimizer.zero_grad()
            F.cross_entropy(model(**x).logits, y).backward()
            optimizer.step()
        right = hits(model, parts["val"])
        if (score := sum(right) / len(right)) > best:
            best, kept = score, {name: p.detach().clone() for name, p in trained.items()}
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(kept[name])
    return best


def latency(model: nn.Module, part: dict[str, Tensor]) -> float:
    """Milliseconds of one text, the median of 21."""
    x, _ = batch_of(part, torch.arange(1))
    times = []
    with torch.no_grad():
        model.eval()
        for _ in range(21):
            start = time.perf_counter()
            model(**x)
            times.append(1000 * (time.perf_counter() - start))
    return sorted(times)[10]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in {"how": str, "options": json.loads, "host": str, "data": Path, "lr": float, "seed": int}.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--head-lr", type=float, help="of the head; without it the same")
    parser.add_argument("--half", action="store_true", help="store in half precision")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    transformers.logging.set_verbosity_error()
    found: dict[str, Any] = {"valid": {}, "hits": {}, "bytes": [], "seconds": 0.0}
    for file in sorted(args.data.glob("*.npz")):
        arrays = np.load(file)
        parts = {
            part: {
                name: torch.from_numpy(arrays[f"{part}/{name}"]) for name in ("input_ids", "attention_mask", "labels")
            }
            for part in ("train", "val", "test")
        }
        task = str(arrays["task"])
        model = adapted(args.how, args.options, args.host, int(arrays["outputs"]), args.seed)
        start = time.process_time()
        found["valid"][task] = learn(model, parts, args)
        found["seconds"] += time.process_time() - start
        found["bytes"].append(stored(model, args.how, args.half))
        found["trains"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        found["latency"] = latency(model, parts["val"])
        if args.test:
            found["hits"][task] = hits(model, parts["test"])
    found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(found))


if __name__ == "__main__":
    main()
