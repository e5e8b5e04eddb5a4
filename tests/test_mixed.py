"""A batch of many tasks: every sample is answered as its own task, wherever it lies in the network; or it raises."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from tests.contract import drive
from tests.contract.zoo import BACKBONES, DEVICE, placed
from torch import Tensor, nn

from polymask import HAT, TFM, Method, PackNet, Piggyback
from polymask.calling import tensors_of
from polymask.mixed import Mixed
from polymask.mixed.layout import Layout, decode_layout, signature, variants

UNITS: dict[str, Callable[..., Method]] = {
    "hat": HAT,
    "hat-shared-norms": partial(HAT, norms="first"),
    "tfm": partial(TFM, growth=3),
    "tfm-plain": partial(TFM, growth=3, normalise=False),
    "piggyback": partial(Piggyback, granularity="unit"),
}


@pytest.fixture(autouse=True)
def _whole_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU convolutions multiply by ten bits, which are fewer than what is compared here."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


class Doubled(nn.Linear):
    """A product of a class that has no form of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape).to(DEVICE)


def learned(make: Callable[..., Method], model: nn.Module, example: Any, count: int = 3, lr: float = 0.3) -> Method:
    """Tasks of different widths, learned by large steps so that they differ."""
    model, example = placed(model, example)
    method = make(model, example)
    tasks = drive.tasks(example, count, outputs=(None, 3, 4))
    drive.learn(method, tasks, lambda method: torch.optim.SGD(method.parameters(), lr=lr))
    return method


def batch(example: Any, rows: int) -> Any:
    """So many samples, each its own."""
    wide = tensors_of(example, lambda t: t[:1].expand(rows, *t.shape[1:]).clone())
    wide = tensors_of(wide, lambda t: torch.randint(int(t.max()) + 1, t.shape).to(t) if _ids(t) else t)
    return tensors_of(wide, lambda t: torch.randn(t.shape).to(t) if t.is_floating_point() else t)


def _ids(t: Tensor) -> bool:
    return not t.is_floating_point() and bool((t != 1).any())


def check(method: Method, x: Any, rows: int, model: nn.Module | None = None) -> None:
    """Every sample is answered as its task answers the batch alone, up to rounding; beyond its outputs is -inf."""
    x = tensors_of(x, lambda t: t.to(DEVICE))
    names = list(method.records)
    tasks = [names[(2 * row) % len(names)] for row in range(rows)]
    answers = Mixed(method.sites, method.records)(x, tasks)
    assert len(answers) == rows
    alone = {task: drive.answer(method.plain(task), x) for task in names}
    assert not torch.allclose(alone[names[0]][..., :3], alone[names[1]][..., :3], atol=1e-2)
    for row, task in enumerate(tasks):
        outputs = method.records[task].meta.outputs
        torch.testing.assert_close(answers[row][..., :outputs], alone[task][row], rtol=1e-4, atol=1e-4)
        assert (answers[row][..., outputs:] == -math.inf).all()


NETS = ("mlp_bn", "convnet", "timm_resnet", "timm_vit", "encoder", "minilm")
REFUSED = {("tfm", "encoder")}  # attention's biases are the tasks' own; see below
QUICK = {("hat", "timm_resnet"), ("hat", "minilm"), ("hat", "encoder")}
PAIRS = [
    pytest.param(*pair, marks=() if pair in QUICK or pair[1] in ("mlp_bn", "convnet") else (pytest.mark.full,))
    for pair in product(UNITS, NETS)
    if pair not in REFUSED
]


@pytest.mark.parametrize(("name", "backbone"), PAIRS)
def test_every_sample_is_its_own_task(name: str, backbone: str) -> None:
    torch.manual_seed(0)
    model, example = BACKBONES[backbone]()
    method = learned(UNITS[name], model, example)
    check(method, batch(example, 5), 5)


@pytest.mark.parametrize(
    ("backbone", "words"),
    [("lstm", "a tensor from LSTM, .* found tuple"), ("encoder", "'encoder.layers.0.self_attn', .* found 7 arguments")],
)
def test_tensors_of_their_own_in_a_layer_that_takes_or_gives_several_are_refused(backbone: str, words: str) -> None:
    method = learned(TFM, *BACKBONES[backbone]())
    with pytest.raises(ValueError, match=words):
        Mixed(method.sites, method.records)(method.example, ["a", "b", "c", "a"])


