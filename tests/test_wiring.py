"""Who feeds whom in a network, and that what a mask is said to shut really may be anything."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.traps import TRAPS
from tests.wirings import asked, found, leak, weights

from polymask.wiring import Feed, Wiring, ask
from polymask.wiring import cache as remembered
from polymask.wiring.question import codes_of
from polymask.wiring.table import ANY, NONE, runs, spelled

FOUND = {
    "sum_of_branches": ("a b", "head:5", ""),
    "sigmoid": ("b", "head:4", ""),
    "layer_norm": ("a b", "b:5 head:4", "norm"),
    "layer_norm_without_affine": ("b", "head:4", ""),
    "group_norm": ("a b", "b:6 head:4", "norm"),
    "instance_norm": ("a", "head:5", "norm"),
    "batch_norm": ("a>norm b", "b:6 head:4", ""),
    "batch_norm_without_affine": ("b", "head:4", ""),
    "batch_norm_of_a_sum": ("a b", "head:6", "norm"),
    "batch_norm_of_shuffled_channels": ("a b", "b:6 head:4", "norm"),
    "batch_norm_beside_a_hidden_reader": ("b", "head:6", ""),
    "scale_and_shift": ("b", "head:4", ""),
    "two_activations": ("a b", "b:5 head:4", ""),
    "two_activations_one_reader_called_twice": ("b", "head:4", ""),
    "called_twice": ("a b", "b:6 head:4", ""),
    "conv1d": ("a b", "b:5 head:4", ""),
    "channels_last": ("a b", "b:5 head:4", ""),
    "inplace_activations": ("a b", "b:5 head:5", ""),
    "transformer_encoder": (
        "body.layers.0.linear1 body.layers.1.linear1",
        "body.layers.0.linear2:12 body.layers.1.linear2:12",
        "",
    ),
    "attention": ("v", "out:8", ""),
    "never_called": ("", "", ""),
    "weight_also_read_elsewhere": ("a", "", ""),
    "nan_to_num": ("a b d", "d:5 head:4", ""),
    "compared": ("a b d", "d:5 head:4", ""),
    "nan_to_num_before_a_head_of_zeros": ("a b d", "d:5 head:4", ""),
    "lookup": ("b c", "head:4", ""),
    "lookup_of_a_rounded_number": ("", "", ""),
    "flatten": ("a b", "b:120 head:4", ""),
    "grouped": ("a b c", "b:6 c:4 head:6", ""),
    "depthwise": ("a b c", "b:6 c:12 head:5", ""),
    "concatenation": ("a b c", "c:10 head:5", ""),
    "dense_block": ("a b c>n3", "b:4 c:8 head:5", "n1 n2"),
    "residual_block": ("a>na b>nb c>nc d>nd s>ns", "b:4 c:4 d:6 head:6 s:4", ""),
    "pre_activation": ("a b>n2 c", "b:4 c:6 head:4", "n1 n3"),
    "squeeze_and_excite": ("a r e b", "b:6 e:2 head:4 r:6", ""),
    "reshaped_rows": ("a b", "b:5 head:4", ""),
    "dropout": ("a b", "b:5 head:4", ""),
    "max_pool": ("a b", "b:5 head:4", ""),
    "transposed": ("b", "head:4", ""),
    "tied_layers": ("c", "c:6 head:4", ""),
    "tied_head": ("a", "", ""),
    "gated": ("a g b", "b:5 head:4", ""),
    "gated_by_sigmoid": ("b", "head:4", ""),
    "pixel_shuffle": ("b", "head:4", ""),
    "zero_at_the_start": ("a b c", "b:5 c:5 head:4", ""),
    "zeros_of_a_layer_that_is_not_masked": ("c", "head:4", ""),
    "raw_input_beside": ("b", "head:4", ""),
    "standardised_weights": ("a", "head:4", ""),
}
"""Trap -> the layers that have a site (``layer>norm`` where the norm is masked), how many columns of which reader are
shut by what feeds them, and the norms that are masked again."""


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    remembered.FOUND.clear()


def closed(wiring: Wiring) -> dict[str, int]:
    """Reader -> how many of its columns something shuts."""
    layers = {reader: int((~free).sum()) for reader, free in wiring.free.items() if reader not in wiring.echoes}
    return {reader: count for reader, count in layers.items() if count}


@pytest.mark.parametrize("name", TRAPS)
def test_what_is_not_live_may_be_anything(name: str) -> None:
    model, wiring = found(name)
    assert leak(model, wiring, TRAPS[name]()[1]) == ""


@pytest.mark.parametrize("name", TRAPS)
def test_finds_what_can_be_found(name: str) -> None:
    rows, columns, echoes = FOUND[name]
    _, wiring = found(name)
    assert wiring.rows == {(part := row.split(">"))[0]: part[-1] for row in rows.split()}
    assert closed(wiring) == {part.split(":")[0]: int(part.split(":")[1]) for part in columns.split()}
    assert list(wiring.echoes) == echoes.split()


@pytest.mark.parametrize("name", TRAPS)
def test_the_answer_comes_back_from_json(name: str) -> None:
    _, wiring = found(name)
    back = Wiring.from_json(json.loads(json.dumps(wiring.to_json())))
    for key in ("sites", "sizes", "rows", "echoes", "groups"):
        assert getattr(back, key) == getattr(wiring, key)
    assert back.free.keys() == wiring.free.keys()
    assert all(torch.equal(back.free[reader], free) for reader, free in wiring.free.items())
    for reader, feeds in wiring.feeds.items():
        assert [feed.site for feed in back.feeds[reader]] == [feed.site for feed in feeds]
        assert all(torch.equal(a.units, b.units) for a, b in zip(back.feeds[reader], feeds, strict=True))


def test_leaves_the_network_and_the_random_numbers_alone() -> None:
    model, example = TRAPS["residual_block"]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    ask(model, example, "head", weights(model))
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules())


def test_units_of_a_flattened_image_are_blocks_of_columns() -> None:
    _, wiring = found("flatten")
    assert torch.equal(wiring.feeds["b"][0].units, torch.arange(5).repeat_interleave(24))


def test_units_of_shuffled_channels_and_of_a_concatenation() -> None:
    _, shuffled = found("batch_norm_of_shuffled_channels")
    assert shuffled.traced().feeds["b"][0].units.tolist() == [2, 0, 1, 5, 3, 4]
    _, beside = found("concatenation")
    a, b = beside.feeds["c"]
    assert (a.site, b.site) == ("a", "b")
    assert a.units.tolist() == [0, 1, 2, 3] + [NONE] * 9
    assert b.units.tolist() == [NONE] * 4 + [0, 1, 2, 3, 4, 5] + [NONE] * 3
    assert beside.free["c"].tolist() == [False] * 10 + [True] * 3


def test_depthwise_by_hand() -> None:
    _, wiring = found("depthwise")
    masks = {"a": torch.tensor([1, 0, 1, 1, 0, 1]) > 0, "b": torch.ones(12) > 0, "c": torch.ones(5) > 0}
    masks["b"][[0, 3]] = False
    live = wiring.ends("b.weight", torch.Size([12, 1, 3, 3]), masks, True).expand(12, 1, 3, 3)
    # Row i reads column i // 2: rows 2, 3 and 8, 9 read shut columns, and row 0 is shut itself.
    assert live.all((1, 2, 3)).tolist() == [False, True, False, False, True, True, True, True, False, False, True, True]
    assert torch.equal(live.any((1, 2, 3)), live.all((1, 2, 3)))
    assert wiring.ends("b.bias", torch.Size([12]), masks, True).tolist() == masks["b"].tolist()


def test_grouped_by_hand() -> None:
    _, wiring = found("grouped")
    masks = {"a": torch.tensor([1, 0, 0, 0, 0, 1]) > 0, "b": torch.ones(4) > 0, "c": torch.ones(6) > 0}
    live = wiring.ends("b.weight", torch.Size([4, 3, 3, 3]), masks, True)[..., 0, 0]
    assert live.tolist() == [[True, False, False]] * 2 + [[False, False, True]] * 2


def test_the_weight_of_a_norm_is_live_where_its_mask_is() -> None:
    _, wiring = found("pre_activation")
    masks = {site: torch.arange(size) % 2 == 0 for site, size in wiring.sizes.items()}
    live = wiring.ends("n1.weight", torch.Size([4]), masks, True)
    assert live.tolist() == wiring.echoed(masks)["n1"].tolist() == [True, False, True, False]


def test_a_sum_is_live_if_one_of_its_branches_is() -> None:
    _, wiring = found("sum_of_branches")
    masks = {"a": torch.tensor([1, 1, 0, 0, 0]) > 0, "b": torch.tensor([1, 0, 1, 0, 0]) > 0}
    live = wiring.ends("head.weight", torch.Size([3, 5]), masks, True)
    assert live.tolist() == [[True, True, True, False, False]] * 3
    assert wiring.ends("elsewhere.weight", torch.Size([2, 2]), masks, True).all()


def test_notes_say_why() -> None:
    def why(name: str, layer: str) -> str:
        return found(name)[1].notes[layer]

    assert "not called" in why("never_called", "b")
    assert "another name" in why("tied_layers", "a")
    assert "do not arrive there as zero" in why("sigmoid", "a")
    assert "not found" in why("nan_to_num", "c")
    assert "fails where" in why("lookup_of_a_rounded_number", "a")


def test_warns_of_what_it_doubts() -> None:
    model, example = TRAPS["nan_to_num"]()
    with pytest.warns(UserWarning, match="past what was found of c: these layers freeze whole"):
        ask(model, example, "head", weights(model))


def test_only_masked_layers_get_a_site() -> None:
    model, example = TRAPS["conv1d"]()
    wiring = ask(model, example, "head", ["b.weight"])
    assert wiring.rows == {"b": "b"}
    assert not wiring.feeds.keys() - {"head"}


@pytest.mark.parametrize(
    "name", ["nan_to_num", "compared", "batch_norm_beside_a_hidden_reader", "standardised_weights"]
)
def test_mutant_that_believes_what_it_found_leaks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("polymask.wiring.ask"), "doubted", lambda wiring, *_: wiring)
    model, wiring = asked(name)
    assert "logits off by" in leak(model, wiring, TRAPS[name]()[1])


@pytest.mark.parametrize("name", ["concatenation", "sigmoid", "two_activations"])
def test_mutant_that_takes_free_columns_for_dead_leaks(name: str) -> None:
    model, wiring = found(name)
    feeds = {layer: wiring.feeds.get(layer, (Feed(next(iter(wiring.sites)), torch.tensor([NONE])),)) for layer in "bc"}
    feeds = {layer: each for layer, each in feeds.items() if hasattr(model, layer)}
    if name == "sigmoid":
        feeds["b"] = (Feed("b", torch.full((5,), NONE)),)
    free = {reader: torch.zeros(len(each[0].units), dtype=torch.bool) for reader, each in feeds.items()}
    believing = replace(wiring, feeds={**wiring.feeds, **feeds}, free={**wiring.free, **free})
    assert "logits off by" in leak(model, believing, TRAPS[name]()[1])


@pytest.mark.parametrize("name", ["scale_and_shift", "batch_norm_without_affine", "raw_input_beside"])
def test_mutant_that_draws_parameters_once_leaks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymask.wiring.question.Question.zeros", _zeros_of_one_draw)
    monkeypatch.setattr(import_module("polymask.wiring.ask"), "doubted", lambda wiring, *_: wiring)
    leaks = []
    for _ in range(3):
        model, wiring = asked(name)
        leaks.append(leak(model, wiring, TRAPS[name]()[1]))
    assert any(leaks)


def _zeros_of_one_draw(self, gates, draws):
    from polymask.wiring.probe import busy

    seen = self.probe.run(gates, self.readers, busy)[1]
    return {reader: ~at for reader, at in seen.items()}, {reader: at & False for reader, at in seen.items()}


@given(st.lists(st.integers(-2, 9), max_size=40))
def test_runs_come_back(values: list[int]) -> None:
    assert spelled(runs(values)).tolist() == values


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20), st.integers(1, 9)), min_size=1, max_size=4))
def test_blocks_are_short(blocks: list[tuple[int, int, int]]) -> None:
    values = [unit for first, count, width in blocks for unit in range(first, first + count) for _ in range(width)]
    assert spelled(runs(values)).tolist() == values


@given(st.integers(1, 80))
def test_no_two_codes_together_are_a_code(count: int) -> None:
    codes = codes_of(count)
    both = (codes[:, :, None] | codes[:, None]).sum(0)
    apart = ~torch.eye(count, dtype=torch.bool)
    assert codes.shape[1] == count
    assert (both[apart] > codes.sum(0)[0]).all()
    assert (codes.sum(0) == codes.sum(0)[0]).all()


def test_a_column_that_mixes_units_takes_the_largest() -> None:
    feed = Feed("a", torch.tensor([ANY, 1, NONE]))
    assert feed.per_column(torch.tensor([True, False])).tolist() == [True, False, False]
