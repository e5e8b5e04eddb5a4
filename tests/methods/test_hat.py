"""HAT's own invariants: what a task reads stands, masks are bits, temperatures and gradients are the paper's."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from tests.contract import drive
from tests.methods.digits import Split, accuracy, mlp, permuted
from torch import Tensor, nn
from torch.nn import functional as F

from polymask.learning.learn import learn
from polymask.learning.training import Training
from polymask.method.annealed import capacity_of, gates, positive
from polymask.methods import HAT, LinearProbe
from polymask.nets import build_net
from polymask.parts.binarize import annealed
from polymask.parts.pack import unpack
from polymask.parts.seeds import generator
from polymask.streams import make_stream

nets = pytest.mark.parametrize("backbone", ["mlp_bn", "convnet", pytest.param("timm_resnet", marks=pytest.mark.full)])


class Uneven(nn.Module):
    """A convolution, flattened where height and width differ."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.head = nn.Conv2d(1, 3, 1), nn.Linear(3 * 2 * 5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.conv(x).relu().flatten(1)).relu())


def normed() -> nn.Sequential:
    """LayerNorm and GroupNorm behind masked layers."""
    body = [nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8), nn.GroupNorm(2, 8), nn.GELU()]
    return nn.Sequential(*body, nn.Linear(8, 3))


@torch.no_grad()
def attend(method: HAT, on: float = 0.5, value: float = 3.0) -> None:
    """Say which units the open task uses: the first of every layer."""
    for source in gates(method).values():
        n = len(source.scores)
        source.scores.copy_(torch.where(torch.arange(n) < on * n, value, -value))


def fit(method: HAT | LinearProbe, task: str, data: Split, *, epochs: int) -> None:
    """Learn a task of digits with Adam, the temperature rising in every epoch."""
    method.begin(task, outputs=10)
    method.model.train()
    optimizer = torch.optim.Adam(method.parameters(), 3e-3)
    x, y, *_ = data
    for epoch in range(epochs):
        batches = torch.randperm(len(x), generator=generator("order", task, epoch)).split(64)
        for step, rows in enumerate(batches):
            method.on_step(step / (len(batches) - 1))
            optimizer.zero_grad()
            (F.cross_entropy(method.model(x[rows]), y[rows]) + method.penalty()).backward()
            optimizer.step()
    method.end(task)


@nets
@pytest.mark.parametrize("rule", ["tight", "unions"])
@pytest.mark.parametrize("optimizer", ["sgd_momentum_decay", "adamw", "kept", "adversary"])
def test_what_a_task_reads_never_moves(backbone: str, rule: str, optimizer: str) -> None:
    method, todo = drive.make(partial(HAT, rule=rule), backbone)
    make = drive.OPTIMIZERS[optimizer]()
    moved = 0
    for task in todo:
        before = {name: method.sites.base(name).clone() for name in method.sites.weights}
        used = method.state["used"]
        drive.learn(method, [task], make)
        for name, was in before.items():
            now = method.sites.base(name)
            assert torch.equal(was[used[name] == 1], now[used[name] == 1])
            moved += int((was != now).sum()) if task is not todo[0] else 0
    assert moved


@nets
def test_a_record_is_a_bit_a_unit(backbone: str) -> None:
    method, todo = drive.make(HAT, backbone)
    record = drive.learn(method, todo[:1])["a"]
    assert set(record.masks) == set(method.sites.wiring.sizes)
    for site, packed in record.masks.items():
        assert unpack(packed).dtype == torch.bool
        assert packed.nbytes == math.ceil(method.sites.wiring.sizes[site] / 8)


def test_gates_are_bits_wherever_the_network_is_not_training() -> None:
    method, todo = drive.make(HAT, "mlp_bn")
    drive.begin(method, todo[0])
    method.on_step(0.01)
    (source, *_) = gates(method).values()
    assert 0 < source.gate().min() < 1
    method.model.eval()
    assert source.gate().dtype == torch.bool


