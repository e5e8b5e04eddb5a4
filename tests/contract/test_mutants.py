"""Does the contract suite have teeth?  Each mutant breaks one habit of the design; a named test must notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.contract import drive, test_baking, test_forgetting, test_models, test_resume
from tests.contract.conftest import DEFAULT, SMALL, Case
from tests.contract.toys import Anchored, UnitGates
from torch import Tensor, nn

from polymask.held import AlteredNetwork
from polymask.method import checks, guard, learner
from polymask.method.contract import Method
from polymask.methods import HAT, TFM, WSN, ExSSNeT, LinearProbe, PackNet, Piggyback, SupSup
from polymask.parts import binarize
from polymask.parts.pack import unpack
from polymask.sites import marks, roles, slots, table, trace
from polymask.sites.roles import Role
from polymask.sites.trace import Place

Patch = Callable[[pytest.MonkeyPatch], None]
EVERY = frozenset(drive.OPTIMIZERS)
KEPT = frozenset({"kept"})  # reaches what was trainable once
ASKED = frozenset({"adversary"})  # reaches what the user asked a gradient of


def hold_by(hold: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Patch:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (slots, table, marks):
            monkeypatch.setattr(module, "hold", hold)

    return patch


def freeze_by_requires_grad(monkeypatch: pytest.MonkeyPatch) -> None:
    def freeze(place: Place, value: Tensor) -> None:
        with torch.no_grad():
            place.tensor().requires_grad_(False).copy_(value)
        if place.leaf == "running_mean":
            trace._seal(place.module)

    monkeypatch.setattr(Place, "freeze", freeze)


def freeze_in_the_parameters_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Place.freeze
    monkeypatch.setattr(Place, "freeze", lambda place, _: real(place, place.tensor().detach()))


def leave_norms_in_training_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_seal", lambda module: None)


def share_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    real = roles._norm_role
    shared = Role("shared", "a norm's statistics, shared")
    statistic = roles.STATISTICS
    monkeypatch.setattr(
        roles, "_norm_role", lambda place, *rest: shared if place.leaf in statistic else real(place, *rest)
    )


def keep_records_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Anchored, "_reissue", lambda method: {})


@dataclass(frozen=True)
class Mutant:
    """A broken habit, the method that shows it, and the optimizers under which a task is forgotten."""

    name: str
    patch: Patch
    method: type[Method]
    backbone: str
    caught: frozenset[str]


MUTANTS = (
    Mutant("no hold", hold_by(lambda kept, w, gate: w), PackNet, "convnet", EVERY),
    Mutant(
        "a gradient gate alone",
        hold_by(lambda kept, w, gate: torch.where(gate, w, w.detach())),
        PackNet,
        "convnet",
        EVERY - {"sgd"},
    ),
    Mutant("no hold under WSN", hold_by(lambda kept, w, gate: w), WSN, "convnet", EVERY),
    Mutant("no hold under ExSSNeT", hold_by(lambda kept, w, gate: w), ExSSNeT, "convnet", EVERY),
    Mutant("no hold under TFM", hold_by(lambda kept, w, gate: w), TFM, "convnet", EVERY),
    Mutant("no hold under HAT", hold_by(lambda kept, w, gate: w), HAT, "convnet", EVERY),
    Mutant(
        "a gradient gate alone under HAT",
        hold_by(lambda kept, w, gate: torch.where(gate, w, w.detach())),
        HAT,
        "convnet",
        EVERY - {"sgd"},
    ),
    Mutant("requires_grad instead of a buffer", freeze_by_requires_grad, PackNet, "convnet", KEPT | ASKED),
    Mutant("requires_grad from the start", freeze_by_requires_grad, LinearProbe, "mlp_bn", ASKED),
    Mutant("a buffer in the parameter's memory", freeze_in_the_parameters_memory, PackNet, "convnet", KEPT),
    Mutant("a norm left in training mode", leave_norms_in_training_mode, Piggyback, "mlp_bn", EVERY),
    Mutant("a norm left in training mode after task 1", leave_norms_in_training_mode, PackNet, "mlp_bn", EVERY),
    Mutant("statistics not private", share_statistics, SupSup, "mlp_bn", EVERY),
    Mutant("records not reissued", keep_records_as_they_were, Anchored, "convnet", EVERY),
)


def without_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would notice first, and nothing would be known of the suite's own eyes."""
    monkeypatch.setattr(guard, "enforce", lambda *_, **__: None)
    monkeypatch.setattr(guard, "same", lambda *_: True)
    monkeypatch.setattr(checks, "refuse_detached", lambda *_: None)


def trial(mutant: Mutant, optimizer: str) -> Any:
    """By default a mutant that every optimizer shows is shown by the simplest and by the worst."""
    often = mutant.caught != EVERY or optimizer in ("sgd", "adversary")
    return pytest.param(mutant, optimizer, id=f"{mutant.name}-{optimizer}", marks=() if often else pytest.mark.full)


