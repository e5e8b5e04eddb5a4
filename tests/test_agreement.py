"""Trained, activated, baked, in a bank: one answer, or fewer sites; and no parameter is read past its site."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract import drive
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from polymask import Bank
from polymask.calling import accepted_input
from polymask.method.agreement import UNLIKE, _guilty, _mask, _without, answer, units_that_agree
from polymask.method.contract import Method
from polymask.methods import HAT, METHODS, TFM, WSN, AdaHAT, PackNet, Piggyback
from polymask.sites.foreign import find_foreign
from polymask.sites.table import bake
from polymask.wiring import Wiring

UNITS: dict[str, Callable[..., Method]] = {
    "hat": HAT,
    "soft": partial(HAT, soft=True),
    "adahat": AdaHAT,
    "piggyback": partial(Piggyback, granularity="unit"),
}
OTHERS: dict[str, Callable[..., Method]] = {"tfm": partial(TFM, growth=2), "packnet": PackNet, "wsn": WSN}
told = pytest.mark.filterwarnings(
    "ignore:masked units were seen", "ignore:task '.' ends although these never moved", "ignore:no free weight is left"
)


class Gate(nn.Linear):
    """Does more than the product: a shut unit is 0, a shut row gives a half."""

    def forward(self, x):
        return torch.sigmoid(super().forward(x))


class Tanh(nn.Linear):
    """Does more than the product, but where a row is shut it gives 0 all the same."""

    def forward(self, x):
        return torch.tanh(super().forward(x))


class Flip(nn.Linear):
    def forward(self, x):
        return super().forward(x).flip(-1)


class Residual(nn.Linear):
    def forward(self, x):
        return super().forward(x) + x.mean(-1, keepdim=True)


class Standard(nn.Linear):
    """Weights standardised over rows: a row that is shut moves all others."""

    def forward(self, x):
        return F.linear(x, (self.weight - self.weight.mean(0)) / (self.weight.std(0) + 1e-5), self.bias)


class RowWise(nn.Linear):
    """Weights standardised row by row, as convolutions do."""

    def forward(self, x):
        return F.linear(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)


class Scaled(nn.Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.scale = nn.Parameter(torch.tensor([1.5]))

    def forward(self, x):
        return super().forward(x) * self.scale


class Lora(nn.Linear):
    def __init__(self, inputs, outputs, rank=4):
        super().__init__(inputs, outputs)
        self.down = nn.Parameter(torch.randn(rank, inputs) * 0.1)
        self.up = nn.Parameter(torch.randn(outputs, rank) * 0.1)

    def forward(self, x):
        return super().forward(x) + x @ self.down.T @ self.up.T


class WideLora(Lora):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, rank=outputs)


def mlp(kind: Callable[[int, int], nn.Module]) -> nn.Module:
    """Of four hidden layers, the second is of a kind."""
    layers = [nn.Linear(6, 9), nn.ReLU(), kind(9, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4)]
    return nn.Sequential(*layers)


class AutoDec(nn.Module):
    """The encoder's weight is read once more, transposed and past its layer."""

    def __init__(self):
        super().__init__()
        self.e, self.m, self.a, self.head = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(6, 7), nn.Linear(7, 4)

    def forward(self, x):
        return self.head(self.a(F.linear(self.m(self.e(x).relu()).relu(), self.e.weight.t()).relu()).relu())


class Shifted(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x) + 1


def normed(norm: Callable[[int], nn.Module]) -> nn.Module:
    parts = [nn.Linear(6, 9), norm(9), nn.ReLU(), nn.Linear(9, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 4)]
    return nn.Sequential(*parts)


def of_timm(name: str) -> nn.Module:
    layers = pytest.importorskip("timm").layers
    conv = partial(getattr(layers, name), kernel_size=3, padding=1)
    body = [conv(3, 5), nn.ReLU(), conv(5, 6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)]
    return nn.Sequential(*body)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "gate": (partial(mlp, Gate), {"2"}),
    "tanh": (partial(mlp, Tanh), set()),
    "flip": (partial(mlp, Flip), {"2"}),
    "residual": (partial(mlp, Residual), {"2"}),
    "standard": (partial(mlp, Standard), {"2"}),
    "row_wise": (partial(mlp, RowWise), set()),
    "scaled": (partial(mlp, Scaled), set()),
    "lora": (partial(mlp, Lora), set()),
    "wide_lora": (partial(mlp, WideLora), {"2"}),
    "auto_dec": (AutoDec, {"e"}),
    "shifted_norm": (partial(normed, Shifted), {"0"}),
    "std_conv": (partial(of_timm, "StdConv2d"), set()),
    "scaled_std_conv": (partial(of_timm, "ScaledStdConv2d"), set()),
}
"""Name -> builder, and the layers whose units are not masked since masking their rows is another thing."""