def test_the_gradient_is_the_papers_compensated_one() -> None:
    s_max = 400.0
    for s in (1 / s_max, 0.5, 7.0, 100.0, s_max):
        e = torch.linspace(-15 / s, 15 / s, 101, dtype=torch.float64).clamp(-6, 6).requires_grad_()
        g = torch.linspace(-1, 1, 101, dtype=torch.float64)
        (ours,) = torch.autograd.grad(annealed(e, s, s_max), e, g)
        (plain,) = torch.autograd.grad(torch.sigmoid(s * e), e, g)
        theirs = plain * (s_max / s) * (torch.cosh((s * e).clamp(-50, 50)) + 1) / (torch.cosh(e) + 1)
        torch.testing.assert_close(ours, theirs.detach())


def test_gates_too_small_to_matter_are_zero_in_the_forward_alone() -> None:
    e = torch.tensor([-0.1, -0.03, 0.03], requires_grad=True)
    gate = annealed(e, 400.0, 400.0)
    assert gate[0] == 0 < gate[1] < 1e-5
    gate.sum().backward()
    assert e.grad.min() > 50


def test_the_temperature_runs_from_one_over_s_max_to_s_max() -> None:
    method, todo = drive.make(partial(HAT, s_max=200.0), "mlp_bn")
    drive.begin(method, todo[0])
    (source, *_) = gates(method).values()
    for progress, scale in ((0.0, 1 / 200), (1.0, 200.0)):
        method.on_step(progress)
        assert source.scale.item() == pytest.approx(scale)


def test_embeddings_stay_within_six() -> None:
    method, todo = drive.make(HAT, "mlp_bn")
    drive.begin(method, todo[0])
    attend(method, value=9.0)
    method.on_step(0.0)
    assert all(source.scores.abs().max() == 6 for source in gates(method).values())


@pytest.mark.parametrize("rule", ["tight", "unions"])
def test_at_full_capacity_heads_and_masks_go_on_and_nothing_is_nan(rule: str) -> None:
    method, todo = drive.make(partial(HAT, rule=rule), "mlp_bn")
    drive.begin(method, todo[0])
    attend(method, on=1.0)
    drive.train(method, todo[0], drive.sgd()(method), range(1))
    method.end("a")
    drive.begin(method, todo[1])
    method.on_step(0.5)
    assert method.penalty().item() == 0
    names = [name for name, _ in method.named_parameters()]
    assert not [name for name in names if name in method.sites.weights]
    assert [name for name in names if name.startswith(method.head)]
    assert [name for name in names if "scores" in name]
    loss = drive.train(method, todo[1], drive.adamw()(method), range(4))
    assert loss.isfinite()
    method.end("b")


def test_a_task_that_uses_half_of_the_units_leaves_more_than_half_of_the_weights() -> None:
    method, todo = drive.make(HAT, "mlp_bn")
    drive.begin(method, todo[0])
    attend(method)
    drive.train(method, todo[0], drive.sgd()(method), range(1))
    attend(method)
    method.end("a")
    drive.begin(method, todo[1])
    free = sum(int((1 - used).sum()) for used in method.state["used"].values())
    assert free > 0.5 * sum(used.numel() for used in method.state["used"].values())


def test_the_tight_rule_leaves_what_only_different_tasks_use() -> None:
    used = {}
    for rule in ("tight", "unions"):
        method, todo = drive.make(partial(HAT, rule=rule), "convnet")
        for task, half in zip(todo[:2], (1, -1), strict=True):
            drive.begin(method, task)
            attend(method, value=3.0 * half)
            drive.train(method, task, drive.sgd()(method), range(1))
            attend(method, value=3.0 * half)
            method.end(task.name)
        used[rule] = method.state["used"]
    assert all(bool((used["tight"][name] <= used["unions"][name]).all()) for name in used["tight"])
    assert used["unions"]["2.weight"].all()
    assert used["tight"]["2.weight"].mean() == 0.5