@pytest.mark.parametrize(
    ("mutant", "optimizer"), [trial(mutant, name) for mutant in MUTANTS for name in drive.OPTIMIZERS]
)
def test_no_task_is_forgotten_notices(mutant: Mutant, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(mutant.method, mutant.backbone, optimizer)
    mutant.patch(monkeypatch)
    without_the_guard(monkeypatch)
    if optimizer not in mutant.caught:
        test_forgetting.test_no_task_is_forgotten(case)  # which is why the suite has more than one optimizer
        return
    with pytest.raises(AssertionError, match=r"not bit-equal|drifts beyond"):
        test_forgetting.test_no_task_is_forgotten(case)


@pytest.mark.parametrize(
    "mutant", [one for one in MUTANTS if one.method.card.exact is True], ids=lambda mutant: mutant.name
)
def test_the_guard_notices(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a user's own run, where no test compares logits, a broken habit must not pass either."""
    optimizer = "adversary" if "adversary" in mutant.caught else "kept"
    case = Case(mutant.method, mutant.backbone, optimizer)
    test_forgetting.test_no_task_is_forgotten(case)
    mutant.patch(monkeypatch)
    with pytest.raises((AlteredNetwork, ValueError), match=r"would answer otherwise|to stay frozen"):
        test_forgetting.test_no_task_is_forgotten(case)


def drop_scores_from_state_dict(monkeypatch: pytest.MonkeyPatch) -> None:
    own, back = marks.own_keys, marks.from_own_keys

    def without(module: nn.Module, state: dict[str, Any], prefix: str, meta: Any) -> None:
        own(module, state, prefix, meta)
        for key in [key for key in state if key.endswith(".scores")]:
            del state[key]

    def as_they_are(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        back(module, state, prefix, *rest)
        for name, scores in module.named_parameters():
            if name.endswith(".scores"):
                state[prefix + name] = scores.detach().clone()

    for module in (marks, trace):
        monkeypatch.setattr(module, "own_keys", without)
        monkeypatch.setattr(module, "from_own_keys", as_they_are)


def drop_scores_from_learner_state(monkeypatch: pytest.MonkeyPatch) -> None:
    real = learner.learner_state

    def without(method: Method) -> dict[str, Any]:
        state = real(method)
        return {**state, "slots": {k: {s: t for s, t in v.items() if s != "scores"} for k, v in state["slots"].items()}}

    monkeypatch.setattr(learner, "learner_state", without)


@pytest.mark.parametrize(
    ("patch", "check"),
    [
        (drop_scores_from_state_dict, test_models.test_state_dict_has_the_models_own_keys_and_scores),
        (drop_scores_from_learner_state, test_resume.test_going_on_inside_a_phase_is_never_having_stopped),
    ],
)
@pytest.mark.parametrize("method", [Piggyback, SupSup, UnitGates])
def test_scores_left_out_of_a_snapshot_are_noticed(
    patch: Patch, check: Callable[[Case], None], method: type[Method], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(method, SMALL, DEFAULT)
    check(case)
    patch(monkeypatch)
    with pytest.raises(AssertionError):
        check(case)


@pytest.mark.parametrize("optimizer", list(drive.OPTIMIZERS))
def test_a_wider_matrix_read_whole_is_noticed(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a block leaves out must be cut off, or a task meets columns that it has no inputs for."""
    case = Case(TFM, "convnet", optimizer)
    monkeypatch.setattr(binarize, "leading", lambda w, mask: w)
    with pytest.raises(RuntimeError, match="must match"):
        test_forgetting.test_no_task_is_forgotten(case)


def check_unread_entries_may_be_anything(case: Case) -> None:
    """A task answers as it did when all that it does not read becomes infinite."""
    method, tasks = case.make()
    drive.learn(method, tasks[:2], case.user())
    before = drive.logits(method, "a")
    for name, site in method.sites.weights.items():
        base = method.sites.base(name)
        assert not site.mask.all()
        method.sites.write(name, torch.where(site.mask, base, torch.inf))
    assert torch.equal(drive.logits(method, "a"), before)


@pytest.mark.parametrize("method", [PackNet, Piggyback, SupSup, WSN, ExSSNeT])
def test_a_multiplied_bool_mask_is_noticed(method: type[Method], monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(method, "convnet", "adamw")
    check_unread_entries_may_be_anything(case)
    monkeypatch.setattr(slots, "select", lambda w, mask: w * mask)
    with pytest.raises(AssertionError):
        check_unread_entries_may_be_anything(case)


@pytest.mark.parametrize("method", [Piggyback, SupSup, UnitGates])
def test_the_default_optimizer_moves_masks(method: type[Method]) -> None:
    """Under masks that all tasks share, most of the contract would hold by itself."""
    case = Case(method, SMALL, DEFAULT)
    learner, tasks = case.make()
    records = drive.learn(learner, tasks[:2], case.user())
    for name, packed in records["a"].masks.items():
        assert not unpack(packed).all()
        assert not torch.equal(packed.payload, records["b"].masks[name].payload)


def test_units_forgotten_by_bake_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(UnitGates, "convnet", "adamw")
    test_baking.test_bake_is_activate(case)
    without_the_guard(monkeypatch)
    monkeypatch.setattr(trace, "_value", lambda module, leaf, read: getattr(module, leaf))
    with pytest.raises(AssertionError):
        test_baking.test_bake_is_activate(case)


def test_a_gradient_gate_lets_packnet_drift_as_far_as_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    hold_by(lambda kept, w, gate: torch.where(gate, w, w.detach()))(monkeypatch)
    without_the_guard(monkeypatch)
    drifts = {}
    for name, optimizer in drive.OPTIMIZERS.items():
        method, tasks = drive.make(PackNet, "convnet")
        before = test_forgetting.learn_all(method, tasks, optimizer())
        drifts[name] = max(float((drive.logits(method, one) - was).abs().max()) for one, was in before.items())
    assert drifts["sgd"] == 0
    assert min(drifts[name] for name in ("sgd_momentum_decay", "adamw", "kept", "adversary")) > 1e-3, drifts
