"""Forms of single layers by themselves: what a row of each task comes to, whatever a task has of its own in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tests.test_mixed import Doubled
from torch import Tensor, nn
from torch.func import functional_call

from polymask.mixed.forms import form_of, per_task
from polymask.mixed.own import Own, own_of, padded
from polymask.parts.pack import pack, pack_block, unpack
from polymask.task import Meta, TaskRecord

INDEX = torch.tensor([1, 0, 2, 1, 0])
"""The task of every sample."""
TASKS, UNITS = 3, 4


def images() -> Tensor:
    return torch.randn(len(INDEX), 6, 5, 5)


def flat() -> Tensor:
    return torch.randn(len(INDEX), 6)


def steps() -> Tensor:
    return torch.randn(len(INDEX), 3, 6)


LAYERS: dict[str, tuple[Callable[..., nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda bias: nn.Linear(6, UNITS, bias=bias), flat),
    "linear over steps": (lambda bias: nn.Linear(6, UNITS, bias=bias), steps),
    "convolution": (lambda bias: nn.Conv2d(6, UNITS, 3, stride=2, padding=1, bias=bias), images),
    "convolution over steps": (lambda bias: nn.Conv1d(3, UNITS, 3, bias=bias), steps),
    "of one's own": (lambda bias: Doubled(6, UNITS, bias=bias), flat),
}
NORMS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "batch": (lambda: nn.BatchNorm2d(6), images),
    "batch, plain": (lambda: nn.BatchNorm2d(6, affine=False), images),
    "group": (lambda: nn.GroupNorm(2, 6), images),
    "group, plain": (lambda: nn.GroupNorm(2, 6, affine=False), images),
    "layer": (lambda: nn.LayerNorm(6), flat),
    "layer, no bias": (lambda: nn.LayerNorm(6, bias=False), flat),
    "layer, plain": (lambda: nn.LayerNorm(6, elementwise_affine=False), flat),
    "layer over two axes": (lambda: nn.LayerNorm((3, 6)), steps),
}


def spread_over(units: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Values of each sample's own task, along the axis of units of an activation."""

    def spread(values: Tensor, t: Tensor) -> Tensor:
        found = values[INDEX]
        return (
            found.view(len(INDEX), -1, *[1] * (t.ndim - 2))
            if units == 1
            else found.view(len(INDEX), *[1] * (t.ndim - 2), -1)
        )

    return spread


def check(module: nn.Module, own: Own, x: Tensor) -> None:
    """The form's answers are the layer's under each task's own tensors, sample by sample."""
    module.eval()
    units = 1 if isinstance(module, nn.Conv1d | nn.Conv2d | nn.BatchNorm2d | nn.GroupNorm) else -1
    form = form_of(module, own) or per_task(module, own)
    found = form(x.clone(), spread_over(units))
    for place, task in enumerate(INDEX.tolist()):
        tensors = {leaf: each[task] for leaf, each in own.tensors.items()}
        for leaf, gains in own.rows.items():
            weight = module.get_parameter(leaf).detach()
            tensors[leaf] = weight * gains[task].view(-1, *[1] * (weight.ndim - 1))
        alone = functional_call(module, tensors, (x[place : place + 1],))[0]
        gate = None if own.gate is None else own.gate[task]
        if gate is not None:
            alone = alone * (gate if units == -1 else gate.view(-1, *[1] * (alone.ndim - 1)))
        torch.testing.assert_close(found[place], alone, rtol=1e-5, atol=1e-6)


def drawn(module: nn.Module, leaves: Sequence[str]) -> dict[str, list[Tensor]]:
    """Tensors of each task's own; what is a variance stays above 0."""
    shapes = {leaf: getattr(module, leaf).shape for leaf in leaves if getattr(module, leaf, None) is not None}
    return {leaf: [torch.rand(shape) + 0.5 for _ in range(TASKS)] for leaf, shape in shapes.items()}


GATES = {"no gate": None, "gates": torch.tensor([[1.0, 0, 1, 0], [0.5, 1, 0, 1], [1, 1, 1, 0]])}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("bias", ["none", "shared", "own"])
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_product_is_that_of_each_samples_task(layer: str, rows: bool, bias: str, gate: str) -> None:
    torch.manual_seed(0)
    make, draw = LAYERS[layer]
    module = make(bias != "none")
    own = Own(
        TASKS,
        drawn(module, ["bias"] if bias == "own" else []),
        {"weight": torch.rand(TASKS, UNITS)} if rows else {},
        GATES[gate],
    )
    check(module, own, draw())


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("own_tensors", [(), ("weight", "bias"), ("running_mean", "running_var"), ("bias",)])
@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_is_that_of_each_samples_task(norm: str, own_tensors: Sequence[str], gated: bool) -> None:
    torch.manual_seed(0)
    make, draw = NORMS[norm]
    module = make()
    for leaf, tensors in drawn(module, ("weight", "bias", "running_mean", "running_var")).items():
        getattr(module, leaf).data.copy_(tensors[0])
    assert (form_of(module, Own(TASKS)) is None) == ("two" in norm)
    check(module, Own(TASKS, drawn(module, own_tensors), {}, torch.rand(TASKS, 6) if gated else None), draw())


def test_a_norm_that_reads_its_batch_has_no_form() -> None:
    assert form_of(nn.BatchNorm2d(6, track_running_stats=False), Own(TASKS)) is None