def test_flattened_columns_belong_to_their_channel_where_height_and_width_differ() -> None:
    method = HAT(Uneven(), torch.randn(2, 1, 2, 5))
    method.begin("a")
    drive.train(method, drive.tasks(method.example)[0], drive.sgd()(method), range(1))
    with torch.no_grad():
        gates(method)["conv"].scores.copy_(torch.tensor([-1.0, 1.0, -1.0]))
        gates(method)["hidden"].scores.fill_(1.0)
    method.end("a")
    expected = torch.zeros(4, 3, 10)
    expected[:, 1] = 1
    assert torch.equal(method.state["used"]["hidden.weight"], expected.flatten(1))


@pytest.mark.parametrize("optimizer", ["sgd_momentum_decay", "adamw"])
def test_layer_and_group_norm_are_masked_before_and_after(optimizer: str) -> None:
    method = HAT(normed(), torch.randn(3, 6))
    assert set(method.sites.wiring.echoes) == {"1", "4"}
    todo = drive.tasks(method.example)
    drive.begin(method, todo[0])
    drive.train(method, todo[0], drive.OPTIMIZERS[optimizer]()(method), range(4))
    attend(method)
    method.end("a")
    before = drive.logits(method, "a")
    seen: list[Tensor] = []
    hook = method.model[3].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    drive.logits(method, "a")
    hook.remove()
    assert seen[0][:, :4].any()
    assert not seen[0][:, 4:].any()
    drive.learn(method, todo[1:], drive.OPTIMIZERS[optimizer]())
    assert torch.equal(drive.logits(method, "a"), before)
    assert torch.equal(drive.answer(method.plain("a"), drive.probe(method)), before)
    assert method.state["used"]["3.weight"].mean() < 1


def test_a_norm_shuts_what_its_layer_shuts_while_the_task_is_open() -> None:
    net = normed()
    nn.init.ones_(net[1].bias)
    method = HAT(net, torch.randn(3, 6))
    method.begin("a")
    attend(method)
    seen: list[Tensor] = []
    net[1].register_forward_hook(lambda norm, args, out: seen.append(out))
    drive.answer(net, drive.probe(method))
    assert seen[0][:, :4].all()
    assert not seen[0][:, 4:].any()


def test_as_published_it_forgets_a_little() -> None:
    method, todo = drive.make(partial(HAT, soft=True), "convnet")
    assert method.exact is None
    drive.begin(method, todo[0])
    drive.train(method, todo[0], drive.sgd()(method), range(4))
    with torch.no_grad():
        for source in gates(method).values():
            source.scores.fill_(-0.02)
    method.end("a")
    mask = unpack(method.record("a").masks["0"])
    assert ((mask > 1e-4) & (mask < 1e-3)).all()
    before = drive.logits(method, "a")
    drive.learn(method, todo[1:], drive.sgd())
    drift = (drive.logits(method, "a") - before).abs().max()
    assert 0 < drift < 0.1


def test_one_task_compressed_uses_fewer_units_under_a_larger_penalty() -> None:
    kept = {}
    for c in (0.0, 1.5):
        method = HAT(mlp(64, 60, 60, 10), torch.zeros(1, 64), start="uniform", c=c)
        fit(method, "p0", permuted(1)["p0"], epochs=8)
        kept[c] = method.capacity()["size"]["read"]
        sizes = {name: used.numel() for name, used in method.state["used"].items()}
        free = sum(share * sizes[name] for name, share in method.capacity()["free"].items())
        assert kept[c] == pytest.approx(1 - free / sum(sizes.values()), abs=1e-6)
    assert kept[1.5] < 0.9 * kept[0.0]


