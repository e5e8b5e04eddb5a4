"""Inputs unlike the example: what they switch on is found, and what an attention spreads is not mistaken for a feed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import torch
from tests.switches import QUICK, SWITCHES, Switch
from tests.test_wiring import closed
from tests.wirings import leak, weights
from torch import nn

from polymask.wiring import Wiring, ask
from polymask.wiring import cache as remembered
from polymask.wiring.inputs import Inputs, InputSpace


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    remembered.FOUND.clear()


def asked(one: Switch) -> Wiring:
    return ask(one.model, one.example, "head", weights(one.model))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.full) for name in SWITCHES]
)
def test_what_other_inputs_switch_on_is_found(name: str) -> None:
    one = SWITCHES[name]()
    wiring = asked(one)
    assert {*wiring.rows} == {*one.rows.split()}
    assert closed(wiring) == {part.split(":")[0]: int(part.split(":")[1]) for part in one.columns.split()}
    assert leak(one.model, wiring, inputs=one.inputs) == ""


def bert(kind: str, example: str) -> tuple[nn.Module, dict[str, Any]]:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 12, "max_position_embeddings": 12}
    config = transformers.BertConfig(**sizes, attn_implementation=kind)
    tokens, mask = torch.randint(1, 50, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    mask[0, 5:] = 0
    masks = {"no mask": {}, "unpadded": {"attention_mask": mask | 1}, "padded": {"attention_mask": mask}}
    return transformers.BertForSequenceClassification(config), {"input_ids": tokens, **masks[example]}


@pytest.mark.parametrize("kind", ["eager", pytest.param("sdpa", marks=pytest.mark.full)])
@pytest.mark.parametrize(
    "example", [*(pytest.param(e, marks=pytest.mark.full) for e in ("no mask", "unpadded")), "padded"]
)
def test_all_values_of_an_attention_are_found_whatever_computes_it(kind: str, example: str) -> None:
    model, given = bert(kind, example)
    wiring = ask(model, given, "classifier", weights(model, "classifier"))
    layers = [f"bert.encoder.layer.{place}" for place in range(2)]
    sites = {f"{layer}.{leaf}": size for layer in layers for leaf, size in _SITES.items()}
    assert wiring.sizes == {**sites, "bert.pooler.dense": 8}
    readers = {f"{layer}.{leaf}": size for layer in layers for leaf, size in _READERS.items()}
    assert closed(wiring) == {**readers, "classifier": 8}
    if (kind, example) == ("eager", "padded"):
        assert leak(model, wiring, inputs=[given, bert(kind, "no mask")[1]], draws=1) == ""


_SITES = {"attention.self.value": 8, "intermediate.dense": 12}
_READERS = {"attention.output.dense": 8, "output.dense": 12}


def test_the_kernel_of_an_attention_tells_networks_apart() -> None:
    models, example = [bert(kind, "padded")[0] for kind in ("eager", "sdpa", "sdpa")], bert("eager", "padded")[1]
    keys = [remembered.key_of(model, example, "classifier", []) for model in models]
    assert keys[0] != keys[1] == keys[2]
    assert None not in keys


def test_integers_and_flags_of_an_example_tell_builds_apart() -> None:
    def key(*example: Any) -> object:
        return remembered.key_of(nn.Linear(2, 2), example, "", [])

    assert key(torch.zeros(2, 3), 1) == key(torch.ones(2, 3), 1) != key(torch.ones(2, 3), 2)
    assert key(torch.tensor([1, 2])) == key(torch.tensor([2, 1])) != key(torch.tensor([1, 3]))


@pytest.mark.parametrize(("names", "least"), [(QUICK, 10), pytest.param(SWITCHES, 20, marks=pytest.mark.full)])
def test_mutant_that_asks_the_example_alone_leaks(
    names: Collection[str], least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polymask.wiring.paint.explore", lambda model, inputs: InputSpace(base=_row(inputs)))
    monkeypatch.setattr(Inputs, "next_accepted", lambda self, run: None)
    leaks = {}
    for name in sorted(names):
        one = SWITCHES[name]()
        leaks[name] = leak(one.model, asked(one), inputs=one.inputs, draws=1)
    assert "logits off by" in leaks["padding_of_an_example_of_zeros"]
    assert sum(map(bool, leaks.values())) > least


def _row(inputs: Inputs) -> dict[tuple[int, int], int]:
    cut = {(place, 0): 1 for place, shape in inputs.shapes.items() if shape}
    return {} if len({shape[0] for shape in inputs.shapes.values() if shape}) > 1 else cut