def example_of(name: str) -> Tensor:
    return torch.randn(2, 3, 6, 6) if "conv" in name else torch.randn(2, 6)


def learned(method: Callable[..., Method], name: str) -> tuple[Method, nn.Module]:
    torch.manual_seed(0)
    model = NETWORKS[name][0]()
    fresh = copy.deepcopy(model)
    made = method(model, example_of(name))
    drive.learn(made, drive.tasks(made.example)[:2], drive.adamw(), steps=3)
    return made, fresh


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Wiring]:
    """The wirings that were found, before anything was compared."""
    wirings: list[Wiring] = []

    def noted(*args: Any) -> Any:
        wirings.append(args[4])
        return units_that_agree(*args)

    monkeypatch.setattr("polymask.method.contract.units_that_agree", noted)
    return wirings


QUICK = {("adahat", "wide_lora"), ("piggyback", "gate"), ("soft", "tanh"), ("tfm", "lora"), ("packnet", "auto_dec")}
CASES = [
    pytest.param(method, name, marks=() if method == "hat" or (method, name) in QUICK else (pytest.mark.full,))
    for method in {**UNITS, **OTHERS}
    for name in NETWORKS
    if method != "soft" or "conv" not in name  # a gain on every row is standardised away: no site is left
]


@told
@pytest.mark.parametrize(("method", "name"), CASES)
def test_trained_activated_baked_and_on_disk_are_one_answer(
    method: str, name: str, tmp_path: Path, found: list[Wiring]
) -> None:
    made, fresh = learned({**UNITS, **OTHERS}[method], name)
    wiring, shut = made.sites.wiring, NETWORKS[name][1]
    if method in ("hat", "adahat", "piggyback"):
        assert {*found[0].sites} >= shut
        assert {*wiring.sites} == {*found[0].sites} - shut
        assert not shut & {*wiring.rows.values()}
        assert all("masking its rows is not masking its output" in wiring.describe(f"{layer}.weight") for layer in shut)
    x = drive.Task("probe", made.example).inputs(7)
    bank = Bank.create(tmp_path / "bank", made.sites, method=made.name, head=made.head, example=x)
    bank.commit(made.records, made.sites)
    for task in ("a", "b"):
        activated = drive.logits(made, task, x)
        assert drive.alike(made, drive.answer(made.plain(task), x), activated)
        assert drive.alike(made, drive.answer(bank.plain(task, fresh), x), activated)
    assert bank.verify(fresh).ok


@told
def test_soft_masks_multiply_so_more_is_shut() -> None:
    torch.manual_seed(0)
    assert {*HAT(mlp(Tanh), torch.zeros(2, 6), soft=True).sites.wiring.sites} == {"0", "4"}


@told
@pytest.mark.full
def test_gains_that_are_standardised_away_leave_no_site() -> None:
    with pytest.raises(ValueError, match="expected a layer whose units can be masked, found none"):
        HAT(of_timm("StdConv2d"), example_of("conv"), soft=True)


def unchecked(*args: Any) -> Any:
    """A method that opens all sites, as if nothing had to be compared."""
    _, _, _, units, wiring, _ = args
    return {**units, **wiring.sites, **wiring.echoes}, wiring