@pytest.mark.full
def test_a_second_task_beats_a_classifier_on_the_first_ones_features() -> None:
    found = {}
    for kind, more in ((HAT, {"c": 0.3}), (LinearProbe, {})):
        net = mlp(64, 100, 100, 10)
        if kind is LinearProbe:
            net = found["net"]
        method = kind(net, torch.zeros(1, 64), **more)
        data = permuted(2)
        if kind is HAT:
            fit(method, "p0", data["p0"], epochs=15)
            found["net"] = method.plain("p0")
        fit(method, "p1", data["p1"], epochs=15)
        method.activate("p1")
        found[kind] = accuracy(method.model, data["p1"])
    assert found[HAT] > found[LinearProbe] + 0.02


@pytest.mark.parametrize(
    ("wrong", "words"), [({"s_max": 1.0}, "expected a finite s_max above 1"), ({"c": -1.0}, "expected c of")]
)
def test_options_out_of_range_are_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HAT(mlp(4, 3, 2), torch.zeros(1, 4), **wrong)


def test_a_run_says_how_full_the_network_is_and_warns_once_of_each_weight() -> None:
    tasks = make_stream("digits-permuted", tasks=3, seed=0)
    training = Training(epochs=3, optimizer="adam", lr=3e-3, device="cpu")
    net = build_net("mlp", (1, 8, 8), 10, hidden=(3, 3), seed=0)
    with pytest.warns(UserWarning, match=r"no entry of .*weight is free: later tasks can only reuse it") as caught:
        report = learn(net, tasks, "hat", training=training, options={"c": 0.0, "start": "uniform"}).report
    assert list(report["capacity"]) == [task.name for task in tasks]
    assert all(share == 1 for share in report["capacity"][tasks[0].name]["units"].values())
    assert len([w for w in caught if "is free" in str(w.message)]) == 1
    assert report["max_logit_drift"] == 0


def test_capacity_is_the_share_of_entries_and_of_units() -> None:
    used = {"0.weight": torch.tensor([[1.0, 0.5], [0.0, 0.0]]), "0.bias": torch.tensor([1.0, 0.0])}
    assert capacity_of({"0": torch.tensor([True, False])}, used) == {
        "size": {"read": 2.5 / 6},
        "units": {"0": 0.5},
        "free": {"0.weight": 2.5 / 4, "0.bias": 0.5},
    }
    assert capacity_of({}, {"0.bias": torch.ones(1)})["size"] == {"read": 1.0}
    assert capacity_of({}, {})["size"] == {"read": 0.0}


def test_embeddings_that_start_in_use_are_drawn_uniformly_from_their_generator_alone() -> None:
    before = torch.get_rng_state()
    first, again = (positive(1000, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(before, torch.get_rng_state())
    assert float(first.min()) >= 0
    assert 1.9 < float(first.max()) <= 2
    assert float(first.mean()) == pytest.approx(1, abs=0.1)


def test_every_task_and_seed_has_gates_of_its_own() -> None:
    found = []
    for seed, task in ((0, "a"), (0, "b"), (1, "a")):
        method = HAT(mlp(4, 6, 2), torch.zeros(2, 4), seed=seed)
        method.begin(task)
        found.append(torch.cat([source.scores.detach().flatten() for source in gates(method).values()]))
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_only_the_units_of_the_layers_named_are_gated_and_in_the_networks_dtype() -> None:
    net = mlp(4, 6, 5, 2).double()
    layers = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    assert set(HAT(mlp(4, 6, 5, 2), torch.zeros(2, 4)).sites.units) == set(layers[:2])
    method = HAT(net, torch.zeros(2, 4).double(), masked=[f"{layers[1]}.weight"])
    assert set(method.sites.units) == {layers[1]}
    method.begin("a")
    attend(method)
    method.on_step(0.5)
    assert method.penalty().dtype == torch.float64
    with pytest.warns(UserWarning, match="never moved"):
        method.end("a")
    assert {union.dtype for union in method.state["union"].values()} == {torch.float64}
    assert {used.dtype for used in method.state["used"].values()} == {torch.float64}