class Rows(nn.Module):
    """Tokens that all its layers see as rows of one matrix, ``(b, t, c)`` as ``(1, b t, c)``."""

    def __init__(self, order: str = "flat") -> None:
        super().__init__()
        self.order = order
        self.up, self.norm, self.down, self.head = nn.Linear(6, 12), nn.LayerNorm(12), nn.Linear(12, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        if self.order == "flat":
            x = x.reshape(1, b * t, c)
        elif self.order == "time-first":
            x = x.transpose(0, 1)
        elif self.order == "time-first, flat":
            x = x.transpose(0, 1).reshape(b * t, c)
        x = self.down(self.norm(self.up(x).relu())).relu()
        if self.order == "time-first":
            x = x.transpose(0, 1)
        elif self.order == "time-first, flat":
            x = x.reshape(t, b, -1).transpose(0, 1)
        return self.head(x.reshape(b, t, -1).mean(1))


@pytest.mark.parametrize("order", ["flat", "time-first", "time-first, flat"])
@pytest.mark.parametrize("rows", [1, 4, 6])
def test_rows_are_found_wherever_the_network_puts_them(order: str, rows: int) -> None:
    torch.manual_seed(0)
    method = learned(HAT, Rows(order), torch.randn(4, 4, 6))
    check(method, torch.randn(rows, 4, 6), rows)


class Mingled(nn.Module):
    """A network in which samples see each other: no sample has an answer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(x - x.flip(0)).relu())


def test_samples_that_mix_are_refused() -> None:
    method = learned(HAT, Mingled(), torch.randn(4, 6))
    with pytest.raises(ValueError, match="lie along one axis of what 'up' is given, found them mixed"):
        Mixed(method.sites, method.records)(randn(4, 6), ["a", "b", "a", "b"])


class Unheard(nn.Module):
    """A network that reads a layer's weight without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.up(x).relu(), self.head.weight, self.head.bias)


def test_a_layer_that_is_never_called_is_not_answered_wrongly() -> None:
    method = learned(HAT, Unheard(), torch.randn(4, 6))
    with pytest.raises(ValueError, match="expected the network to call 'head'"):
        Mixed(method.sites, method.records)(randn(2, 6), ["a", "b"])


def test_what_cannot_be_served_is_refused_in_words() -> None:
    model, example = BACKBONES["mlp_bn"]()
    method = learned(HAT, model, example)
    mixed, x = Mixed(method.sites, method.records), randn(2, 12)
    with pytest.raises(ValueError, match="a task for each of 2 samples, found 1"):
        mixed(x, ["a"])
    with pytest.raises(KeyError, match="tasks among a, b, c, found z"):
        mixed(x, ["a", "z"])
    with pytest.raises(ValueError, match="a batch with a tensor in it"):
        mixed(3, ["a"])
    with pytest.raises(ValueError, match="at least one task"):
        Mixed(method.sites, {})
    method.begin("d")
    with pytest.raises(ValueError, match="no task in training"):
        Mixed(method.sites, method.records)
    method.abandon()
    method.sites.write("0.weight", torch.full((24, 12), torch.inf))
    with pytest.raises(ValueError, match=r"a finite base, found inf or NaN in '0.weight'"):
        Mixed(method.sites, method.records)


@pytest.mark.parametrize("kind", UNITS)
def test_a_task_in_training_is_not_served(kind: str) -> None:
    torch.manual_seed(0)
    method = learned(UNITS[kind], *BACKBONES["mlp_bn"](), count=1)
    method.begin("next")
    with pytest.raises(ValueError, match="no task in training"):
        Mixed(method.sites, method.records)


def test_masks_on_single_weights_are_refused() -> None:
    method = learned(PackNet, *BACKBONES["mlp_bn"]())
    with pytest.raises(ValueError, match=r"that share every weight, found that 'a' reads '0.weight' under a mask"):
        Mixed(method.sites, method.records)


def test_the_model_itself_stays_as_it_is() -> None:
    model, example = BACKBONES["mlp_bn"]()
    method = learned(HAT, model, example)
    method.activate("b")
    before, answer = drive.tensors(model), drive.answer(model, drive.probe(method))
    Mixed(method.sites, method.records)(randn(3, 12), ["a", "c", "a"])
    assert not drive.differing(before, drive.tensors(model))
    assert torch.equal(drive.answer(model, drive.probe(method)), answer)


class Bits(nn.Module):
    """A network of tokens of two kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(2, 6).requires_grad_(False)
        self.up, self.head = nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.up(self.words(tokens)).relu().mean(1))


def test_tokens_of_two_kinds_tell_samples_apart_and_of_one_kind_cannot() -> None:
    torch.manual_seed(0)
    method = learned(HAT, Bits(), torch.randint(2, (4, 5)))
    check(method, torch.randint(2, (4, 5)), 4)
    with pytest.raises(ValueError, match="ask first with others"):
        Mixed(method.sites, method.records)(torch.zeros(4, 5, dtype=torch.long, device=DEVICE), ["a", "b", "a", "b"])


def test_a_nan_in_one_sample_leaves_the_others_answers() -> None:
    method = learned(HAT, *BACKBONES["mlp_bn"]())
    x = randn(4, 12)
    x[0, 0] = torch.nan
    answers = Mixed(method.sites, method.records)(x, ["a", "b", "c", "a"])
    assert answers[0].isnan().all()
    torch.testing.assert_close(answers[1][:3], drive.answer(method.plain("b"), x)[1], rtol=1e-4, atol=1e-4)


def test_a_shape_is_asked_about_once(monkeypatch: pytest.MonkeyPatch) -> None:
    method = learned(HAT, *BACKBONES["mlp_bn"]())
    mixed, calls = Mixed(method.sites, method.records), []
    mixed.model.register_forward_pre_hook(lambda *_: calls.append(None))
    for rows, expected in ((5, 6), (5, 1), (2, 4), (5, 1)):
        calls.clear()
        mixed(randn(rows, 12), ["a"] * rows)
        assert len(calls) == expected


@pytest.mark.parametrize(("rows", "shape", "axis"), [(3, (3, 4), 0), (4, (4, 4), 0), (2, (5, 2), 1)])
def test_layouts_are_read_from_what_changed(rows: int, shape: tuple[int, ...], axis: int) -> None:
    seen = []
    for x in variants(torch.randn(rows, 1), rows):
        spread = [1] * len(shape)
        spread[axis] = rows
        seen.append(signature(x.view(*spread, 1).expand(*shape, 1), -1))
    found = decode_layout("layer", seen, rows)
    assert (found.axis, found.owner.tolist()) == (axis, list(range(rows)))


def test_values_go_where_their_samples_are() -> None:
    values, index = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0, 1])
    first = Layout(0, torch.arange(3)).spread(values, index, 4, 1)
    assert (first.shape, first[:, 1, 0, 0].tolist()) == ((3, 2, 1, 1), [4, 2, 4])
    late = Layout(1, torch.arange(3)).spread(values, index, 3, 0)
    assert (late.shape, late[1, 0].tolist()) == ((2, 1, 3), [4, 2, 4])