@told
@pytest.mark.parametrize("method", ["hat", "piggyback"])
def test_no_site_left_is_refused(method: str) -> None:
    net = nn.Sequential(Gate(6, 9), nn.ReLU(), Gate(9, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(ValueError, match="expected a layer whose units can be masked, found none: of '0', '2'"):
        UNITS[method](net, torch.zeros(2, 6))
    assert not any("_polymask" in module.__dict__ for module in net.modules())


@told
@pytest.mark.parametrize("name", ["gate", "wide_lora"])
def test_without_the_check_a_baked_copy_answers_otherwise_and_is_told(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polymask.method.contract.units_that_agree", unchecked)
    with pytest.raises(RuntimeError, match="expected a baked copy to answer task"):
        learned(HAT, name)


class TimeFirst(nn.Module):
    """Layers on transposed sequences: there torch folds a batch otherwise where a weight requires a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(x.transpose(0, 1)).relu()).relu().mean(0))


@pytest.mark.parametrize("method", [HAT, WSN])
def test_rounding_alone_shuts_no_site(method: Callable[..., Method]) -> None:
    torch.manual_seed(0)
    made = method(TimeFirst(), torch.randn(4, 7, 6))
    assert method is WSN or {*made.sites.units} == {"a", "b"}
    drive.learn(made, drive.tasks(made.example)[:2], drive.adamw())
    for task in ("a", "b"):
        made.activate(task)
        assert torch.equal(answer(bake(made.model), drive.probe(made)), answer(made.model, drive.probe(made)))


class Twice(nn.Module):
    """Reads its first weight twice, once through whatever keeps it."""

    def __init__(self, keep: Callable[[nn.Module], Callable[[nn.Module], Tensor]]) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.kept = keep(self)

    def forward(self, x):
        again = F.linear(x, self.kept(self) if callable(self.kept) else self.kept[0])
        return self.head(self.b((self.a(x) + again).relu()).relu())


def a_list(net: nn.Module) -> Any:
    return [net.a.weight]


def a_mapping(net: nn.Module) -> Any:
    net.deep = {"a": {"b": (net.a.weight,)}}
    return _deep


def _deep(net: nn.Module) -> Tensor:
    return net.deep["a"]["b"][0]


def a_closure(net: nn.Module) -> Any:
    weight = net.a.weight
    return lambda _: weight


def a_default(net: nn.Module) -> Any:
    return lambda _, weight=net.a.weight: weight


def a_partial(net: nn.Module) -> Any:
    return partial(_second, net.a.weight)


def _second(weight: Tensor, _: nn.Module) -> Tensor:
    return weight


def a_view(net: nn.Module) -> Any:
    net.turned = net.a.weight.detach().t()
    return lambda net: net.turned.t()


def a_buffer(net: nn.Module) -> Any:
    net.register_buffer("turned", net.a.weight.detach().t())
    return lambda net: net.turned.t()


def another_module(net: nn.Module) -> Any:
    first = net.a
    return lambda _: first.weight


KEPT = [a_list, a_mapping, a_closure, a_default, a_partial, a_view, a_buffer, another_module]


@pytest.mark.parametrize("keep", KEPT)
@pytest.mark.parametrize("method", ["packnet", pytest.param("hat", marks=pytest.mark.full), "piggyback"])
def test_a_parameter_that_is_read_past_its_site_is_named(method: str, keep: Any) -> None:
    with pytest.raises(ValueError, match=r"expected every read of 'a\.(weight|bias)' to be of the module's attribute"):
        METHODS[method](Twice(keep), torch.zeros(2, 6))


def test_what_was_computed_from_a_parameter_cannot_be_kept() -> None:
    def alive(net: nn.Module) -> Any:
        net.turned = net.a.weight.t()
        return lambda net: net.turned.t()

    with pytest.raises(
        ValueError, match=r"attribute 'turned' of the network itself \(Twice\).*keep nothing in modules"
    ):
        WSN(Twice(alive), torch.zeros(2, 6))


def tied(net: nn.Module) -> Any:
    net.more = nn.ParameterList([net.a.weight, net.b.weight])
    return lambda net: net.more[0]


def through_a_module(net: nn.Module) -> Any:
    net.listed = [net.a]
    return lambda net: net.listed[0].weight


def never_read(net: nn.Module) -> Any:
    net.all = list(net.parameters())
    return lambda net: net.a.weight


@pytest.mark.parametrize("keep", [tied, through_a_module, never_read])
@pytest.mark.parametrize("method", ["packnet", "wsn"])
def test_what_is_read_through_a_site_goes_on_working(method: str, keep: Any) -> None:
    made = METHODS[method](Twice(keep), torch.zeros(2, 6))
    drive.learn(made, drive.tasks(made.example)[:1], drive.adamw())
    x = drive.probe(made)
    was = drive.logits(made, "a", x)
    assert torch.equal(drive.answer(made.plain("a"), x), was)
    drive.learn(made, drive.tasks(made.example)[1:2], drive.adamw())
    assert torch.equal(drive.logits(made, "a", x), was)


class Graph(nn.Module):
    """Nodes and the edges between them: two tensors without a common batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        h = self.a(nodes).relu()
        h = h + torch.zeros_like(h).index_add(0, edges[1], h[edges[0]])
        return self.head(self.b(h).relu())


class Queue(nn.Module):
    """Takes whole batches alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != 5:
            raise ValueError(f"expected a batch of 5, found {len(x)}")
        return self.head(self.a(x).relu())


NOT_CUT = {
    "graph": (Graph, (torch.randn(7, 6), torch.tensor([[0, 1, 6], [1, 2, 5]]))),
    "queue": (Queue, torch.randn(5, 6)),
}


@pytest.mark.parametrize("name", NOT_CUT)
@pytest.mark.parametrize("method", ["packnet", "wsn", "piggyback"])
def test_an_example_that_cannot_be_cut_goes_in_whole(method: str, name: str) -> None:
    build, example = NOT_CUT[name]
    torch.manual_seed(0)
    made = METHODS[method](build(), example)
    used = accepted_input(build(), example)
    assert [one.shape for one in used] == [one.shape for one in example]
    drive.learn(made, [drive.Task("a", example)])
    x = drive.probe(made)
    assert torch.equal(drive.answer(made.plain("a"), x), drive.logits(made, "a", x))


def test_an_example_that_is_refused_whole_says_why() -> None:
    with pytest.raises(ValueError, match=r"refuses \(expected a batch of 5, found 4\): pass an example of one input"):
        WSN(Queue(), torch.randn(4, 6))


@pytest.mark.parametrize("method", ["packnet", "tfm"])
def test_a_lazy_layer_is_to_be_called_first(method: str) -> None:
    net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(ValueError, match="found 'weight' of '0' without one: call the model once on an example first"):
        METHODS[method](net, torch.zeros(2, 6))
    net(torch.zeros(2, 6))
    METHODS[method](net, torch.zeros(2, 6))


class Linked(nn.Module):
    """Steps that see each other through a sparse matrix, which is a buffer, a parameter or neither."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.up, self.mid, self.head = nn.Linear(6, 12), nn.Linear(12, 8), nn.Linear(8, 4)
        links = torch.eye(3).roll(1, 0).to_sparse()
        if kind == "parameter":
            self.links: Tensor = nn.Parameter(links)
        elif kind == "buffer":
            self.register_buffer("links", links, persistent=False)
        else:
            self.links = links

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.sparse.mm(self.links, x.transpose(0, 1).flatten(1)).view(3, len(x), 6).transpose(0, 1)
        return self.head(self.mid(self.up(seen).relu().mean(1)).relu())


@pytest.mark.parametrize("method", ["packnet", "tfm", "hat"])
def test_a_sparse_matrix_is_an_attribute_or_refused(method: str) -> None:
    for kind in ("buffer", "parameter"):
        with pytest.raises(
            ValueError, match=r"found 'links' of '' with the layout torch.sparse_coo: register it dense"
        ):
            METHODS[method](Linked(kind), torch.randn(4, 3, 6))
    made = METHODS[method](Linked("attribute"), torch.randn(4, 3, 6))
    first, second = drive.tasks(made.example, 2)
    drive.learn(made, [first])
    x, before = drive.probe(made), drive.logits(made, first)
    drive.learn(made, [second])
    assert torch.equal(drive.logits(made, first, x), before)


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        sizes = ((6, 8), (8, 8), (8, 4))
        self.a, self.b, self.head = (nn.Linear(*size, dtype=torch.complex64) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.b(torch.tanh(self.a(x.to(torch.complex64)))))).abs()


@told
@pytest.mark.parametrize("method", ["packnet", "piggyback", "supsup", "wsn", "exssnet", "hat", "adahat", "tfm", "unit"])
def test_complex_weights_are_masked(method: str) -> None:
    torch.manual_seed(0)
    made = (UNITS["piggyback"] if method == "unit" else METHODS[method])(Complex(), torch.zeros(2, 6))
    drive.learn(made, drive.tasks(made.example)[:1], drive.adamw())
    x = drive.probe(made)
    was = drive.logits(made, "a", x)
    assert torch.equal(drive.answer(made.plain("a"), x), was)
    if made.sites.weights and made.exact is True:
        assert any(site.mask is not None for site in made.sites.every().values()) or made.name == "tfm"
    drive.learn(made, drive.tasks(made.example)[1:2], drive.adamw())
    assert torch.equal(drive.logits(made, "a", x), was) == (made.exact is True)


@pytest.mark.parametrize("leaf", ["weight", "bias"])
def test_a_pruned_layer_is_refused_and_remove_is_the_way_out(leaf: str) -> None:
    net = mlp(nn.Linear)
    prune.l1_unstructured(net[2], leaf, 0.5)
    with pytest.raises(ValueError, match=r"a pruning .*on '2': take it off first .*prune\.remove"):
        WSN(net, torch.zeros(2, 6))
    prune.remove(net[2], leaf)
    WSN(net, torch.zeros(2, 6))


def test_a_parameter_assigned_to_a_masked_weight_is_refused() -> None:
    method = WSN(mlp(nn.Linear), torch.zeros(2, 6))
    drive.learn(method, drive.tasks(method.example)[:1])
    was = drive.logits(method, "a")
    with pytest.raises(ValueError, match=r"expected 'weight' of Linear to be left to its site.*detach\(model\) first"):
        method.model[0].weight = nn.Parameter(torch.ones(9, 6))
    with pytest.raises(ValueError, match=r"expected 'weight' of Linear to be left to its site.*a pruning"):
        prune.l1_unstructured(method.model[0], "weight", 0.5)
    assert find_foreign(method.sites, learned=True) is None
    assert torch.equal(drive.logits(method, "a"), was)


def test_what_is_put_on_an_attached_model_is_seen() -> None:
    method = PackNet(mlp(nn.Linear), torch.zeros(2, 6))
    assert find_foreign(method.sites) is None
    torch.nn.utils.parametrizations.weight_norm(method.model[0])
    assert "'0' as it was attached" in str(find_foreign(method.sites))
    method = PackNet(mlp(nn.Linear), torch.zeros(2, 6))
    prune.l1_unstructured(method.model[6], "weight", 0.5)
    assert "'6' as it was attached" in str(find_foreign(method.sites))
    method = PackNet(mlp(nn.Linear), torch.zeros(2, 6))
    drive.learn(method, drive.tasks(method.example)[:1])
    method.model[0].bias = nn.Parameter(torch.ones(9))
    assert "'0.bias' to stay frozen" in str(find_foreign(method.sites, learned=True))


@pytest.mark.parametrize(("turn", "density"), [(0, 0.8), (1, 0.5)])
def test_a_drawn_mask_opens_some_and_shuts_some_the_same_every_time(turn: int, density: float) -> None:
    for name in "abcdefgh":
        for size in (2, 3, 4):
            mask = _mask(name, torch.Size([size]), turn)
            assert mask.any()
            assert not mask.all()
            assert torch.equal(mask, _mask(name, torch.Size([size]), turn))
    assert _mask("a", torch.Size([1]), 0).shape == (1,)
    assert float(_mask("a", torch.Size([300, 300]), turn).float().mean()) == pytest.approx(density, abs=0.01)


def test_the_guilty_are_found_by_halving_and_all_are_where_only_some_together_are() -> None:
    names = list("abcde")
    assert _guilty(lambda some: not {"b", "e"} & set(some), names) == ["b", "e"]
    assert _guilty(lambda some: not {"a", "c"} <= set(some) and "e" not in some, names) == names
    assert _guilty(lambda some: True, names) == []


def test_a_wiring_without_a_site_says_why() -> None:
    wiring = HAT(mlp(nn.Linear), torch.zeros(2, 6)).sites.wiring
    first, *rest = wiring.sites
    found = _without(wiring, [first])
    assert list(found.sites) == rest
    layers = {layer for layer, site in wiring.rows.items() if site == first}
    assert layers
    assert {layer: note for layer, note in found.notes.items() if layer not in wiring.notes} == dict.fromkeys(
        {first, *layers}, UNLIKE
    )