@pytest.mark.parametrize("draw", [flat, steps])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", [(4, 4, 4), (2, 4, 3), (2, 2, 1)])
@pytest.mark.parametrize("kind", [nn.Linear, Doubled])
def test_a_head_is_as_wide_as_its_tasks(
    kind: type[nn.Linear], widths: Sequence[int], bias: bool, draw: Callable[[], Tensor]
) -> None:
    torch.manual_seed(0)
    module = kind(6, UNITS, bias=bias)
    tensors = {"weight": [torch.randn(width, 6) for width in widths]}
    if bias:
        tensors["bias"] = [torch.randn(width) for width in widths]
    own, x = Own(TASKS, tensors, head=True), draw()
    form = form_of(module, own) or per_task(module, own)
    found = form(x, spread_over(-1))
    assert found.shape == (*x.shape[:-1], max(widths))
    for place, task in enumerate(INDEX.tolist()):
        alone = functional_call(module, {leaf: each[task] for leaf, each in tensors.items()}, (x[place],))
        torch.testing.assert_close(found[place][..., : widths[task]], alone, rtol=1e-5, atol=1e-6)
        assert torch.isneginf(found[place][..., widths[task] :]).all()


@pytest.mark.parametrize("layer", ["convolution", "convolution over steps"])
def test_a_kernel_of_each_tasks_own_is_that_of_each_samples_task(layer: str) -> None:
    torch.manual_seed(0)
    make, draw = LAYERS[layer]
    module = make(True)
    check(module, Own(TASKS, drawn(module, ["weight", "bias"])), draw())


@pytest.mark.parametrize("kind", [nn.Linear, Doubled])
def test_a_single_task_and_no_samples_at_all(kind: type[nn.Linear]) -> None:
    module, own = kind(6, UNITS), Own(1, {"weight": [torch.randn(2, 6)], "bias": [torch.randn(2)]}, head=True)
    form = form_of(module, own) or per_task(module, own)
    for rows in (0, 3):
        assert form(torch.randn(rows, 6), lambda values, t: values[torch.zeros(len(t), dtype=torch.long)]).shape == (
            rows,
            2,
        )
    assert own.beyond("weight", 3).tolist() == [[False, False, True]]


def test_a_layer_that_no_head_is_keeps_the_width_that_it_has_grown_to() -> None:
    own = Own(2, {"bias": [torch.ones(2), torch.ones(3)]})
    assert own.stack("bias", torch.zeros(5)).tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    head = Own(2, {"bias": [torch.ones(2), torch.ones(3)]}, head=True)
    assert head.stack("bias", torch.zeros(5)).tolist() == [[1, 1, 0], [1, 1, 1]]
    assert head.beyond("bias", 3).tolist() == [[False, False, True], [False, False, False]]
    assert Own(2).stack("bias", torch.arange(2.0)).tolist() == [[0, 1], [0, 1]]
    assert Own(2, head=True).stack("scale", torch.tensor(3.0)).tolist() == [3, 3]
    assert padded([torch.ones(1)]).tolist() == [[1]]


@pytest.mark.parametrize(
    ("tensors", "rows", "changes"),
    [({}, {}, False), ({"a": [torch.ones(1)]}, {}, True), ({}, {"a": torch.ones(1, 1)}, True)],
)
def test_what_tasks_read_otherwise_than_it_stands_there(tensors: Any, rows: Any, changes: bool) -> None:
    assert Own(1, tensors, rows).changes("a") == changes
    assert not Own(1, tensors, rows).changes("b")


def record(**parts: Any) -> TaskRecord:
    given: dict[str, Any] = {"masks": {}, "deltas": {}, "private": {}, "reads": {}, **parts}
    return TaskRecord(meta=Meta("a", "tfm", 2, exact=True), **given)


def test_what_each_record_has_of_a_layer() -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, UNITS)
    bias, gains = torch.randn(2), torch.tensor([2.0, 3.0])
    records = [
        record(masks={"w": pack_block((2, 3), gains), "b": pack(torch.tensor([True, False]))}),
        record(masks={"w": pack_block((2, 3))}),
        record(masks={"w": pack_block((1, 3), gains[:1])}),
        record(),
    ]
    own = own_of(module, {"weight": "w", "bias": "b"}, records, [None] * 4)
    whole = module.bias.detach()
    assert own.rows["weight"].tolist() == [[2, 3, 0, 0], [1, 1, 0, 0], [2, 2, 2, 2], [1, 1, 1, 1]]
    assert [t.tolist() for t in own.tensors["bias"]] == [[whole[0], 0], *[whole.tolist()] * 3]
    assert (own.gate, own.head, own.count) == (None, False, 4)

    records = [record(private={"w": torch.ones(4, 3), "b": bias.double()}), record()]
    own = own_of(module, {"weight": "w", "bias": "b"}, records, [None, torch.tensor([True, False])], head=True)
    assert own.rows == {}
    assert [len(t) for t in own.tensors["bias"]] == [2, 4]
    assert own.tensors["bias"][0].dtype == torch.float32
    assert torch.equal(own.tensors["weight"][1], module.weight)
    assert own.head
    assert own_of(module, {"weight": "other"}, records, [None, None]) == Own(2, {}, {}, None, False)


def test_a_real_mask_of_a_vector_multiplies_it() -> None:
    module = nn.Linear(3, 2)
    gains = torch.tensor([0.5, 4.0])
    own = own_of(module, {"bias": "b"}, [record(masks={"b": pack_block((2,), gains)})], [None])
    assert unpack(pack_block((2,), gains)).tolist() == gains.tolist()
    torch.testing.assert_close(own.tensors["bias"][0], module.bias.detach() * gains)
