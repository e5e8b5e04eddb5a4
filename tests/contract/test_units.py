"""Masks on units forget nothing where units meet: the whole zoo of traps, and networks as they are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from tests.contract import drive
from tests.contract.test_forgetting import check, learn_all
from tests.contract.zoo import DEVICE, placed
from tests.switches import SWITCHES
from tests.traps import TRAPS
from torch import nn

from polymask.calling import tensors_of
from polymask.method.contract import Method
from polymask.methods import HAT, TFM, PackNet, Piggyback
from polymask.nets import build_net
from polymask.sites.table import bake

UNITS: dict[str, Callable[..., Method]] = {
    "hat": HAT,
    "unions": partial(HAT, rule="unions"),
    "tfm": partial(TFM, growth=2),
    "piggyback": partial(Piggyback, granularity="unit"),
}


# What some traps are there for: they are told of, and layers that cannot be masked may get no gradient.
told = pytest.mark.filterwarnings("ignore:masked units were seen", "ignore:task '.' ends although these never moved")


def unless(default: bool, *values: str) -> Any:
    """A case, run by default or only with all others."""
    return pytest.param(*values, marks=() if default else (pytest.mark.full,))


DEFAULT = (("hat", "adamw"), ("tfm", "adamw"), ("piggyback", "sgd_momentum_decay"))
"""A trap is met once, by HAT or, every sixth each, by one of the two others."""
WIRED = {
    "sigmoid",
    "two_activations",
    "conv1d",
    "channels_last",
    "transformer_encoder",
    "nan_to_num",
    "compared",
    "lookup",
    "lookup_of_a_rounded_number",
    "flatten",
    "grouped",
    "depthwise",
    "concatenation",
    "dense_block",
    "pre_activation",
    "squeeze_and_excite",
    "reshaped_rows",
    "max_pool",
    "transposed",
    "gated",
    "gated_by_sigmoid",
    "pixel_shuffle",
    "raw_input_beside",
}
"""Traps that ask who feeds whom and nothing more, which tests/test_wiring.py asks of each of them by default."""
PAIRS = [
    unless(trap not in WIRED and pair == DEFAULT[place % 6 if place % 6 < len(DEFAULT) else 0], trap, *pair)
    for place, trap in enumerate(TRAPS)
    for pair in product(UNITS, ("adamw", "sgd_momentum_decay"))
]


@told
@pytest.mark.parametrize(("trap", "name", "optimizer"), PAIRS)
def test_no_trap_forgets(trap: str, name: str, optimizer: str) -> None:
    torch.manual_seed(0)
    model, example = placed(*TRAPS[trap]())
    method = UNITS[name](model, example, head="head")
    check(method, learn_all(method, drive.tasks(example), drive.OPTIMIZERS[optimizer]()))


@told
@pytest.mark.parametrize(
    ("trap", "name"),
    [unless(name == "hat" and place % 12 == 0, trap, name) for place, trap in enumerate(TRAPS) for name in UNITS],
)
def test_a_task_of_any_trap_can_be_baked(name: str, trap: str) -> None:
    torch.manual_seed(0)
    model, example = placed(*TRAPS[trap]())
    method = UNITS[name](model, example, head="head")
    drive.learn(method, drive.tasks(example)[:2], drive.adamw())
    for task in ("a", "b"):
        answer = drive.logits(method, task)
        assert torch.equal(drive.answer(bake(model), drive.probe(method)), answer)


@dataclass(frozen=True)
class Given(drive.Task):
    """A task whose inputs are given.

    Args:
        given: one for every step, again and again.
    """

    given: Sequence[Any] = ()

    def inputs(self, step: int) -> Any:
        return self.given[step % len(self.given)]


UNLIKE = {
    "time_first_with_a_position_code",
    "padding_of_an_example_of_zeros",
    "more_than_one_row",
    "an_expert_by_number",
}
SHORT = [name for name, build in SWITCHES.items() if not build().whole]
"""The networks that also take two rows of their example."""


@told
@pytest.mark.parametrize(
    ("name", "switch"),
    [unless(name == "hat" and switch in UNLIKE, name, switch) for name in (*UNITS, "packnet") for switch in SHORT],
)
def test_what_other_inputs_switch_on_forgets_nothing(name: str, switch: str) -> None:
    torch.manual_seed(0)
    one = SWITCHES[switch]()
    model, example = placed(one.model, one.example)
    inputs = [tensors_of(x, lambda t: t.to(DEVICE)) for x in one.inputs]
    method = {**UNITS, "packnet": PackNet}[name](model, example, head="head")
    before = {}
    for task in "abc":
        drive.learn(method, [Given(task, example, given=[*inputs, example])], drive.adamw())
        before[task] = [drive.logits(method, task, x) for x in inputs]
    for task, was in before.items():
        assert all(torch.equal(drive.logits(method, task, x), y) for x, y in zip(inputs, was, strict=True)), task


def alexnet() -> tuple[nn.Module, Any]:
    return build_net("alexnet", (3, 32, 32), 5), torch.randn(2, 3, 32, 32)


def of_timm(name: str, **how: Any) -> tuple[nn.Module, Any]:
    timm = pytest.importorskip("timm")
    return timm.create_model(name, num_classes=5, **how), torch.randn(2, 3, 32, 32)


def bert() -> tuple[nn.Module, Any]:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, intermediate_size=24, max_position_embeddings=12, num_labels=5)
    tokens = torch.randint(50, (2, 7))
    return transformers.BertForSequenceClassification(config), {"input_ids": tokens}


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "alexnet": alexnet,
    "bert": bert,
    "resnet18": partial(of_timm, "resnet18"),
    "mobilenetv2_100": partial(of_timm, "mobilenetv2_100"),
    "convnext_atto": partial(of_timm, "convnext_atto"),
    "vit_tiny": partial(of_timm, "vit_tiny_patch16_224", img_size=32),
    "densenet121": partial(of_timm, "densenet121"),
    "resnet50": partial(of_timm, "resnet50"),
}
QUICK = {("piggyback", "alexnet", "adamw")}


def clipped_sgd(method: Method) -> torch.optim.Optimizer:
    """SGD with momentum and decay, its gradients clipped: of two samples a batch, deep plain networks diverge too."""
    optimizer = torch.optim.SGD(method.parameters(), lr=0.02, momentum=0.9, weight_decay=0.05)

    def clip(*_: Any) -> None:
        nn.utils.clip_grad_norm_(method.parameters(), 1.0)

    optimizer.register_step_pre_hook(clip)
    return optimizer


STEPS: dict[str, drive.MakeOptimizer] = {"adamw": drive.adamw(), "sgd": clipped_sgd}


@pytest.mark.parametrize(
    ("name", "network", "optimizer"), [unless(case in QUICK, *case) for case in product(UNITS, NETWORKS, STEPS)]
)
def test_no_network_forgets(name: str, network: str, optimizer: str) -> None:
    torch.manual_seed(0)
    model, example = placed(*NETWORKS[network]())
    method = UNITS[name](model, example)
    assert method.sites.wiring.sizes or name == "tfm"
    check(method, learn_all(method, drive.tasks(example), STEPS[optimizer]))
