"""Wirings of whole networks: how much is found of them, and that it is remembered for the next of the same build."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from tests.traps import TRAPS
from tests.wirings import weights
from torch import nn

from polymask.nets import build_net
from polymask.parts.recent import Recent
from polymask.wiring import Wiring, ask
from polymask.wiring import cache as remembered
from polymask.wiring.table import ANY


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    remembered.FOUND.clear()


def _asked_for(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How often the network was asked, and how often it was cross-checked, in one answer."""
    module, counts = import_module("polymask.wiring.ask"), [0, 0]

    def counted(place: int, do: Any) -> Any:
        def run(*args: Any) -> Any:
            counts[place] += 1
            return do(*args)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(module, "_examine", counted(0, module._examine))
        patch.setattr(module, "cross_check", counted(1, module.cross_check))
        ask(model, torch.randn(2, 3, 8, 8), "head", weights(model))
    return counts[0], counts[1]


def test_is_asked_once_and_doubted_always(monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = (build_net("convnet", (3, 8, 8), 4, seed=seed) for seed in (0, 1))
    assert _asked_for(first, monkeypatch) == (1, 1)
    assert _asked_for(again, monkeypatch) == (0, 1)
    other = build_net("convnet", (3, 8, 8), 5)
    assert _asked_for(other, monkeypatch) == (1, 1)
    assert len(remembered.FOUND) == 2


def test_remembers_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "FOUND", Recent(2))
    for outputs in (2, 3, 4):
        assert _asked_for(build_net("convnet", (3, 8, 8), outputs), monkeypatch) == (1, 1)
    assert len(remembered.FOUND) == 2
    assert _asked_for(build_net("convnet", (3, 8, 8), 4), monkeypatch) == (0, 1)
    assert _asked_for(build_net("convnet", (3, 8, 8), 2), monkeypatch) == (1, 1)


def test_a_closure_is_like_no_other() -> None:
    model, example = TRAPS["conv1d"]()
    assert remembered.key_of(model, example, "head", []) is None


def test_settings_ties_and_fixed_buffers_tell_networks_apart() -> None:
    def key(**how: Any) -> object:
        net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(how.get("drop", 0.5)), nn.Linear(4, 4))
        net.register_buffer("order", torch.tensor(how.get("order", [0, 1])))
        if how.get("tied"):
            net[2].weight = net[0].weight
        return remembered.key_of(net, torch.zeros(how.get("rows", 2), how.get("columns", 4)), "2", [])

    assert key() == key(rows=5)
    keys = [key(), key(drop=0.1), key(order=[1, 0]), key(tied=True), key(columns=3)]
    assert len(set(keys)) == 5


def counts(name: str, size: int, head: str, **how: Any) -> tuple[int, Wiring]:
    """Of how many weights every column is shut by single units of its sources or free, and some are shut."""
    model = pytest.importorskip("timm").create_model(name, num_classes=4, **how)
    names = weights(model, head)
    wiring = ask(model, torch.randn(1, 3, size, size), head, names)
    return len(fully(wiring)), wiring


def fully(wiring: Wiring) -> list[str]:
    """The readers of which every column is fed by one unit of each of its sites, and shut when these are."""
    return [
        reader
        for reader, feeds in wiring.feeds.items()
        if reader not in wiring.echoes
        and not wiring.free[reader].any()
        and all((feed.units != ANY).all() for feed in feeds)
    ]


@pytest.mark.parametrize(
    ("name", "head", "floor"),
    [("resnet18", "fc", 20), pytest.param("mobilenetv2_100", "classifier", 36, marks=pytest.mark.full)],
)
def test_floors_on_small_networks(name: str, head: str, floor: int) -> None:
    found, wiring = counts(name, 32, head)
    assert found >= floor
    assert not wiring.notes


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "size", "head", "floor"),
    [("densenet121", 32, "classifier", 116), ("resnet50", 32, "fc", 53), ("convnext_atto", 32, "head.fc", 12)],
)
def test_floors_on_large_networks(name: str, size: int, head: str, floor: int) -> None:
    assert counts(name, size, head)[0] >= floor


@pytest.mark.full
def test_every_second_layer_of_a_vit() -> None:
    _, wiring = counts("vit_tiny_patch16_224", 32, "head", img_size=32)
    assert set(wiring.rows) >= {f"blocks.{place}.mlp.fc1" for place in range(12)}
    assert set(fully(wiring)) >= {f"blocks.{place}.mlp.fc2" for place in range(12)}


@pytest.mark.full
def test_values_and_intermediate_layers_of_bert() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, intermediate_size=24, max_position_embeddings=12, num_labels=3)
    model = transformers.BertForSequenceClassification(config)
    example = {"input_ids": torch.randint(50, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    wiring = ask(model, example, "classifier", weights(model, "classifier"))
    layers = [f"bert.encoder.layer.{place}" for place in range(2)]
    sites = [f"{layer}.{leaf}" for layer in layers for leaf in ("attention.self.value", "intermediate.dense")]
    assert set(wiring.sites) >= set(sites)
    readers = [f"{layer}.{leaf}" for layer in layers for leaf in ("attention.output.dense", "output.dense")]
    assert set(fully(wiring)) >= set(readers)
