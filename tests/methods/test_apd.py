"""APD's own invariants: how a weight is composed, what holds it back, what moves when a task ends, what is stored."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymask import Bank
from polymask.bank.store import DamagedBank
from polymask.method.corrected import Corrected, Past, followed, largest_move, past_of, theta_of
from polymask.methods import APD
from polymask.parts.additive import correction
from polymask.parts.pack import pack, unpack
from polymask.parts.sparse import densify, sparsify
from polymask.task import Meta, TaskRecord

X = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(1))
FORMS = ("closed", "exact", "fixed", "joint")


def conv_net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, stride=2),
            nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3),
        )  # fmt: skip


def make(**hyper: Any) -> APD:
    # A few steps move a correction by a thousandth.
    return APD(conv_net(), torch.zeros(2, 3, 6, 6), **{"lambda1": 4e-4, "shrink": 1.0, **hyper})


def train(method: APD, task: str, steps: int = 8, lr: float = 2e-3, optimizer: str = "Adam") -> None:
    """A task of its own labels, begun and trained but not ended."""
    draw = torch.Generator().manual_seed(ord(task[0]))
    method.begin(task)
    method.model.train()
    steper = getattr(torch.optim, optimizer)(method.parameters(), lr=lr)
    y = torch.randint(3, (16,), generator=draw)
    for step in range(steps):
        method.on_step(step / steps)
        steper.zero_grad()
        (F.cross_entropy(method.model(X), y) + method.penalty()).backward()
        steper.step()


def learn(method: APD, tasks: str, **how: Any) -> APD:
    for task in tasks:
        train(method, task, **how)
        method.end(task)
    return method


@torch.no_grad()
def logits(method: APD, task: str) -> Tensor:
    return method.plain(task)(X)


def weights(method: APD) -> dict[str, dict[str, Tensor]]:
    """Task -> the weights that its plain network has."""
    names = list(method.sites.weights)
    return {task: {n: method.plain(task).get_parameter(n).detach().clone() for n in names} for task in method.records}


@torch.no_grad()
def trained(method: APD) -> dict[str, Tensor]:
    """The weights as the open task reads them."""
    return {name: method.sites.weights[name](method.sites.tensor(name)).clone() for name in method.sites.weights}


def test_a_weight_is_the_shared_one_under_a_gate_a_unit_plus_the_correction() -> None:
    method = learn(make(), "ab")
    shapes = {name: tuple(one.shape) for name, one in method.record("a").masks.items()}
    assert shapes == {"0.weight": (6, 1, 1, 1), "3.weight": (1, 4, 1, 1), "7.weight": (8, 1)}
    for task, found in weights(method).items():
        record = method.record(task)
        for name, w in found.items():
            m = unpack(record.masks[name])
            assert bool(((m > 0) & (m < 1)).all())
            assert torch.equal(w, method.sites.base(name) * m + densify(record.deltas[name]))


@pytest.mark.parametrize(
    ("form", "bits"),
    [
        pytest.param(form, bits, marks=() if place % 3 == i else pytest.mark.full)
        for place, form in enumerate(FORMS)
        for i, bits in enumerate((8, 16, 32))
    ],
)
def test_end_changes_no_logit_since_the_forward_reads_what_is_stored(form: str, bits: int) -> None:
    method = learn(make(form=form, bits=bits), "a")
    train(method, "b")
    method.model.eval()
    with torch.no_grad():
        before = method.model(X)
        method.end("b")
        assert torch.equal(before, method.model.eval()(X))
    assert torch.equal(before, logits(method, "b"))


def test_corrections_are_sparse_and_none_is_below_the_threshold() -> None:
    method = learn(make(lambda1=1e-3), "abc", steps=30)
    for record in method.records.values():
        for sparse in record.deltas.values():
            tau = densify(sparse)
            assert int((tau != 0).sum()) < tau.numel()
            assert (tau[tau != 0].abs() > 1e-3).all()
    for sparse in method.record("c").deltas.values():
        assert densify(sparse).any()


@pytest.mark.parametrize("form", FORMS)
def test_the_first_task_needs_no_correction(form: str) -> None:
    method = make(form=form)
    method.begin("a")
    assert not [name for name, _ in method.named_parameters() if name.endswith(".tau")]
    method.abandon()
    learn(method, "a")
    assert all(not densify(sparse).any() for sparse in method.record("a").deltas.values())
    method.begin("b")
    assert [name for name, _ in method.named_parameters() if name.endswith(".tau")]


def test_the_first_task_has_a_correction_where_it_is_learned_as_released() -> None:
    method = learn(make(sparsity="subgradient"), "a")
    assert any(densify(sparse).any() for sparse in method.record("a").deltas.values())


def test_the_proximal_step_draws_by_what_the_optimizer_moved() -> None:
    method = make(shrink=0.5)
    method.begin("a")
    source = method.sources["0.weight"]
    assert isinstance(source, Corrected)
    method.on_step(0.0)
    moves = torch.linspace(-1, 1, source.tau.numel()).view_as(source.tau)
    with torch.no_grad():
        source.tau.copy_(moves)
    method.on_step(0.5)
    by = 0.5 * float(moves.abs().mean())
    assert torch.allclose(source.tau, moves.sign() * (moves.abs() - by).clamp(min=0), atol=1e-6)
    still = source.tau.detach().clone()
    method.on_step(1.0)
    assert torch.equal(source.tau, still), "what no optimizer has moved is not drawn"


@pytest.mark.parametrize("form", ["closed", "fixed", "joint"])
def test_the_anchor_and_its_gradient_are_0_where_a_task_begins(form: str) -> None:
    method = learn(make(form=form), "ab")
    method.begin("c")
    penalty = method.penalty()
    penalty.backward()
    assert penalty.item() < 1e-9
    gradients = [p.grad.abs().max() for p in method.parameters() if p.grad is not None]
    assert gradients
    assert max(map(float, gradients)) < 1e-6


def test_an_input_that_never_speaks_does_not_hide_how_far_a_correction_moved() -> None:
    net = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 3))
    method = APD(net, torch.zeros(2, 256), shrink=1.0)
    method.begin("a")
    method.on_step(0.0)
    source = method.sources["0.weight"]
    assert isinstance(source, Corrected)
    with torch.no_grad():
        source.tau[:, 1::2] = 0.5
    method.on_step(0.5)
    assert source.tau[0, 1].item() == pytest.approx(0.25, rel=0.1), "drawn by the mean move of all entries"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_end_consolidate_and_train_jointly(dtype: torch.dtype) -> None:
    for hyper in ({"consolidate": 2, "clusters": 1}, {"form": "joint"}):
        method = APD(conv_net().to(dtype), torch.zeros(2, 3, 6, 6, dtype=dtype), init=20.0, **hyper)
        for task in "ab":
            method.begin(task)
            optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
            for _ in range(2):
                method.on_step(0.5)
                optimizer.zero_grad()
                (method.model(X.to(dtype)).float().square().mean() + method.penalty()).backward()
                optimizer.step()
            method.end(task)
        assert method.active()["capacity"] >= 1
        assert all(bool(method.plain(task)(X.to(dtype)).isfinite().all()) for task in "ab")


def test_the_anchor_is_the_formula() -> None:
    method = learn(make(lambda2=3.0), "ab")
    method.begin("c")
    expected = torch.zeros(())
    with torch.no_grad():
        for name in method.sites.weights:
            sigma = method.sites.tensor(name)
            gap = torch.randn(sigma.shape, generator=torch.Generator().manual_seed(3)) / 10
            sigma.add_(gap)
            gates = sum(unpack(record.masks[name]).square() for record in method.records.values())
            expected += 3 * (gates * gap.square()).sum()
    assert torch.allclose(method.penalty(), expected, rtol=1e-5)


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def record_of(m: Tensor, tau: Tensor, local: Tensor) -> TaskRecord:
    deltas = {"w": sparsify(tau, local=sparsify(local))}
    return TaskRecord({"w": pack(m)}, deltas, {}, {}, Meta("a", "apd", 2, None))


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 8), (torch.bfloat16, 32)], ids=str)
def test_a_correction_follows_by_the_formula_and_keeps_what_it_shares(dtype: torch.dtype, bits: int) -> None:
    m = drawn(6, 1, seed=0).sigmoid().to(dtype)
    tau, local = (drawn(6, 9, seed=seed, dtype=dtype) for seed in (1, 2))
    before, lambda1, lambda2 = drawn(6, 9, seed=3, dtype=dtype), 0.02, 0.1
    now, record = (before + drawn(6, 9, seed=4) / 20).to(dtype), record_of(m, tau, local)
    found = followed(record, "w", before, now, lambda1, lambda2, bits)
    rest = (before.float() - now.float()) * m.float() + densify(record.deltas["w"]).float() - local.float()
    drawn_to_0 = rest.sign() * (rest.abs() - lambda1 / (2 * lambda2)).clamp(min=0)
    expected = correction(torch.where(drawn_to_0.abs() > lambda1, drawn_to_0, 0).to(dtype), 0.0, bits)
    assert found.local is record.deltas["w"].local
    own = densify(replace(found, local=None))
    assert (found.value.dtype, own.dtype) == (torch.int8 if bits == 8 else dtype, dtype)
    assert 0 < int((own != 0).sum()) < own.numel()
    assert torch.allclose(own, expected, rtol=1e-2, atol=1e-4)
    assert float((own - expected).float().abs().mean()) < 1e-4, "of half precision is only the result"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_task_trains_on_with_what_is_its_own_and_at_a_finite_gate(dtype: torch.dtype) -> None:
    m = torch.tensor([[0.25], [1.0], [0.0]], dtype=dtype)
    tau, local, sigma = (drawn(3, 4, seed=k, dtype=dtype) for k in range(3))
    record, other = record_of(m, tau, local), record_of(m, tau, torch.zeros_like(local))
    past = past_of(record, "w", sigma)
    assert torch.allclose(past.scores.sigmoid().float(), m.float(), atol=1e-2 if dtype == torch.bfloat16 else 1e-6)
    assert bool(past.scores.isfinite().all())
    assert (past.scores.dtype, past.target.dtype) == (dtype, dtype)
    assert torch.equal(past.tau, tau)
    assert torch.equal(past.target, sigma * m + tau)
    assert torch.equal(theta_of(record, "w", sigma), sigma * m + (tau + local))
    far = largest_move((record, sigma), (other, sigma + 8), "w")
    assert far.item() == pytest.approx(float((8 * m - local).float().abs().max()), rel=2e-2)


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_joint_penalty_is_the_formula_and_its_gradients_are_slowed(dtype: torch.dtype, anchored: bool) -> None:
    make_one = lambda seed: drawn(5, 4, seed=seed, dtype=dtype)  # noqa: E731
    past = [Past(drawn(5, 1, seed=k, dtype=dtype), make_one(k + 2), make_one(k + 4)) for k in range(2)]
    sigma, lambda2 = make_one(6).requires_grad_(), 3.0
    anchor = torch.rand(5, 1, generator=torch.Generator().manual_seed(7)).to(dtype) if anchored else None
    source = Corrected(drawn(5, 1, seed=8, dtype=dtype), make_one(9), anchor, 0.3, 8, past)
    gaps = []
    for one in past:
        read = sigma.detach() * one.scores.detach().sigmoid().float().to(dtype)
        gaps.append(read + correction(one.tau.detach(), 0.3, 8) - one.target)
    penalty = source.apart(sigma, lambda2)
    assert penalty.dtype == dtype
    assert penalty.item() == pytest.approx(lambda2 * sum(float(gap.float().square().sum()) for gap in gaps), rel=2e-2)
    penalty.backward()
    near = {"rtol": 5e-2, "atol": 5e-1} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    for one, gap in zip(past, gaps, strict=True):
        assert one.tau.grad is not None
        assert torch.allclose(one.tau.grad, 2 * lambda2 * gap / (1 + 2 * lambda2), **near)
    slowed = 1.0 if anchor is None else 1 / (1 + 2 * anchor)
    to_sigma = sum(2 * lambda2 * gap * one.scores.detach().sigmoid() for one, gap in zip(past, gaps, strict=True))
    assert sigma.grad is not None
    assert torch.allclose(sigma.grad, to_sigma * slowed, **near)


def test_what_follows_the_shared_weight_costs_the_joint_penalty_nothing() -> None:
    method = learn(make(form="joint", lambda1=0.0), "ab")
    method.begin("c")
    with torch.no_grad():
        for name, source in method.sources.items():
            move = torch.full_like(method.sites.tensor(name), 0.01)
            method.sites.tensor(name).add_(move)
            assert method.penalty().item() > 1e-6
            for one in source.past:
                one.tau.sub_(move * torch.sigmoid(one.scores))
    assert method.penalty().item() < 1e-9


@pytest.mark.parametrize(
    "hyper",
    [
        {"consolidate": 2, "clusters": 1},
        {"lambda2": 0.01},
        pytest.param({}, marks=pytest.mark.full),
        pytest.param({"form": "exact", "consolidate": 2, "clusters": 1}, marks=pytest.mark.full),
    ],
)
def test_no_weight_of_a_finished_task_moves_beyond_the_bound(hyper: dict[str, Any]) -> None:
    method, total = make(**hyper), dict.fromkeys("abcde", 0.0)
    for task in "abcde":
        train(method, task, steps=20, lr=5e-3)
        before = {**weights(method), task: trained(method)}
        method.end(task)
        now, moved = weights(method), method.moved()
        for old, were in before.items():
            gap = max(float((now[old][name] - w).abs().max()) for name, w in were.items())
            assert gap <= method.bound() + 1e-6
            total[old] += gap
            assert moved[old] == pytest.approx((gap, total[old]), abs=1e-6)
    assert max(total.values()) > 0, "nothing moved: the bound was not put to the test"


@pytest.mark.parametrize("form", ["closed", "exact", "fixed"])
def test_nothing_in_a_step_depends_on_how_many_tasks_there_are(form: str) -> None:
    method = learn(make(form=form), "a", steps=1)

    def read(task: str) -> dict[str, tuple[int, ...]]:
        method.begin(task)
        found = {f"{name}.{own}": tuple(t.shape) for name, source in method.sources.items()
                 for own, t in (*source.named_parameters(), *source.named_buffers())}  # fmt: skip
        method.abandon()
        return found

    second = read("b")
    learn(method, "bcdef", steps=1)
    assert read("g") == second


def test_plain_descent_does_not_explode_under_a_strong_anchor() -> None:
    method = learn(make(lambda2=1000.0), "abc", optimizer="SGD", lr=0.1, steps=20)
    assert all(bool(logits(method, task).isfinite().all()) for task in "abc")
    assert all(float(method.sites.base(name).abs().max()) < 10 for name in method.sites.weights)


def test_without_an_anchor_finished_corrections_stay_and_the_network_drifts() -> None:
    method = learn(make(form="fixed", lambda2=0.0), "a")
    was, deltas = logits(method, "a"), method.record("a").deltas
    train(method, "b", lr=1e-2)
    assert method.penalty().item() == 0
    method.end("b")
    assert method.record("a").deltas is deltas
    assert not torch.allclose(logits(method, "a"), was, atol=1e-4)


@pytest.mark.parametrize("hyper", [{}, {"form": "joint"}, {"consolidate": 2}, {"form": "exact"}], ids=str)
def test_a_removed_task_takes_its_correction_along_and_no_other_bit(hyper: dict[str, Any]) -> None:
    method = learn(make(**hyper), "abcd")
    before = {task: logits(method, task) for task in "acd"}
    removed = method.remove("b")
    assert all(torch.equal(logits(method, task), was) for task, was in before.items())
    assert "b" not in method.moved()
    assert not removed.reserved
    learn(method, "b")
    if method.exact is True:
        assert all(torch.equal(logits(method, task), was) for task, was in before.items())
        assert method.remove("a").reserved == "the weights that the first task trained"


def make_bank(folder: Path, method: APD) -> Bank:
    return Bank.create(folder / "bank", method.sites, method="apd", head=method.head, example=X[:2])


def commit(method: APD, bank: Bank, tasks: str, **how: Any) -> None:
    for task in tasks:
        train(method, task, **how)
        bank.commit(method.end(task), method.sites, method.state_dict())


def test_what_several_tasks_share_is_stored_once(tmp_path: Path) -> None:
    method = make(consolidate=3, clusters=1, beta=1.0)
    commit(method, make_bank(tmp_path, method), "abc", steps=4)
    assert len({id(record.deltas["0.weight"].local) for record in method.records.values()}) == 1
    found = Bank.open(tmp_path / "bank")
    per_task = found.sizes()["per_task"]
    assert per_task["a"] > 1.1 * per_task["b"]
    assert per_task["b"] == pytest.approx(per_task["c"], rel=0.2)
    for task in "abc":
        assert torch.equal(found.plain(task, base=conv_net())(X), logits(method, task))
    found.remove("a")
    assert found.verify(base=conv_net()).ok
    for task in "bc":
        assert torch.equal(found.plain(task, base=conv_net())(X), logits(method, task))


def test_a_reissued_record_is_proved_as_it_was_learned_and_not_anew(tmp_path: Path) -> None:
    method = make()
    bank = make_bank(tmp_path, method)
    commit(method, bank, "abc")
    entries = {entry["task"]: entry for entry in bank.about["records"]}
    assert [entries[task]["probe"] is None for task in "abc"] == [True, True, False]
    assert [entries[task]["meta"]["revision"] for task in "abc"] == [2, 1, 0]
    found = bank.verify(base=conv_net())
    assert found.ok
    assert "since it was learned (revision 2: follows what 'c' shares)" in str(found)


def test_a_learner_goes_on_from_its_bank_to_the_bit(tmp_path: Path) -> None:
    whole, method = make(consolidate=2), make(consolidate=2)
    learn(whole, "abcd")
    bank = make_bank(tmp_path, method)
    commit(method, bank, "abc")
    again, kept = make(consolidate=2), Bank.open(tmp_path / "bank")
    again.load_state_dict(kept.learner(), {task: kept.record(task) for task in kept.tasks}, held=kept.held())
    learn(again, "d")
    assert all(torch.equal(logits(again, task), logits(whole, task)) for task in "abcd")
    assert again.moved() == whole.moved()


@pytest.mark.parametrize("form", FORMS)
def test_a_task_goes_on_in_its_middle_to_the_bit(form: str) -> None:
    method = learn(make(form=form), "ab")
    train(method, "c", steps=3)
    again = make(form=form)
    again.load_state_dict(method.state_dict(), method.records)
    for one in (method, again):
        one.model.train()
        optimizer = torch.optim.SGD(one.parameters(), lr=0.05)
        for _ in range(2):
            one.on_step(0.5)
            optimizer.zero_grad()
            (F.cross_entropy(one.model(X), torch.arange(16) % 3) + one.penalty()).backward()
            optimizer.step()
        one.end("c")
    assert all(torch.equal(logits(method, task), logits(again, task)) for task in "abc")


def test_a_task_abandoned_after_going_on_gives_back_the_correction_that_was_active() -> None:
    method = learn(make(), "ab", steps=3)
    method.activate("b")
    train(method, "c", steps=1)
    again = make()
    again.load_state_dict(method.state_dict(), method.records)
    for one in (method, again):
        one.abandon()
        with torch.no_grad():
            assert torch.equal(one.model.eval()(X), logits(method, "b"))


def test_capacity_by_both_definitions() -> None:
    method = learn(make(), "ab")
    sigma = sum(method.sites.base(name).numel() for name in method.sites.weights)
    tau = sum(s.index.numel() for record in method.records.values() for s in record.deltas.values())
    gates, head = 2 * (6 + 4 + 8), 8 * 3 + 3
    own = sum(t.numel() for name, t in method.record("b").private.items() if not name.startswith("9."))
    found = method.active()
    assert found["capacity"] == pytest.approx((sigma + tau) / sigma)
    assert found["released"] == pytest.approx((sigma + tau + gates + own + head) / (sigma + own + 2 * head))


def test_capacity_falls_with_the_threshold() -> None:
    found = [learn(make(lambda1=lambda1), "ab", steps=20).active()["capacity"] for lambda1 in (0.0, 1e-3, 4e-3)]
    assert all(a > b >= 1 for a, b in pairwise(found))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"lambda1": -1.0}, "at least 0"),
        ({"lambda1": float("nan")}, "finite lambda1"),
        ({"lambda2": float("inf")}, "finite lambda1"),
        ({"lambda2": 0.0}, "form='fixed' with lambda2=0"),
        ({"lambda2": 0.0, "form": "joint"}, "form='fixed'"),
        ({"bits": 4}, "8, 16 or 32 bits"),
        ({"form": "close"}, "a form of closed, exact, fixed, joint"),
        ({"sparsity": "l1"}, "a sparsity of proximal, subgradient"),
        ({"consolidate": -1}, "0: never"),
        ({"clusters": 0}, "clusters of at least 1"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(wrong: dict[str, Any], words: str) -> None:
    # Where annotations are checked at run time, a word that is not one of a Literal's is refused before.
    with pytest.raises((ValueError, TypeError), match=f"{words}|violates type hint"):
        make(**wrong)


def test_complex_weights_are_refused_where_corrections_are_rounded_or_merged() -> None:
    class Wave(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 6, dtype=torch.complex64)
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x.to(torch.complex64)).abs())

    for wrong in ({"bits": 8}, {"consolidate": 2}):
        with pytest.raises(ValueError, match=r"'inner\.weight', which is complex: leave bits at 32"):
            APD(Wave(), torch.zeros(2, 4), **wrong)
    assert APD(Wave(), torch.zeros(2, 4)).sites.weights.keys() == {"inner.weight"}


@pytest.mark.parametrize("hyper", [{"biases": "masked"}, {"norms": "masked"}], ids=str)
def test_vectors_can_be_decomposed_too(hyper: dict[str, Any]) -> None:
    method = learn(make(**hyper), "ab", steps=2)
    shapes = [mask.shape for mask in method.record("a").masks.values() if len(mask.shape) == 1]
    assert shapes
    assert all(shape != (1,) for shape in shapes)


def test_the_last_task_can_be_removed() -> None:
    method = learn(make(), "a")
    assert method.remove("a").freed == sum(method.sites.tensor(name).numel() for name in method.sites.weights)
    assert not method.records
    learn(method, "a")


def test_one_flipped_byte_of_what_tasks_share_stops_only_these_and_they_can_be_removed(tmp_path: Path) -> None:
    method = make(consolidate=2, clusters=1, beta=1.0)
    bank = make_bank(tmp_path, method)
    commit(method, bank, "abc")
    entry = bank.about["records"][0]
    file = bank.path / f"{entry['deltas']['0.weight']['local']['file']}.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    for task in "ab":
        with pytest.raises(DamagedBank, match=f"task '{task}' shares it with others"):
            Bank.open(bank.path).plain(task, base=conv_net())
    assert torch.equal(Bank.open(bank.path).plain("c", base=conv_net())(X), logits(method, "c"))
    Bank.open(bank.path).remove("a")
    Bank.open(bank.path).remove("b")
    found = Bank.open(bank.path)
    assert found.verify(base=conv_net()).ok
    assert not file.exists()


def test_without_on_step_nothing_would_be_sparse_and_end_says_so() -> None:
    method = make()
    method.begin("a")
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.01)
    with pytest.raises(RuntimeError, match="on_step"):
        method.end("a")


def test_as_a_subgradient_the_penalty_is_in_the_loss() -> None:
    method = make(sparsity="subgradient", lambda1=0.5)
    method.begin("a")
    source = method.sources["0.weight"]
    assert isinstance(source, Corrected)
    with torch.no_grad():
        source.tau.fill_(0.1)
    assert method.penalty().item() == pytest.approx(0.5 * 0.1 * source.tau.numel(), rel=1e-4)
    method.on_step(0.5)
    assert source.tau.min().item() == pytest.approx(0.1)


def test_what_is_anchored_is_held_back_where_the_task_reads_it() -> None:
    """``1 / (1 + 2 anchor)`` of the gradient of ``sigma``, a unit; all of those of its gate and correction."""
    v, anchor = torch.tensor([[0.0], [2.0], [-1.0]]), torch.tensor([[2.0], [0.0], [0.5]])
    own, sigma = Corrected(v, torch.zeros(3, 4), anchor, 0.1, 32), torch.ones(3, 4, requires_grad=True)
    own(sigma).sum().backward()
    assert torch.allclose(sigma.grad, (v.sigmoid() / (1 + 2 * anchor)).expand(3, 4))
    assert torch.allclose(own.scores.grad, 4 * v.sigmoid() * (1 - v.sigmoid()))
    assert torch.equal(own.tau.grad, torch.ones(3, 4))
